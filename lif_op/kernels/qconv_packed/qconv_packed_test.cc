// Convolution of packed spikes: every target against the scalar convolution of bytes, which its own
// test compares with the definition. Tensors lie against forbidden pages.
#include "lif_op/qconv_packed.h"

#include <limits>
#include <string>
#include <vector>

#include "kernels/guarded.h"
#include "kernels/testing.h"

namespace lif_op {
namespace {

using testing::Guard;
using testing::Guarded;
using testing::InParts;
using testing::Random;

struct Case {
  const char* name;
  std::int64_t batch, in_channels, out_channels, height, width;
  std::int64_t kernel_height = 1, kernel_width = 1, stride = 1, pad = 0;
  int spike_percent = 30;
  std::int32_t bias_limit = 500;
  bool spoiled_words = false;  // bits beyond the last channel are set
};

const Case kCases[] = {
    {"flow head", 1, 32, 2, 9, 70},
    {"flow head w1", 2, 32, 2, 5, 1},
    {"flow head full", 1, 32, 2, 6, 33, 1, 1, 1, 0, 100},
    {"flow head silent", 1, 32, 2, 6, 33, 1, 1, 1, 0, 0},
    {"1 output", 1, 32, 1, 6, 33},
    {"5 outputs", 1, 32, 5, 6, 33},
    {"16 channels", 1, 16, 2, 6, 33},
    {"1 channel", 2, 1, 3, 6, 33},
    {"33 channels", 1, 33, 2, 6, 33, 1, 1, 1, 0, 30, 500, true},
    {"100 channels", 2, 100, 4, 4, 17, 3, 3, 1, 1, 50, 500, true},
    {"3x3", 1, 32, 8, 7, 20, 3, 3, 1, 1},
    {"5x2", 1, 8, 3, 7, 20, 5, 2, 1, 2},
    {"stride 2", 1, 32, 4, 9, 21, 3, 3, 2, 1},
    {"wide pad", 1, 32, 2, 3, 4, 3, 3, 1, 4},
    {"kernel beyond the input", 1, 32, 2, 2, 2, 5, 5, 1, 2},
    {"bias wraps", 1, 64, 2, 4, 9, 3, 3, 1, 1, 90, std::numeric_limits<std::int32_t>::max()},
    {"empty batch", 0, 32, 2, 4, 9},
};

std::size_t Size(std::int64_t count) { return static_cast<std::size_t>(count); }

void CheckCase(const Case& c, std::uint64_t seed) {
  Random random(seed);
  const std::int64_t plane = c.height * c.width;
  const std::int64_t words = WordsFor(c.in_channels);
  const QconvShape s{c.batch,
                     c.in_channels,
                     c.height,
                     c.width,
                     c.out_channels,
                     (c.height + 2 * c.pad - c.kernel_height) / c.stride + 1,
                     (c.width + 2 * c.pad - c.kernel_width) / c.stride + 1,
                     c.kernel_height,
                     c.kernel_width,
                     c.stride,
                     c.stride,
                     c.pad,
                     c.pad};
  const auto weight = random.Vector<std::int8_t>(
      c.out_channels * c.in_channels * c.kernel_height * c.kernel_width, -128, 127);
  const auto bias = random.Vector<std::int32_t>(c.out_channels, -c.bias_limit, c.bias_limit);
  std::vector<std::uint8_t> bytes(Size(c.batch * c.in_channels * plane));
  for (std::uint8_t& byte : bytes) byte = random.Int(0, 99) < c.spike_percent;
  std::vector<std::uint32_t> packed(Size(c.batch * plane * words));
  PackSpikes({c.batch, c.in_channels, c.height, c.width}, bytes.data(), packed.data(),
             {0, c.batch * c.height});
  if (c.spoiled_words) {
    for (std::size_t i = Size(words) - 1; i < packed.size(); i += Size(words)) {
      packed[i] |= ~0u << (c.in_channels % kWordBits);
    }
  }
  const std::int64_t rows = c.batch * s.out_height;
  std::vector<std::int32_t> expected(Size(rows * c.out_channels * s.out_width));
  const QconvKernel& reference = QconvFor(Target::kScalar);
  std::vector<std::uint8_t> reference_weight(reference.weight_bytes(s));
  reference.pack_weight(s, weight.data(), reference_weight.data());
  reference.compute(
      {s, bytes.data(), reference_weight.data(), bias.data(), expected.data(), nullptr}, {0, rows});
  for (const Target target : SupportedTargets()) {
    for (const Guard guard : {Guard::kBehind, Guard::kBefore}) {
      const QconvPackedKernel& kernel = QconvPackedFor(target);
      const Guarded<std::uint32_t> x(packed, guard);
      const Guarded<std::int32_t> guarded_bias(bias, guard);
      const Guarded<std::int32_t> acc(expected.size(), guard);
      const Guarded<std::uint8_t> tables(kernel.weight_bytes(s), guard, kQconvAlignment);
      kernel.pack_weight(s, weight.data(), tables.data());
      const QconvPackedArgs args{s, x.data(), tables.data(), guarded_bias.data(), acc.data()};
      InParts(rows, 3, [&](Range range) { kernel.compute(args, range); });
      CHECK(acc.Values() == expected, std::string(TargetName(target)) + ", " + c.name);
    }
  }
}

}  // namespace
}  // namespace lif_op

int main() {
  std::uint64_t seed = 0;
  for (const lif_op::Case& c : lif_op::kCases) lif_op::CheckCase(c, ++seed);
  return lif_op::testing::Report("qconv_packed_test");
}
