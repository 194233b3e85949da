// Packing and unpacking against their definition, bit by bit, with tensors against forbidden pages.
#include "lif_op/spikes.h"

#include <string>
#include <vector>

#include "kernels/guarded.h"
#include "kernels/testing.h"

namespace lif_op {
namespace {

using testing::Guard;
using testing::Guarded;
using testing::InParts;

std::size_t Size(std::int64_t count) { return static_cast<std::size_t>(count); }

// The words of the definition: sums of the bytes of 32 channels, each times its bit's value.
std::vector<std::uint32_t> Words(const SpikeShape& s, const std::vector<std::uint8_t>& spikes) {
  const std::int64_t plane = s.height * s.width;
  const std::int64_t words = WordsFor(s.channels);
  std::vector<std::uint32_t> packed(Size(s.batch * plane * words));
  for (std::int64_t n = 0; n < s.batch; ++n) {
    for (std::int64_t c = 0; c < s.channels; ++c) {
      for (std::int64_t p = 0; p < plane; ++p) {
        const std::uint32_t byte = spikes[Size((n * s.channels + c) * plane + p)];
        packed[Size((n * plane + p) * words + c / kWordBits)] += byte << (c % kWordBits);
      }
    }
  }
  return packed;
}

void CheckShape(const SpikeShape& s, int highest, Guard guard) {
  testing::Random random(static_cast<std::uint64_t>(s.channels * 1000 + s.width));
  const std::int64_t count = s.batch * s.channels * s.height * s.width;
  const auto values = random.Vector<std::uint8_t>(count, 0, highest);
  const auto expected = Words(s, values);
  const std::string where =
      std::to_string(s.channels) + " channels, " + std::to_string(s.width) + " wide";
  const Guarded<std::uint8_t> spikes(values, guard);
  const Guarded<std::uint32_t> packed(expected.size(), guard);
  InParts(s.batch * s.height, 3,
          [&](Range rows) { PackSpikes(s, spikes.data(), packed.data(), rows); });
  CHECK(packed.Values() == expected, where);
  if (highest > 1) return;
  const Guarded<std::uint8_t> back(values.size(), guard);
  InParts(s.batch * s.height, 3,
          [&](Range rows) { UnpackSpikes(s, packed.data(), back.data(), rows); });
  CHECK(back.Values() == values, where);
}

// Bits beyond the last channel mean nothing.
void TestUnusedBits() {
  const SpikeShape shape{1, 33, 1, 2};
  const std::vector<std::uint32_t> packed = {5u, ~0u, 0u, ~1u};
  std::vector<std::uint8_t> spikes(66);
  UnpackSpikes(shape, packed.data(), spikes.data(), {0, 1});
  CHECK(spikes[0] == 1 && spikes[2] == 0 && spikes[4] == 1, "first pixel");
  CHECK(spikes[64] == 1 && spikes[65] == 0, "channel 32");
}

}  // namespace
}  // namespace lif_op

int main() {
  using namespace lif_op;
  for (const std::int64_t channels : {1, 5, 31, 32, 33, 64, 70}) {
    for (const std::int64_t width : {1, 63, 64, 65, 150}) {
      CheckShape({2, channels, 3, width}, 1, Guard::kBehind);
      CheckShape({1, channels, 2, width}, 255, Guard::kBefore);
    }
  }
  CheckShape({0, 32, 4, 4}, 1, Guard::kBehind);
  CheckShape({1, 0, 4, 4}, 1, Guard::kBehind);
  TestUnusedBits();
  return testing::Report("spikes_test");
}
