// Times steps on request, for compare_latency.py: reads numbers of steps from standard input and
// answers each with the median milliseconds of so many.
//
//   latency model.int8.onnx height width threads
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "common.h"
#include "spikedeploy/spikedeploy.h"

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: latency model.int8.onnx height width threads\n");
    return 2;
  }
  try {
    spikedeploy::Options options;
    options.threads = std::atoi(arguments[4]);
    const spikedeploy::Session session(arguments[1], options);
    spikedeploy::Stream stream(session, {std::atoi(arguments[2]), std::atoi(arguments[3])});
    spikedeploy::EventAccumulator<std::uint8_t> events(stream.resolution());
    std::minstd_rand random;
    for (std::size_t i = 0; i < events.size(); ++i) events.data()[i] = random() % 16 == 0;
    int steps = 0;
    while (std::scanf("%d", &steps) == 1 && steps > 0) {
      std::vector<double> milliseconds;
      for (int i = 0; i < steps; ++i) {
        const auto start = std::chrono::steady_clock::now();
        stream.Step(events);
        milliseconds.push_back(
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
                .count());
      }
      std::printf("%.6f\n", Percentile(milliseconds, 0.5));
      std::fflush(stdout);
    }
  } catch (const spikedeploy::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
