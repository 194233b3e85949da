// Accumulator and hot-pixel filter; their equality with Python's is tested by test_cpp.py.
#include "spikedeploy/events.h"

#include "expect.h"

namespace {

using spikedeploy::EventAccumulator;
using spikedeploy::HotPixelFilter;
using spikedeploy::kCountLimit;
using spikedeploy::Resolution;

void TestPlaces() {
  EventAccumulator<std::uint8_t> events({3, 5});
  EXPECT(events.size() == 30);
  EXPECT(events.Add(4, 2, true));
  EXPECT(events.Add(0, 1, false));
  EXPECT(events.data()[2 * 5 + 4] == 1);
  EXPECT(events.data()[15 + 1 * 5] == 1);
  for (const auto& [x, y] : {std::pair<int, int>{5, 0}, {-1, 0}, {0, 3}, {0, -1}}) {
    EXPECT(!events.Add(x, y, true));
  }
  EXPECT(events.added() == 2 && events.dropped() == 4);
  events.Clear();
  int sum = 0;
  for (std::size_t i = 0; i < events.size(); ++i) sum += events.data()[i];
  EXPECT(sum == 0 && events.added() == 0 && events.dropped() == 0);
}

void TestSaturation() {
  EventAccumulator<std::uint8_t> bytes({1, 1});
  EventAccumulator<float> floats({1, 1});
  for (int i = 0; i < 300; ++i) {
    bytes.Add(0, 0, true);
    floats.Add(0, 0, true);
  }
  EXPECT(bytes.data()[0] == kCountLimit);
  EXPECT(floats.data()[0] == 300.0F);
}

void TestHotPixels() {
  const Resolution size{2, 3};
  HotPixelFilter::Options options;
  options.max_pixels = 1;
  options.min_observations = 2;
  HotPixelFilter filter(size, options);
  EventAccumulator<std::uint8_t> events(size);
  for (int window = 0; window < 4; ++window) {
    events.Clear();
    events.Add(1, 0, true);   // always active
    events.Add(2, 1, false);  // as active, but later in the image
    const std::size_t blanked = filter.Apply(events);
    EXPECT(blanked == (window < 2 ? 0U : 1U));
    EXPECT(events.data()[1] == (window < 2 ? 1 : 0));
    EXPECT(events.data()[6 + 5] == 1);
  }
  filter.Reset();
  events.Clear();
  events.Add(1, 0, true);
  EXPECT(filter.Apply(events) == 0);
  EventAccumulator<std::uint8_t> other({4, 4});
  EXPECT(filter.Apply(other) == 0);
}

}  // namespace

int main() {
  TestPlaces();
  TestSaturation();
  TestHotPixels();
  return Failures() == 0 ? 0 : 1;
}
