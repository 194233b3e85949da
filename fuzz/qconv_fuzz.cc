// The integer convolution, of bytes and of packed spikes: any small shape, stride, pad and values;
// every target against the sum spelled out.
#include <stdexcept>

#include "fuzz/aligned.h"
#include "fuzz/input.h"
#include "lif_op/check.h"
#include "lif_op/qconv.h"
#include "lif_op/qconv_packed.h"

namespace {

using fuzz::Demand;
using fuzz::Input;
using fuzz::Size;
using lif_op::Dims;
using lif_op::QconvShape;
using lif_op::Target;

struct Case {
  QconvShape shape{};
  std::int64_t cut = 0;  // output rows are computed in two pieces, the second one first
  std::vector<std::int8_t> weight;
  std::vector<std::int32_t> bias;
  std::vector<std::uint8_t> x;
};

// False where the kernel does not fit into the padded image.
bool Read(Input& input, Case* c) {
  const std::int64_t channels = input.Flag() ? input.Int(0, 6) : input.Int(0, 70);
  const Dims x = {input.Int(0, 2), channels, input.Int(1, 9), input.Int(1, 40)};
  const Dims weight = {input.Int(0, 40), channels, input.Int(1, 5), input.Int(1, 5)};
  const Dims strides = {input.Int(1, 3), input.Int(1, 3)};
  const Dims pads = {input.Int(0, 6), input.Int(0, 6), input.Int(0, 6), input.Int(0, 6)};
  const auto work = x[2] * x[3] * channels * weight[0] * weight[2] * weight[3];
  if (work > 300000) return false;  // many small executions find more than a few large ones
  try {
    c->shape = lif_op::CheckQconv(x, weight, {weight[0]}, strides, pads);
  } catch (const std::invalid_argument&) {
    return false;
  }
  c->cut = x[0] * c->shape.out_height * input.Int(0, 255) / 255;
  c->weight = input.Vector<std::int8_t>(weight[0] * weight[1] * weight[2] * weight[3]);
  c->bias = input.Vector<std::int32_t>(weight[0]);
  c->x = input.Vector<std::uint8_t>(x[0] * x[1] * x[2] * x[3]);
  return true;
}

// One output. Wraps around, like the kernels.
std::int32_t Sum(const Case& c, std::int64_t n, std::int64_t o, std::int64_t row,
                 std::int64_t column) {
  const QconvShape& s = c.shape;
  auto sum = static_cast<std::uint32_t>(c.bias[Size(o)]);
  for (std::int64_t i = 0; i < s.in_channels; ++i) {
    for (std::int64_t u = 0; u < s.kernel_height; ++u) {
      const std::int64_t y = row * s.stride_height + u - s.pad_top;
      if (y < 0 || y >= s.in_height) continue;
      for (std::int64_t v = 0; v < s.kernel_width; ++v) {
        const std::int64_t x = column * s.stride_width + v - s.pad_left;
        if (x < 0 || x >= s.in_width) continue;
        const std::int64_t at = ((n * s.in_channels + i) * s.in_height + y) * s.in_width + x;
        const std::int64_t w = ((o * s.in_channels + i) * s.kernel_height + u) * s.kernel_width + v;
        sum += static_cast<std::uint32_t>(c.weight[Size(w)] * c.x[Size(at)]);
      }
    }
  }
  return static_cast<std::int32_t>(sum);
}

std::vector<std::int32_t> Definition(const Case& c) {
  const QconvShape& s = c.shape;
  std::vector<std::int32_t> acc;
  for (std::int64_t n = 0; n < s.batch; ++n) {
    for (std::int64_t o = 0; o < s.out_channels; ++o) {
      for (std::int64_t row = 0; row < s.out_height; ++row) {
        for (std::int64_t column = 0; column < s.out_width; ++column) {
          acc.push_back(Sum(c, n, o, row, column));
        }
      }
    }
  }
  return acc;
}

std::vector<std::int32_t> Run(Target target, const Case& c, std::size_t count) {
  const lif_op::QconvKernel& kernel = lif_op::QconvFor(target);
  const fuzz::Aligned weight(kernel.weight_bytes(c.shape));
  const fuzz::Aligned scratch(kernel.scratch_bytes(c.shape));
  kernel.pack_weight(c.shape, c.weight.data(), weight.data());
  std::vector<std::int32_t> acc(count);
  const lif_op::QconvArgs args{c.shape,       c.x.data(), weight.data(),
                               c.bias.data(), acc.data(), scratch.data()};
  kernel.pack_input(args, {0, kernel.input_items(c.shape)});
  kernel.compute(args, {c.cut, c.shape.batch * c.shape.out_height});
  kernel.compute(args, {0, c.cut});
  return acc;
}

// Packed spikes of the case's bits; x becomes 0 and 1.
std::vector<std::uint32_t> Pack(Case* c) {
  const QconvShape& s = c->shape;
  for (std::uint8_t& x : c->x) x &= 1;
  std::vector<std::uint32_t> packed(
      Size(s.batch * s.in_height * s.in_width * lif_op::WordsFor(s.in_channels)));
  lif_op::PackSpikes({s.batch, s.in_channels, s.in_height, s.in_width}, c->x.data(), packed.data(),
                     {0, s.batch * s.in_height});
  std::vector<std::uint8_t> unpacked(c->x.size());
  lif_op::UnpackSpikes({s.batch, s.in_channels, s.in_height, s.in_width}, packed.data(),
                       unpacked.data(), {0, s.batch * s.in_height});
  Demand(unpacked == c->x, "unpacked spikes are not those that were packed");
  return packed;
}

std::vector<std::int32_t> RunPacked(Target target, const Case& c, const std::uint32_t* x,
                                    std::size_t count) {
  const lif_op::QconvPackedKernel& kernel = lif_op::QconvPackedFor(target);
  const fuzz::Aligned weight(kernel.weight_bytes(c.shape));
  kernel.pack_weight(c.shape, c.weight.data(), weight.data());
  std::vector<std::int32_t> acc(count);
  const lif_op::QconvPackedArgs args{c.shape, x, weight.data(), c.bias.data(), acc.data()};
  kernel.compute(args, {c.cut, c.shape.batch * c.shape.out_height});
  kernel.compute(args, {0, c.cut});
  return acc;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<Target> targets = lif_op::SupportedTargets();
  Input input(data, size);
  const bool packed = input.Flag();
  Case c;
  if (!Read(input, &c)) return 0;
  const std::vector<std::uint32_t> words = packed ? Pack(&c) : std::vector<std::uint32_t>();
  const std::vector<std::int32_t> expected = Definition(c);
  for (const Target target : targets) {
    const auto got = packed ? RunPacked(target, c, words.data(), expected.size())
                            : Run(target, c, expected.size());
    Demand(got == expected, "the convolution differs from its definition");
  }
  return 0;
}
