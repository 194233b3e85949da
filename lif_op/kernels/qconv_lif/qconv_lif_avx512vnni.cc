// The fused layer with 512-bit byte dot products: eight neighbouring pixels times thirty-two output
// channels in registers, four input bytes at a time, and the neurons on those registers.
#include <immintrin.h>

#include "kernels/qconv_lif/channel_blocks.h"
#include "kernels/qconv_lif/qconv_lif_contract.h"

#define LIF_OP_UNROLL _Pragma("GCC unroll 8")

namespace lif_op::avx512vnni {
namespace {

constexpr int kPixels = 8;
constexpr std::int64_t kGroup = 4;  // bytes of a dot product
constexpr std::int64_t kGroupBytes = 2 * 64;

// Packed weights: [block][kernel row][group of what the row sees][vector][lane][kGroup].
std::int64_t GroupsOfRow(const Convolution& c) {
  return (c.kernel_width * c.channels + kGroup - 1) / kGroup;
}

std::int64_t BlockBytes(const Convolution& c) {
  return c.kernel_height * GroupsOfRow(c) * kGroupBytes;
}

std::size_t PackedBytes(const QconvLifLayer& layer) {
  std::int64_t bytes = ConstantBytes(layer);
  for (const Convolution& c : ConvolutionsOf(layer).of) bytes += BlocksOf(layer) * BlockBytes(c);
  return static_cast<std::size_t>(bytes);
}

// Byte `i` of what a kernel row sees comes from column i / channels.
std::int8_t WeightOf(const Convolution& c, std::int64_t out_channel, std::int64_t row,
                     std::int64_t i) {
  if (i >= c.kernel_width * c.channels) return 0;
  const std::int64_t channel = out_channel * c.channels + i % c.channels;
  return c.weight[(channel * c.kernel_height + row) * c.kernel_width + i / c.channels];
}

void PackWeights(const QconvLifLayer& layer, const Convolution& c, std::int8_t* packed) {
  const std::int64_t groups = GroupsOfRow(c);
  for (std::int64_t at = 0; at < BlocksOf(layer) * BlockBytes(c); ++at) {
    const std::int64_t vector = at / 64 % 2;
    const std::int64_t group = at / kGroupBytes % groups;
    const std::int64_t row = at / (groups * kGroupBytes) % c.kernel_height;
    const std::int64_t channel =
        at / BlockBytes(c) * kBlockChannels + ChannelOfLane(vector, at / kGroup % kLanes);
    const bool exists = channel < layer.shape.out_channels;
    packed[at] = exists ? WeightOf(c, channel, row, group * kGroup + at % kGroup) : std::int8_t{0};
  }
}

template <class Mem>
void Pack(const QconvLifLayer& layer, void* packed) {
  PackConstants<Mem>(layer, packed);
  auto* weights = static_cast<std::int8_t*>(packed) + ConstantBytes(layer);
  for (const Convolution& c : ConvolutionsOf(layer).of) {
    PackWeights(layer, c, weights);
    weights += BlocksOf(layer) * BlockBytes(c);
  }
}

// Row after row: what one kernel row sees is contiguous.
RingLayout LayoutByRow(const Convolution& c, std::int64_t out_width, std::int64_t block) {
  const std::int64_t columns = RingColumns(c, out_width, block);
  const std::int64_t slot = RoundUp(columns * c.channels, 64);
  return {columns, c.channels, slot, c.kernel_height * slot + 64, MarkBytes(c)};
}

std::int64_t RingBytes(const Convolution& c, const QconvLifLayer& layer) {
  return ByteRows::Bytes(c, LayoutByRow(c, layer.shape.out_width, kPixels));
}

std::size_t ScratchBytes(const QconvLifLayer& layer) {
  const Convolutions convolutions = ConvolutionsOf(layer);
  return static_cast<std::size_t>(RingBytes(convolutions.of[0], layer) +
                                  RingBytes(convolutions.of[1], layer));
}

// One of the convolutions while it is computed.
class Input {
 public:
  Input(const Convolution& c, const QconvLifLayer& layer, const std::int8_t* weights,
        std::uint8_t* scratch)
      : conv_(c),
        layout_(LayoutByRow(c, layer.shape.out_width, kPixels)),
        rows_(c, layout_, scratch),
        weights_(weights),
        groups_(GroupsOfRow(c)) {}

  ByteRows& rows() { return rows_; }

  // Adds what eight outputs from `column` on see. Kernel rows that see nothing are left out.
  __attribute__((always_inline)) void AddTo(std::int64_t column, std::int64_t block, __m512i* even,
                                            __m512i* odd) const {
    if (conv_.kernel_height == 0) return;
    const std::int8_t* weights = weights_ + block * BlockBytes(conv_);
    std::int64_t slot = rows_.FirstSlot();
    for (std::int64_t row = 0; row < conv_.kernel_height; ++row, weights += groups_ * kGroupBytes) {
      if (rows_.AnyIn(slot, column, kPixels)) {
        AddRow(rows_.At(column) + slot * layout_.slot_stride, weights, even, odd);
      }
      if (++slot == conv_.kernel_height) slot = 0;
    }
  }

 private:
  __attribute__((always_inline)) void AddRow(const std::uint8_t* bytes, const std::int8_t* weights,
                                             __m512i* even, __m512i* odd) const {
    const std::int64_t stride = conv_.stride_width * conv_.channels;
    for (std::int64_t g = 0; g < groups_; ++g, bytes += kGroup, weights += kGroupBytes) {
      const __m512i w_even = _mm512_load_si512(weights);
      const __m512i w_odd = _mm512_load_si512(weights + 64);
      LIF_OP_UNROLL
      for (int p = 0; p < kPixels; ++p) {
        std::int32_t four;
        __builtin_memcpy(&four, bytes + p * stride, sizeof(four));
        const __m512i x = _mm512_set1_epi32(four);
        even[p] = _mm512_dpbusd_epi32(even[p], x, w_even);
        odd[p] = _mm512_dpbusd_epi32(odd[p], x, w_odd);
      }
    }
  }

  Convolution conv_;
  RingLayout layout_;
  ByteRows rows_;
  const std::int8_t* weights_;
  std::int64_t groups_;
};

template <class Mem, Reset kReset>
class Step {
 public:
  Step(const QconvLifArgs<Mem>& args, std::uint8_t* scratch)
      : Step(args, ConvolutionsOf(args.layer),
             static_cast<const std::int8_t*>(args.packed) + ConstantBytes(args.layer), scratch) {}

  void Rows(Range rows) {
    const QconvShape& s = args_.layer.shape;
    for (std::int64_t item = rows.begin; item < rows.end; ++item) {
      const std::int64_t row = item % s.out_height;
      if (row == 0 || item == rows.begin) {
        x_.rows().Begin(ImageOfX(args_, item / s.out_height));
        previous_.rows().Begin(ImageOfPrevious(args_, item / s.out_height));
      }
      x_.rows().MoveTo(row);
      previous_.rows().MoveTo(row);
      for (std::int64_t column = 0; column < s.out_width; column += kPixels) {
        const std::int64_t count = Min(kPixels, s.out_width - column);
        for (std::int64_t block = 0; block < BlocksOf(args_.layer); ++block) {
          Tile(column, block, OutputOf(args_, item * s.out_width + column, count, block));
        }
      }
    }
  }

 private:
  Step(const QconvLifArgs<Mem>& args, const Convolutions& convolutions, const std::int8_t* weights,
       std::uint8_t* scratch)
      : args_(args),
        neuron_(args.layer.frac_bits, static_cast<const PackedHeader*>(args.packed)->saturates),
        x_(convolutions.of[0], args.layer, weights, scratch),
        previous_(convolutions.of[1], args.layer,
                  weights + BlocksOf(args.layer) * BlockBytes(convolutions.of[0]),
                  scratch + RingBytes(convolutions.of[0], args.layer)) {}

  void Tile(std::int64_t column, std::int64_t block, const Output<Mem>& out) const {
    const ChannelBlock& constants = BlocksIn(args_.packed)[block];
    __m512i even[kPixels], odd[kPixels];
    LIF_OP_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      even[p] = _mm512_load_si512(constants.bias[0]);
      odd[p] = _mm512_load_si512(constants.bias[1]);
    }
    x_.AddTo(column, block, even, odd);
    previous_.AddTo(column, block, even, odd);
    // A copy, which stores to the membranes cannot change in the eyes of the compiler.
    const Neuron32<Mem, kReset> neuron = neuron_;
    LIF_OP_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      if (p >= out.pixels) break;
      out.Advance(neuron, constants.neuron, neuron.CurrentOfPacked(even[p], odd[p]), p);
    }
  }

  const QconvLifArgs<Mem>& args_;
  Neuron32<Mem, kReset> neuron_;
  Input x_;
  Input previous_;
};

template <class Mem>
void Compute(const QconvLifArgs<Mem>& args, Range rows, void* scratch) {
  auto* memory = static_cast<std::uint8_t*>(scratch);
  switch (args.layer.reset) {
    case Reset::kZero:
      return Step<Mem, Reset::kZero>(args, memory).Rows(rows);
    case Reset::kSubtract:
      return Step<Mem, Reset::kSubtract>(args, memory).Rows(rows);
    case Reset::kNone:
      return Step<Mem, Reset::kNone>(args, memory).Rows(rows);
  }
}

constexpr std::int64_t kMacsPerUs = 430000;

template <class Mem>
constexpr QconvLifKernel<Mem> kKernel = {Supports<Mem>, PackedBytes,  Pack<Mem>,
                                         ScratchBytes,  Compute<Mem>, kMacsPerUs};

}  // namespace

const QconvLifKernel<std::int16_t>& QconvLif16() { return kKernel<std::int16_t>; }
const QconvLifKernel<std::int8_t>& QconvLif8() { return kKernel<std::int8_t>; }

}  // namespace lif_op::avx512vnni
