// Drive an artifact over a recording: flow and latency.
//
//   drive model.int8.onnx events.txt [window in ms]
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "common.h"
#include "spikedeploy/spikedeploy.h"

namespace {

using spikedeploy::Event;
using spikedeploy::EventAccumulator;
using spikedeploy::FlowView;
using spikedeploy::Session;
using spikedeploy::Stream;

// Mean flow, pixels per window, of the pixels with events.
template <class Count>
void PrintFlow(double t, const EventAccumulator<Count>& events, const FlowView& flow) {
  const int width = flow.resolution.width;
  double x = 0;
  double y = 0;
  int active = 0;
  for (int row = 0; row < flow.resolution.height; ++row) {
    for (int column = 0; column < width; ++column) {
      const auto pixel = static_cast<std::size_t>(row * width + column);
      if (events.data()[pixel] + events.data()[pixel + flow.resolution.pixels()] == 0) continue;
      x += flow.x(row, column);
      y += flow.y(row, column);
      ++active;
    }
  }
  const double scale = active == 0 ? 0.0 : static_cast<double>(flow.scaling) / active;
  std::printf("%10.4f s  %7lld events  %6d pixels  flow %+7.3f %+7.3f\n", t,
              static_cast<long long>(events.added()), active, x * scale, y * scale);
}

template <class Count>
void Drive(const Session& session, const std::vector<Event>& recording, double window) {
  Stream stream(session);
  EventAccumulator<Count> events(stream.resolution());
  spikedeploy::HotPixelFilter hot(stream.resolution());
  std::vector<double> milliseconds;
  const double start_time = recording.front().t;
  for (std::size_t next = 0, number = 1; next < recording.size(); ++number) {
    const double end = start_time + static_cast<double>(number) * window;
    events.Clear();
    while (next < recording.size() && recording[next].t < end) events.Add(recording[next++]);
    hot.Apply(events);
    const auto start = std::chrono::steady_clock::now();
    const FlowView flow = stream.Step(events);
    milliseconds.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
            .count());
    PrintFlow(end, events, flow);
  }
  std::printf("%zu steps of %d x %d, native kernels: %s\n", milliseconds.size(),
              stream.resolution().height, stream.resolution().width,
              session.native() ? "yes" : "no");
  std::printf("ms per step: median %.3f, 95 %% %.3f, most %.3f\n", Percentile(milliseconds, 0.5),
              Percentile(milliseconds, 0.95), Percentile(milliseconds, 1.0));
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3 || count > 4) {
    std::fprintf(stderr, "usage: drive model.onnx events.txt [window in ms]\n");
    return 2;
  }
  try {
    const double window = count == 4 ? std::atof(arguments[3]) / 1000 : 1.0 / 30;
    if (!(window > 0)) {
      throw spikedeploy::Error({spikedeploy::Code::kInvalidArgument,
                                std::string(arguments[3]) + ": not a window in milliseconds"});
    }
    const Session session(arguments[1]);
    if (session.artifact().encoding != "cnt") {
      throw spikedeploy::Error(
          {spikedeploy::Code::kUnsupported, "this example encodes counts, not voxel grids"});
    }
    const std::vector<Event> recording = ReadEvents(arguments[2]);
    if (session.artifact().events == spikedeploy::ElementType::kUint8) {
      Drive<std::uint8_t>(session, recording, window);
    } else {
      Drive<float>(session, recording, window);
    }
  } catch (const spikedeploy::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
