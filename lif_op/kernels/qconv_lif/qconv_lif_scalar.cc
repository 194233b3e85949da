// Reference: the fused layer neuron by neuron, over the tensors as they come: the bytes in
// reach of a pixel are gathered, and nothing is packed.
#include <algorithm>
#include <cstdint>

#include "kernels/qconv_lif/qconv_lif_contract.h"
#include "kernels/qlif/qlif_contract.h"

namespace lif_op::scalar {
namespace {

// Where one of the two convolutions gets its input: bytes or packed words of one image.
struct Source {
  const void* image;
  bool packed;
  std::int64_t channels, height, width;

  std::uint8_t At(std::int64_t channel, std::int64_t row, std::int64_t column) const {
    if (!packed) {
      const auto* bytes = static_cast<const std::uint8_t*>(image);
      return bytes[(channel * height + row) * width + column];
    }
    const auto* words = static_cast<const std::uint32_t*>(image);
    const std::int64_t pixel = row * width + column;
    const std::uint32_t word = words[pixel * WordsFor(channels) + channel / kWordBits];
    return static_cast<std::uint8_t>(word >> (channel % kWordBits) & 1u);
  }
};

// A kernel placed over a source: the first row and column of the input it covers.
struct Window {
  std::int64_t row, column, height, width;
};

// The bytes a kernel sees, in the order of a weight: [channels, height, width], 0 in the padding.
void Gather(const Source& source, const Window& window, std::uint8_t* seen) {
  for (std::int64_t channel = 0; channel < source.channels; ++channel) {
    for (std::int64_t row = window.row; row < window.row + window.height; ++row) {
      for (std::int64_t column = window.column; column < window.column + window.width; ++column) {
        const bool inside = row >= 0 && row < source.height && column >= 0 && column < source.width;
        *seen++ = inside ? source.At(channel, row, column) : std::uint8_t{0};
      }
    }
  }
}

// Sums wrap around, which only unsigned arithmetic defines.
std::uint32_t Sum(const std::uint8_t* seen, const std::int8_t* weight, std::int64_t count) {
  std::uint32_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<std::uint32_t>(weight[i] * seen[i]);
  return sum;
}

// Numbers of weights of one output channel.
std::int64_t Taps(const QconvLifLayer& layer) {
  return layer.shape.in_channels * layer.shape.kernel_height * layer.shape.kernel_width;
}

std::int64_t RecurrentTaps(const QconvLifLayer& layer) {
  return layer.shape.out_channels * layer.rec_kernel_height * layer.rec_kernel_width;
}

template <Reset kReset, class Mem>
void Pixel(const QconvLifArgs<Mem>& args, std::int64_t image, std::int64_t row, std::int64_t column,
           std::uint8_t* seen) {
  const QconvLifLayer& layer = args.layer;
  const QconvShape& s = layer.shape;
  const std::int64_t in_pixels = s.in_height * s.in_width;
  const std::int64_t words = WordsFor(s.out_channels);
  const std::int64_t out_image = image * s.out_height * s.out_width;
  Source x{args.x, layer.packed_x, s.in_channels, s.in_height, s.in_width};
  if (layer.packed_x) {
    x.image = static_cast<const std::uint32_t*>(args.x) + image * in_pixels * WordsFor(x.channels);
  } else {
    x.image = static_cast<const std::uint8_t*>(args.x) + image * in_pixels * x.channels;
  }
  const Window over_x{row * s.stride_height - s.pad_top, column * s.stride_width - s.pad_left,
                      s.kernel_height, s.kernel_width};
  const Window over_prev{row - layer.rec_kernel_height / 2, column - layer.rec_kernel_width / 2,
                         layer.rec_kernel_height, layer.rec_kernel_width};
  std::uint8_t* seen_own = seen + Taps(layer);
  Gather(x, over_x, seen);
  if (layer.weight_rec != nullptr) {
    const Source previous{args.spike_prev + out_image * words, true, s.out_channels, s.out_height,
                          s.out_width};
    Gather(previous, over_prev, seen_own);
  }
  const std::int64_t pixel = out_image + row * s.out_width + column;
  std::uint32_t* spike = args.spike + pixel * words;
  std::fill(spike, spike + words, 0u);
  for (std::int64_t c = 0; c < s.out_channels; ++c) {
    std::uint32_t acc = static_cast<std::uint32_t>(layer.bias[c]);
    acc += Sum(seen, layer.weight + c * Taps(layer), Taps(layer));
    if (layer.weight_rec != nullptr) {
      acc += Sum(seen_own, layer.weight_rec + c * RecurrentTaps(layer), RecurrentTaps(layer));
    }
    const std::int64_t neuron = pixel * s.out_channels + c;
    std::uint8_t fired = 0;
    QlifNeuron<Mem, kReset>(static_cast<std::int32_t>(acc), args.mem[neuron], layer.decay[c],
                            layer.threshold[c], layer.frac_bits, &fired, &args.mem_out[neuron]);
    spike[c / kWordBits] |= std::uint32_t{fired} << (c % kWordBits);
  }
}

template <Reset kReset, class Mem>
void Rows(const QconvLifArgs<Mem>& args, Range rows, std::uint8_t* seen) {
  const QconvShape& s = args.layer.shape;
  for (std::int64_t item = rows.begin; item < rows.end; ++item) {
    for (std::int64_t column = 0; column < s.out_width; ++column) {
      Pixel<kReset>(args, item / s.out_height, item % s.out_height, column, seen);
    }
  }
}

template <class Mem>
void Compute(const QconvLifArgs<Mem>& args, Range rows, void* scratch) {
  auto* seen = static_cast<std::uint8_t*>(scratch);
  switch (args.layer.reset) {
    case Reset::kZero:
      return Rows<Reset::kZero>(args, rows, seen);
    case Reset::kSubtract:
      return Rows<Reset::kSubtract>(args, rows, seen);
    case Reset::kNone:
      return Rows<Reset::kNone>(args, rows, seen);
  }
}

bool Supports(const QconvLifLayer&) { return true; }
std::size_t NoBytes(const QconvLifLayer&) { return 0; }
std::size_t ScratchBytes(const QconvLifLayer& layer) {
  return static_cast<std::size_t>(Taps(layer) + RecurrentTaps(layer));
}
void PackNothing(const QconvLifLayer&, void*) {}

constexpr std::int64_t kMacsPerUs = 9000;

template <class Mem>
constexpr QconvLifKernel<Mem> kKernel = {Supports,     NoBytes,      PackNothing,
                                         ScratchBytes, Compute<Mem>, kMacsPerUs};

}  // namespace

const QconvLifKernel<std::int16_t>& QconvLif16() { return kKernel<std::int16_t>; }
const QconvLifKernel<std::int8_t>& QconvLif8() { return kKernel<std::int8_t>; }

}  // namespace lif_op::scalar
