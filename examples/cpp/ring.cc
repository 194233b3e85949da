// A camera thread fills a ring buffer at a fixed rate; the main thread takes windows out, steps the
// network and counts deadlines it misses.
//
//   ring model.int8.onnx [windows] [window in ms] [events per window]
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "common.h"
#include "spikedeploy/spikedeploy.h"

namespace {

using Clock = std::chrono::steady_clock;
using spikedeploy::Event;

// One thread pushes, one pops, and neither waits for the other or allocates.
class Ring {
 public:
  explicit Ring(std::size_t capacity) : events_(capacity) {}

  bool Push(const Event& event) {
    const std::size_t end = end_.load(std::memory_order_relaxed);
    if (end - begin_.load(std::memory_order_acquire) == events_.size()) return false;
    events_[end % events_.size()] = event;
    end_.store(end + 1, std::memory_order_release);
    return true;
  }

  // The oldest event, if it is from before `until`.
  bool PopBefore(double until, Event* event) {
    const std::size_t begin = begin_.load(std::memory_order_relaxed);
    if (begin == end_.load(std::memory_order_acquire)) return false;
    *event = events_[begin % events_.size()];
    if (event->t >= until) return false;
    begin_.store(begin + 1, std::memory_order_release);
    return true;
  }

 private:
  std::vector<Event> events_;
  std::atomic<std::size_t> begin_{0};
  std::atomic<std::size_t> end_{0};
};

// Stands in for a camera: a bar that moves to the right, and noise.
class Camera {
 public:
  Camera(spikedeploy::Resolution size, double rate) : size_(size), rate_(rate) {}

  // Push what happened until t; false where the ring was full.
  bool Advance(double t, Ring* ring) {
    bool kept = true;
    for (; now_ < t; now_ += 1 / rate_) {
      const auto width = static_cast<unsigned>(size_.width);
      const bool noise = random_() % 8 == 0;
      const unsigned bar = static_cast<unsigned>(now_ * 60) % width;
      Event event;
      event.t = now_;
      event.x = static_cast<std::uint16_t>(noise ? random_() % width : bar);
      event.y = static_cast<std::uint16_t>(random_() % static_cast<unsigned>(size_.height));
      event.brighter = random_() % 2 == 0;
      kept = ring->Push(event) && kept;
    }
    return kept;
  }

 private:
  spikedeploy::Resolution size_;
  double rate_;
  double now_ = 0;
  std::minstd_rand random_;
};

// Ends the camera however the main thread leaves.
class CameraThread {
 public:
  CameraThread(Camera camera, Clock::time_point start, Ring* ring)
      : thread_([this, camera, start, ring]() mutable {
          while (!stop_) {
            const double t = std::chrono::duration<double>(Clock::now() - start).count();
            if (!camera.Advance(t, ring)) ++overruns_;
            std::this_thread::sleep_for(std::chrono::microseconds(500));
          }
        }) {}
  ~CameraThread() {
    stop_ = true;
    thread_.join();
  }

  int overruns() const { return overruns_; }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<int> overruns_{0};
  std::thread thread_;
};

int Run(const char* path, int windows, double window, int per_window) {
  const spikedeploy::Session session(path);
  if (session.artifact().events != spikedeploy::ElementType::kUint8) {
    throw spikedeploy::Error(
        {spikedeploy::Code::kUnsupported, "this example wants an artifact that takes bytes"});
  }
  spikedeploy::Stream stream(session);
  spikedeploy::EventAccumulator<std::uint8_t> events(stream.resolution());
  Ring ring(static_cast<std::size_t>(per_window) * 8);
  const Clock::time_point start = Clock::now();
  const CameraThread camera(Camera(stream.resolution(), per_window / window), start, &ring);
  int missed = 0;
  std::int64_t taken = 0;
  std::vector<double> lateness;
  for (int i = 1; i <= windows; ++i) {
    const auto at = [&](double periods) {
      return start + std::chrono::duration_cast<Clock::duration>(
                         std::chrono::duration<double>(periods * window));
    };
    std::this_thread::sleep_until(at(i) + std::chrono::milliseconds(1));
    events.Clear();
    Event event;
    while (ring.PopBefore(i * window, &event)) events.Add(event);
    taken += events.added();
    stream.Step(events);
    const auto ready = Clock::now();
    missed += ready > at(i + 1);  // the next window is due: this flow came too late
    lateness.push_back(std::chrono::duration<double, std::milli>(ready - at(i)).count());
  }
  std::printf("%d windows of %.1f ms, %lld events, ring full %d times\n", windows, window * 1e3,
              static_cast<long long>(taken), camera.overruns());
  std::printf("deadlines missed: %d; flow ready after a window: median %.2f ms, most %.2f ms\n",
              missed, Percentile(lateness, 0.5), Percentile(lateness, 1.0));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const int windows = count > 2 ? std::atoi(arguments[2]) : 100;
  const double window = (count > 3 ? std::atof(arguments[3]) : 20) / 1000;
  const int per_window = count > 4 ? std::atoi(arguments[4]) : 4000;
  if (count < 2 || count > 5 || windows < 1 || !(window > 0) || per_window < 1) {
    std::fprintf(stderr,
                 "usage: ring model.int8.onnx [windows] [window in ms] [events per window]\n");
    return 2;
  }
  try {
    return Run(arguments[1], windows, window, per_window);
  } catch (const spikedeploy::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
