// Counts of windows of events, for a comparison with Python's.
//
//   runtime_accumulate height width max_pixels min_observations max_rate < windows > counts
//
// Each window: int32 number of events, then so many triples of int32 x, y, p. Each answer: uint8
// counts [2, H, W] after the hot-pixel filter, which sees every window.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "spikedeploy/events.h"

int main(int count, char** arguments) {
  if (count != 6) return 2;
  const spikedeploy::Resolution size{std::atoi(arguments[1]), std::atoi(arguments[2])};
  spikedeploy::HotPixelFilter::Options options;
  options.max_pixels = static_cast<std::size_t>(std::atoi(arguments[3]));
  options.min_observations = std::atoi(arguments[4]);
  options.max_rate = std::atof(arguments[5]);
  spikedeploy::HotPixelFilter hot(size, options);
  spikedeploy::EventAccumulator<std::uint8_t> events(size);
  std::int32_t number = 0;
  while (std::fread(&number, sizeof number, 1, stdin) == 1) {
    std::vector<std::int32_t> values(3 * static_cast<std::size_t>(number));
    if (std::fread(values.data(), sizeof(std::int32_t), values.size(), stdin) != values.size()) {
      return 1;
    }
    events.Clear();
    for (std::size_t i = 0; i < values.size(); i += 3) {
      events.Add(values[i], values[i + 1], values[i + 2] > 0);
    }
    hot.Apply(events);
    std::fwrite(events.data(), 1, events.size(), stdout);
  }
  return 0;
}
