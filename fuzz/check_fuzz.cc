// The checks in front of the kernels: whatever the shapes and attributes of a graph say, they are
// refused with std::invalid_argument or the sizes that come out can be counted in 64 bits.
#include <limits>
#include <stdexcept>

#include "fuzz/input.h"
#include "lif_op/check.h"

namespace {

using fuzz::Demand;
using fuzz::Input;
using lif_op::Dims;

// Sizes as they are, and now and then one that overflows something.
std::int64_t Dim(Input& input) {
  const std::uint8_t kind = input.Take<std::uint8_t>();
  if (kind < 200) return kind % 9;
  if (kind < 220) return std::int64_t{1} << input.Int(0, 62);
  if (kind < 240) return std::numeric_limits<std::int64_t>::max() - input.Int(0, 40);
  return input.Take<std::int64_t>() & std::numeric_limits<std::int64_t>::max();
}

Dims Shape(Input& input, std::size_t usual) {
  const std::uint8_t kind = input.Take<std::uint8_t>();
  Dims dims(kind < 230 ? usual : kind % 7);
  for (std::int64_t& dim : dims) dim = Dim(input);
  return dims;
}

// Attributes may be negative as well.
Dims Attribute(Input& input, std::size_t usual) {
  Dims values = Shape(input, usual);
  for (std::int64_t& value : values) {
    if (input.Take<std::uint8_t>() > 250) value = -value;
  }
  return values;
}

// That the product of sizes that passed fits: 2^44 elements of at most 4 bytes.
void Countable(const Dims& dims) {
  std::int64_t count = 4;
  for (const std::int64_t dim : dims) {
    Demand(dim >= 0, "a size below 0 passed");
    Demand(!__builtin_mul_overflow(count, dim, &count), "sizes that overflow passed");
  }
}

void CountableShape(const lif_op::QconvShape& s) {
  Countable({s.batch, s.in_channels, s.in_height, s.in_width});
  Countable({s.batch, s.out_channels, s.out_height, s.out_width});
  Countable({s.out_channels, s.in_channels, s.kernel_height, s.kernel_width});
}

void Convolution(Input& input) {
  const bool packed = input.Flag();
  const Dims x = Shape(input, 4);
  Dims weight = Shape(input, 4);
  if (weight.size() == 4 && x.size() == 4 && !packed && input.Int(0, 9) > 0) weight[1] = x[1];
  const Dims bias = input.Int(0, 9) > 0 && !weight.empty() ? Dims{weight[0]} : Shape(input, 1);
  const Dims strides = Attribute(input, 2);
  const Dims pads = Attribute(input, 4);
  CountableShape(packed ? lif_op::CheckQconvPacked(x, weight, bias, strides, pads)
                        : lif_op::CheckQconv(x, weight, bias, strides, pads));
}

void Fused(Input& input) {
  lif_op::QconvLifDims dims{};
  dims.packed_x = input.Flag();
  dims.recurrent = input.Flag();
  dims.x = Shape(input, 4);
  dims.weight = Shape(input, 4);
  const bool fitting = input.Int(0, 9) > 0 && dims.weight.size() == 4;
  dims.bias = dims.decay = dims.threshold = fitting ? Dims{dims.weight[0]} : Shape(input, 1);
  dims.weight_rec = Shape(input, 4);
  const Dims strides = Attribute(input, 2);
  const Dims pads = Attribute(input, 4);
  if (fitting && dims.weight_rec.size() == 4) {
    dims.weight_rec[0] = dims.weight_rec[1] = dims.weight[0];
  }
  if (fitting && dims.x.size() == 4) {
    dims.x[dims.packed_x ? 3 : 1] =
        dims.packed_x ? dims.weight[1] / 32 + (dims.weight[1] % 32 != 0) : dims.weight[1];
  }
  const lif_op::QconvLifLayer constants = lif_op::CheckQconvLifConstants(dims, strides, pads);
  const std::int64_t out = constants.shape.out_channels;
  if (dims.recurrent) {
    Countable({out, out, constants.rec_kernel_height, constants.rec_kernel_width});
  }
  CountableShape(lif_op::CheckQconvLif(dims, strides, pads).shape);
}

void Neuron(Input& input) {
  const Dims dims = Shape(input, 4);
  const Dims other = input.Int(0, 9) > 0 ? dims : Shape(input, 4);
  const auto layout = lif_op::CheckNeuron({"current", dims}, {"mem", other});
  Demand(layout.channels >= 0 && layout.inner >= 0 && layout.size >= 0, "a negative size passed");
  Countable({layout.size});
  lif_op::CheckParameter({"beta", Shape(input, 1)}, layout.channels, input.Flag());
}

void Spikes(Input& input) {
  const std::int64_t channels = Dim(input);
  const Dims dims = Shape(input, 4);
  const auto shape = input.Flag() ? lif_op::CheckSpikes({"spikes", dims}, channels)
                                  : lif_op::CheckPackedSpikes({"packed", dims}, channels);
  Countable({shape.batch, shape.channels, shape.height, shape.width});
}

void Values(Input& input) {
  const auto decay = input.Vector<std::int32_t>(input.Int(0, 8));
  const int bits = input.Flag() ? 8 : 16;
  const int frac_bits = lif_op::CheckFracBits(input.Take<std::int64_t>(), bits);
  Demand(frac_bits >= -30 && frac_bits < bits, "a shift out of range passed");
  lif_op::CheckDecay(decay.data(), static_cast<std::int64_t>(decay.size()));
  for (const std::int32_t value : decay) Demand(value >= 0 && value <= 256, "a decay passed");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static constexpr void (*kChecks[])(Input&) = {Convolution, Fused, Neuron, Spikes, Values};
  Input input(data, size);
  try {
    kChecks[input.Int(0, 4)](input);
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
