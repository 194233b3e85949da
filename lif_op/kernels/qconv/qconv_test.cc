// The integer convolution: the reference against the sum spelled out, every target against both.
#include "lif_op/qconv.h"

#include <limits>
#include <string>
#include <vector>

#include "kernels/guarded.h"
#include "kernels/testing.h"
#include "lif_op/check.h"

namespace lif_op {
namespace {

using testing::Guard;
using testing::Guarded;
using testing::InParts;
using testing::Random;

struct Case {
  const char* what;
  Dims x;       // N, Cin, H, W
  Dims weight;  // Cout, Cin, kh, kw
  Dims strides;
  Dims pads;
};

const Case kCases[] = {
    {"one number", {1, 1, 1, 1}, {1, 1, 1, 1}, {1, 1}, {0, 0, 0, 0}},
    {"3x3 same", {1, 4, 9, 33}, {8, 4, 3, 3}, {1, 1}, {1, 1, 1, 1}},
    {"wide", {1, 8, 5, 100}, {8, 8, 3, 3}, {1, 1}, {1, 1, 1, 1}},
    {"odd channels", {2, 5, 7, 17}, {7, 5, 3, 3}, {1, 1}, {1, 1, 1, 1}},
    {"many channels", {1, 33, 4, 19}, {13, 33, 3, 3}, {1, 1}, {1, 1, 1, 1}},
    {"more kernel rows than are looked at", {1, 350, 3, 18}, {3, 350, 3, 3}, {1, 1}, {1, 1, 1, 1}},
    {"events", {1, 2, 16, 47}, {32, 2, 3, 3}, {1, 1}, {1, 1, 1, 1}},
    {"flow head", {1, 32, 6, 40}, {2, 32, 1, 1}, {1, 1}, {0, 0, 0, 0}},
    {"no pads", {1, 3, 8, 20}, {3, 3, 3, 3}, {1, 1}, {0, 0, 0, 0}},
    {"exactly one output", {1, 3, 3, 3}, {15, 3, 3, 3}, {1, 1}, {0, 0, 0, 0}},
    {"stride 2", {1, 4, 11, 37}, {5, 4, 3, 3}, {2, 2}, {1, 1, 1, 1}},
    {"stride 3 by 1", {1, 3, 13, 21}, {2, 3, 3, 3}, {3, 1}, {1, 1, 1, 1}},
    {"stride 1 by 3", {2, 3, 13, 70}, {4, 3, 3, 3}, {1, 3}, {1, 1, 1, 1}},
    {"stride beyond the kernel", {1, 3, 19, 40}, {4, 3, 2, 2}, {5, 4}, {0, 1, 0, 1}},
    {"1x1 stride 2", {1, 6, 9, 35}, {3, 6, 1, 1}, {2, 2}, {0, 0, 0, 0}},
    {"5x7", {1, 3, 12, 30}, {6, 3, 5, 7}, {1, 1}, {2, 3, 2, 3}},
    {"1x5", {1, 2, 4, 18}, {3, 2, 1, 5}, {1, 1}, {0, 2, 0, 2}},
    {"kernel of the whole input", {1, 2, 6, 9}, {3, 2, 6, 9}, {1, 1}, {0, 0, 0, 0}},
    {"uneven pads", {1, 3, 6, 16}, {4, 3, 3, 3}, {1, 1}, {0, 2, 3, 1}},
    {"pads beyond the kernel", {1, 2, 3, 5}, {2, 2, 3, 3}, {1, 1}, {4, 5, 6, 7}},
    {"pads beyond the kernel, stride 3", {1, 2, 3, 5}, {2, 2, 2, 2}, {3, 3}, {4, 7, 6, 8}},
    {"padding only on the right", {1, 1, 1, 2}, {1, 1, 1, 2}, {1, 2}, {0, 0, 0, 40}},
    {"no images", {0, 2, 4, 4}, {2, 2, 3, 3}, {1, 1}, {1, 1, 1, 1}},
    {"no input channels", {1, 0, 4, 4}, {2, 0, 3, 3}, {1, 1}, {1, 1, 1, 1}},
    {"no outputs", {1, 2, 4, 4}, {0, 2, 3, 3}, {1, 1}, {1, 1, 1, 1}},
};

std::int64_t Count(const Dims& dims) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) count *= dim;
  return count;
}

struct Data {
  std::vector<std::uint8_t> x;
  std::vector<std::int8_t> weight;
  std::vector<std::int32_t> bias;
};

// One output, straight from the definition; wraps around like the kernels.
std::int32_t Definition(const Case& c, const Data& data, std::int64_t n, std::int64_t o,
                        std::int64_t row, std::int64_t column) {
  const std::int64_t channels = c.x[1];
  const std::int64_t height = c.x[2];
  const std::int64_t width = c.x[3];
  auto sum = static_cast<std::uint32_t>(data.bias[static_cast<std::size_t>(o)]);
  for (std::int64_t i = 0; i < channels; ++i) {
    for (std::int64_t u = 0; u < c.weight[2]; ++u) {
      for (std::int64_t v = 0; v < c.weight[3]; ++v) {
        const std::int64_t y = row * c.strides[0] + u - c.pads[0];
        const std::int64_t x = column * c.strides[1] + v - c.pads[1];
        if (y < 0 || y >= height || x < 0 || x >= width) continue;
        const auto at = static_cast<std::size_t>(((n * channels + i) * height + y) * width + x);
        const auto w =
            static_cast<std::size_t>(((o * channels + i) * c.weight[2] + u) * c.weight[3] + v);
        sum += static_cast<std::uint32_t>(data.x[at] * data.weight[w]);
      }
    }
  }
  return static_cast<std::int32_t>(sum);
}

std::vector<std::int32_t> Expected(const Case& c, const Data& data, const QconvShape& shape) {
  std::vector<std::int32_t> acc;
  for (std::int64_t n = 0; n < shape.batch; ++n) {
    for (std::int64_t o = 0; o < shape.out_channels; ++o) {
      for (std::int64_t row = 0; row < shape.out_height; ++row) {
        for (std::int64_t column = 0; column < shape.out_width; ++column) {
          acc.push_back(Definition(c, data, n, o, row, column));
        }
      }
    }
  }
  return acc;
}

std::vector<std::int32_t> Run(Target target, const QconvShape& shape, const Data& data,
                              std::int64_t parts, Guard guard) {
  const QconvKernel& kernel = QconvFor(target);
  const Guarded<std::uint8_t> x(data.x, guard);
  const Guarded<std::int8_t> weight(data.weight, guard);
  const Guarded<std::int32_t> bias(data.bias, guard);
  const Guarded<std::uint8_t> packed(kernel.weight_bytes(shape), guard, kQconvAlignment);
  const Guarded<std::uint8_t> scratch(kernel.scratch_bytes(shape), guard, kQconvAlignment);
  const std::int64_t size = shape.batch * shape.out_channels * shape.out_height * shape.out_width;
  const std::vector<std::int32_t> unwritten(static_cast<std::size_t>(size), 12345);
  const Guarded<std::int32_t> acc(unwritten, guard);
  const QconvArgs args{shape, x.data(), packed.data(), bias.data(), acc.data(), scratch.data()};
  kernel.pack_weight(shape, weight.data(), packed.data());
  InParts(kernel.input_items(shape), parts, [&](Range items) { kernel.pack_input(args, items); });
  InParts(shape.batch * shape.out_height, parts, [&](Range rows) { kernel.compute(args, rows); });
  return acc.Values();
}

void CheckCase(const Case& c, const Data& data, const std::string& values) {
  const QconvShape shape = CheckQconv(c.x, c.weight, {c.weight[0]}, c.strides, c.pads);
  const std::vector<std::int32_t> expected = Expected(c, data, shape);
  for (const Target target : SupportedTargets()) {
    for (const Guard guard : {Guard::kBehind, Guard::kBefore}) {
      const std::int64_t parts = guard == Guard::kBehind ? 1 : 3;
      CHECK(Run(target, shape, data, parts, guard) == expected,
            std::string(TargetName(target)) + ", " + c.what + ", " + values);
    }
  }
}

void TestCases() {
  constexpr std::int32_t kIntMin = std::numeric_limits<std::int32_t>::min();
  constexpr std::int32_t kIntMax = std::numeric_limits<std::int32_t>::max();
  Random random(3);
  for (const Case& c : kCases) {
    const std::int64_t inputs = Count(c.x);
    const std::int64_t weights = Count(c.weight);
    const std::int64_t outputs = c.weight[0];
    const auto bias = random.Vector<std::int32_t>(outputs, -100000, 100000);
    CheckCase(c,
              {random.Vector<std::uint8_t>(inputs, 0, 255),
               random.Vector<std::int8_t>(weights, -128, 127), bias},
              "all bytes");
    CheckCase(c,
              {random.Vector<std::uint8_t>(inputs, 0, 1),
               random.Vector<std::int8_t>(weights, -63, 63), bias},
              "spikes");
    CheckCase(c,
              {random.Vector<std::uint8_t>(inputs, 255, 255),
               random.Vector<std::int8_t>(weights, -128, -128), bias},
              "smallest products");
    CheckCase(c,
              {random.Vector<std::uint8_t>(inputs, 255, 255),
               random.Vector<std::int8_t>(weights, 127, 127),
               random.Vector<std::int32_t>(outputs, kIntMax, kIntMax)},
              "wraps upwards");
    CheckCase(c,
              {random.Vector<std::uint8_t>(inputs, 255, 255),
               random.Vector<std::int8_t>(weights, -128, 127),
               random.Vector<std::int32_t>(outputs, kIntMin, kIntMin)},
              "wraps downwards");
    std::vector<std::uint8_t> sparse(static_cast<std::size_t>(inputs), 0);
    for (std::int64_t i = 0; i < inputs / 50 + 1 && inputs > 0; ++i) {
      sparse[static_cast<std::size_t>(random.Int(0, inputs - 1))] = 1;
    }
    CheckCase(c, {sparse, random.Vector<std::int8_t>(weights, -63, 63), bias}, "few spikes");
    CheckCase(c,
              {random.Vector<std::uint8_t>(inputs, 0, 0),
               random.Vector<std::int8_t>(weights, -128, 127), bias},
              "silence");
  }
}

void TestRandomShapes() {
  Random random(4);
  for (int i = 0; i < 60; ++i) {
    Case c{"random", {}, {}, {}, {}};
    c.x = {random.Int(1, 2), random.Int(1, 9), random.Int(1, 12), random.Int(1, 50)};
    c.weight = {random.Int(1, 18), c.x[1], random.Int(1, 4), random.Int(1, 4)};
    c.strides = {random.Int(1, 3), random.Int(1, 3)};
    // At least as much padding as makes the kernel fit.
    c.pads = {random.Int(0, 3), random.Int(0, 3), 3, 3};
    CheckCase(c,
              {random.Vector<std::uint8_t>(Count(c.x), 0, 255),
               random.Vector<std::int8_t>(Count(c.weight), -128, 127),
               random.Vector<std::int32_t>(c.weight[0], -1000, 1000)},
              std::to_string(i));
  }
}

}  // namespace
}  // namespace lif_op

int main() {
  lif_op::TestCases();
  lif_op::TestRandomShapes();
  return lif_op::testing::Report("qconv_test");
}
