// The event accumulator and the hot-pixel filter against the plainest code that does the same.
#include <algorithm>
#include <map>
#include <utility>

#include "fuzz/input.h"
#include "spikedeploy/events.h"

namespace {

using fuzz::Demand;
using fuzz::Input;
using fuzz::Size;
using spikedeploy::Resolution;

// Counts per polarity (0 brighter) and pixel, of events inside the image.
using Counts = std::map<std::pair<int, int>, std::int64_t>;

// Which pixels a filter blanks: seen in more than `max_rate` of the windows, the most active first.
std::vector<int> Hot(const std::vector<std::int64_t>& active, std::int64_t windows,
                     const spikedeploy::HotPixelFilter::Options& options) {
  std::vector<int> hot;
  if (windows <= options.min_observations) return hot;
  for (std::size_t i = 0; i < active.size(); ++i) {
    const double rate = static_cast<double>(active[i]) / static_cast<double>(windows);
    if (rate > options.max_rate) hot.push_back(static_cast<int>(i));
  }
  std::stable_sort(hot.begin(), hot.end(),
                   [&](int a, int b) { return active[Size(a)] > active[Size(b)]; });
  hot.resize(std::min(hot.size(), options.max_pixels));
  return hot;
}

int Coordinate(Input& input, int size) {
  const std::uint8_t kind = input.Take<std::uint8_t>();
  if (kind < 245) return size == 0 ? kind : kind % size;
  return kind < 250 ? size : input.Take<std::int32_t>();
}

template <class Count>
void Check(Input& input) {
  const Resolution resolution{static_cast<int>(input.Int(0, 6)), static_cast<int>(input.Int(0, 6))};
  spikedeploy::HotPixelFilter::Options options;
  options.max_pixels = Size(input.Int(0, 5));
  options.min_observations = static_cast<int>(input.Int(0, 5));
  options.max_rate = static_cast<double>(input.Int(0, 10)) / 10;
  spikedeploy::EventAccumulator<Count> events(resolution);
  spikedeploy::HotPixelFilter filter(resolution, options);
  const int pixels = static_cast<int>(resolution.pixels());
  std::vector<std::int64_t> active(resolution.pixels());
  std::int64_t windows = 0;
  while (input.left() > 0) {
    Counts counts;
    std::int64_t added = 0, dropped = 0;
    const std::int64_t number = input.Int(0, 20), times = input.Flag() ? 1 : input.Int(1, 200);
    for (std::int64_t i = 0; i < number; ++i) {
      const int x = Coordinate(input, resolution.width), y = Coordinate(input, resolution.height);
      const bool brighter = input.Flag();
      const bool inside = x >= 0 && y >= 0 && x < resolution.width && y < resolution.height;
      for (std::int64_t repeat = 0; repeat < times; ++repeat) {
        Demand(events.Add(x, y, brighter) == inside, "an event is taken that lies outside");
      }
      (inside ? added : dropped) += times;
      if (inside) counts[{brighter ? 0 : 1, y * resolution.width + x}] += times;
    }
    Demand(events.added() == added && events.dropped() == dropped, "events are miscounted");
    for (int i = 0; i < pixels; ++i) {
      active[Size(i)] += counts.count({0, i}) + counts.count({1, i}) > 0;
    }
    ++windows;
    const std::vector<int> hot = Hot(active, windows, options);
    Demand(filter.Apply(events) == hot.size(), "another number of hot pixels");
    for (const int i : hot) counts.erase({0, i}), counts.erase({1, i});
    for (int i = 0; i < 2 * pixels; ++i) {
      const auto found = counts.find({i / pixels, i % pixels});
      std::int64_t expected = found == counts.end() ? 0 : found->second;
      if (sizeof(Count) == 1) expected = std::min<std::int64_t>(expected, spikedeploy::kCountLimit);
      Demand(events.data()[i] == static_cast<Count>(expected), "a count differs");
    }
    events.Clear();
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  if (input.Flag()) {
    Check<float>(input);
  } else {
    Check<std::uint8_t>(input);
  }
  return 0;
}
