#include "lif_op/check.h"

#include <limits>
#include <stdexcept>

#include "lif_op/qlif.h"

namespace lif_op {
namespace {

// Bound on strides and pads: generous, and small enough that no size computed from them overflows.
constexpr std::int64_t kMaxConvAttribute = 1 << 16;
// Bound on the elements of a tensor, dimensions of 0 counted as 1: a tensor without elements may
// have dimensions of any size, and no product of them may overflow.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 44;

[[noreturn]] void Fail(const std::string& message) { throw std::invalid_argument(message); }

std::string ToString(const Dims& dims) {
  std::string text = "[";
  for (std::size_t i = 0; i < dims.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(dims[i]);
  }
  return text + "]";
}

std::string Input(const char* name) { return "input '" + std::string(name) + "'"; }

void CheckCount(const std::string& what, const Dims& dims) {
  std::int64_t count = 1;
  for (const std::int64_t dim : dims) {
    if (dim > 1 && __builtin_mul_overflow(count, dim, &count)) count = kMaxElements + 1;
    if (count > kMaxElements) {
      Fail(what + " is too large: its dimensions are " + ToString(dims));
    }
  }
}

void CheckCount(const NamedDims& tensor) { CheckCount(Input(tensor.name), tensor.dims); }

// Weight and bias of a convolution.
void CheckConvConstants(const Dims& weight, const Dims& bias) {
  if (weight.size() != 4) {
    Fail("input 'weight' must have shape [Cout, Cin, kh, kw], got " + ToString(weight));
  }
  CheckCount({"weight", weight});
  if (bias != Dims{weight[0]}) {
    Fail("input 'bias' must have shape [" + std::to_string(weight[0]) +
         "], one value per output channel, got " + ToString(bias));
  }
}

// What packed spikes of so many channels are, for messages.
std::string PackedSpikes(std::int64_t channels) {
  return "[N, H, W, " + std::to_string(WordsFor(channels)) + "], the packed spikes of " +
         std::to_string(channels) + " channels";
}

void CheckAttribute(const char* name, const Dims& values, std::size_t count, std::int64_t least) {
  if (values.size() != count) {
    Fail("attribute '" + std::string(name) + "' must hold " + std::to_string(count) +
         " integers, got " + ToString(values));
  }
  for (const std::int64_t value : values) {
    if (value < least || value > kMaxConvAttribute) {
      Fail("attribute '" + std::string(name) + "' must hold integers from " +
           std::to_string(least) + " to " + std::to_string(kMaxConvAttribute) + ", got " +
           ToString(values));
    }
  }
}

std::int64_t OutputExtent(const char* axis, std::int64_t padded, std::int64_t kernel,
                          std::int64_t stride) {
  if (kernel < 1) Fail("input 'weight' has an empty kernel");
  if (padded < kernel) {
    Fail("input 'x' is too small: its padded " + std::string(axis) + " " + std::to_string(padded) +
         " is less than the kernel's " + std::to_string(kernel));
  }
  return (padded - kernel) / stride + 1;
}

}  // namespace

Reset ResetFromName(const std::string& name) {
  if (name == "zero") return Reset::kZero;
  if (name == "subtract") return Reset::kSubtract;
  if (name == "none") return Reset::kNone;
  Fail("attribute 'reset' must be zero, subtract or none, got '" + name + "'");
}

ChannelLayout CheckNeuron(const NamedDims& current, const NamedDims& mem) {
  if (mem.dims.size() < 2) {
    Fail(Input(mem.name) + " must have shape [N, C, ...], got " + ToString(mem.dims));
  }
  if (current.dims != mem.dims) {
    Fail(Input(current.name) + " and " + Input(mem.name) + " must have the same shape, got " +
         ToString(current.dims) + " and " + ToString(mem.dims));
  }
  CheckCount(mem);
  ChannelLayout layout{mem.dims[1], 1, 0};
  for (std::size_t i = 2; i < mem.dims.size(); ++i) layout.inner *= mem.dims[i];
  layout.size = mem.dims[0] * layout.channels * layout.inner;
  return layout;
}

void CheckParameter(const NamedDims& parameter, std::int64_t channels, bool allow_unit_dims) {
  if (parameter.dims == Dims{channels}) return;
  if (allow_unit_dims && parameter.dims == Dims{channels, 1, 1}) return;
  const std::string count = std::to_string(channels);
  Fail(Input(parameter.name) + " must have shape [" + count + "]" +
       (allow_unit_dims ? " or [" + count + ", 1, 1]" : "") + ", one value per channel, got " +
       ToString(parameter.dims));
}

void CheckDecay(const std::int32_t* decay, std::int64_t channels) {
  for (std::int64_t c = 0; c < channels; ++c) {
    if (decay[c] < 0 || decay[c] > kDecayOne) {
      Fail("input 'decay' must hold values from 0 to " + std::to_string(kDecayOne) + ", got " +
           std::to_string(decay[c]) + " for channel " + std::to_string(c));
    }
  }
}

int CheckFracBits(std::int64_t frac_bits, int mem_bits) {
  if (frac_bits < kMinFracBits || frac_bits > mem_bits - 1) {
    Fail("attribute 'frac_bits' must be from " + std::to_string(kMinFracBits) + " to " +
         std::to_string(mem_bits - 1) + " for a membrane of " + std::to_string(mem_bits) +
         " bits, got " + std::to_string(frac_bits));
  }
  return static_cast<int>(frac_bits);
}

void CheckConvAttributes(const Dims& strides, const Dims& pads) {
  CheckAttribute("strides", strides, 2, 1);
  CheckAttribute("pads", pads, 4, 0);
}

QconvShape CheckQconv(const Dims& x, const Dims& weight, const Dims& bias, const Dims& strides,
                      const Dims& pads) {
  CheckConvAttributes(strides, pads);
  if (x.size() != 4) Fail("input 'x' must have shape [N, Cin, H, W], got " + ToString(x));
  CheckCount({"x", x});
  CheckConvConstants(weight, bias);
  if (weight[1] != x[1]) {
    Fail("input 'weight' is for " + std::to_string(weight[1]) + " input channels, input 'x' has " +
         std::to_string(x[1]));
  }
  QconvShape shape{};
  shape.batch = x[0];
  shape.in_channels = x[1];
  shape.in_height = x[2];
  shape.in_width = x[3];
  shape.out_channels = weight[0];
  shape.kernel_height = weight[2];
  shape.kernel_width = weight[3];
  shape.stride_height = strides[0];
  shape.stride_width = strides[1];
  shape.pad_top = pads[0];
  shape.pad_left = pads[1];
  shape.out_height =
      OutputExtent("height", x[2] + pads[0] + pads[2], weight[2], shape.stride_height);
  shape.out_width = OutputExtent("width", x[3] + pads[1] + pads[3], weight[3], shape.stride_width);
  CheckCount("output 'acc'", {x[0], weight[0], shape.out_height, shape.out_width});
  return shape;
}

QconvShape CheckQconvPacked(const Dims& x, const Dims& weight, const Dims& bias,
                            const Dims& strides, const Dims& pads) {
  CheckConvAttributes(strides, pads);
  CheckConvConstants(weight, bias);
  const SpikeShape spikes = CheckPackedSpikes({"x", x}, weight[1]);
  return CheckQconv({spikes.batch, spikes.channels, spikes.height, spikes.width}, weight, bias,
                    strides, pads);
}

QconvLifLayer CheckQconvLifConstants(const QconvLifDims& dims, const Dims& strides,
                                     const Dims& pads) {
  CheckConvAttributes(strides, pads);
  CheckConvConstants(dims.weight, dims.bias);
  for (const std::int64_t dim : dims.weight) {
    if (dim < 1) Fail("input 'weight' is empty: its dimensions are " + ToString(dims.weight));
  }
  const std::int64_t channels = dims.weight[0];
  CheckParameter({"decay", dims.decay}, channels, /*allow_unit_dims=*/false);
  CheckParameter({"threshold", dims.threshold}, channels, /*allow_unit_dims=*/false);
  QconvLifLayer layer{};
  layer.packed_x = dims.packed_x;
  layer.shape.in_channels = dims.weight[1];
  layer.shape.out_channels = channels;
  layer.shape.kernel_height = dims.weight[2];
  layer.shape.kernel_width = dims.weight[3];
  layer.shape.stride_height = strides[0];
  layer.shape.stride_width = strides[1];
  layer.shape.pad_top = pads[0];
  layer.shape.pad_left = pads[1];
  if (!dims.recurrent) return layer;
  const Dims& own = dims.weight_rec;
  if (own.size() != 4 || own[0] != channels || own[1] != channels || own[2] % 2 != 1 ||
      own[3] % 2 != 1) {
    const std::string count = std::to_string(channels);
    Fail("input 'weight_rec' must have shape [" + count + ", " + count +
         ", kh, kw], kh and kw odd, got " + ToString(own));
  }
  CheckCount({"weight_rec", own});
  layer.rec_kernel_height = own[2];
  layer.rec_kernel_width = own[3];
  return layer;
}

QconvLifLayer CheckQconvLif(const QconvLifDims& dims, const Dims& strides, const Dims& pads) {
  QconvLifLayer layer = CheckQconvLifConstants(dims, strides, pads);
  layer.shape = dims.packed_x ? CheckQconvPacked(dims.x, dims.weight, dims.bias, strides, pads)
                              : CheckQconv(dims.x, dims.weight, dims.bias, strides, pads);
  const QconvShape& shape = layer.shape;
  Dims expected = {shape.batch, shape.out_height, shape.out_width, shape.out_channels};
  if (dims.mem != expected) {
    Fail("input 'mem' must have shape " + ToString(expected) +
         ", [N, H, W, C] of the convolution's result, got " + ToString(dims.mem));
  }
  expected[3] = WordsFor(shape.out_channels);
  if (dims.recurrent && dims.spike_prev != expected) {
    Fail("input 'spike_prev' must have shape " + ToString(expected) + ", the packed spikes of " +
         std::to_string(shape.out_channels) + " channels, got " + ToString(dims.spike_prev));
  }
  return layer;
}

SpikeShape CheckSpikes(const NamedDims& spikes, std::int64_t channels) {
  if (spikes.dims.size() != 4 || spikes.dims[1] != channels) {
    Fail(Input(spikes.name) + " must have shape [N, " + std::to_string(channels) + ", H, W], got " +
         ToString(spikes.dims));
  }
  CheckCount(spikes);
  return {spikes.dims[0], channels, spikes.dims[2], spikes.dims[3]};
}

SpikeShape CheckPackedSpikes(const NamedDims& packed, std::int64_t channels) {
  const Dims& dims = packed.dims;
  if (dims.size() != 4 || dims[3] != WordsFor(channels)) {
    Fail(Input(packed.name) + " must have shape " + PackedSpikes(channels) + ", got " +
         ToString(dims));
  }
  CheckCount({packed.name, {dims[0], dims[1], dims[2], channels}});
  return {dims[0], channels, dims[1], dims[2]};
}

}  // namespace lif_op
