// The fused layer with tiles: up to thirty-two neighbouring pixels times thirty-two output
// channels, sixty-four input bytes at a time. The neurons of one group of pixels run between the
// multiplications of the next, which the vector units would otherwise wait for.
#include <immintrin.h>

#include "kernels/qconv_lif/channel_blocks.h"
#include "kernels/qconv_lif/qconv_lif_contract.h"

namespace lif_op::amx {
namespace {

constexpr std::int64_t kTilePixels = 16;
constexpr std::int64_t kGroupPixels = 2 * kTilePixels;
constexpr std::int64_t kStepBytes = 64;  // of the input that one multiplication takes
constexpr std::int64_t kTileBytes = 1024;

// Packed weights: [first slot][block][step][vector][four bytes of a step][lane][byte]: every order
// the rows of a kernel can have in the slots has weights of its own.
std::int64_t StepsOf(const Convolution& c) { return (c.Taps() + kStepBytes - 1) / kStepBytes; }

std::int64_t BlockBytes(const Convolution& c) { return StepsOf(c) * 2 * kTileBytes; }

std::int64_t WeightBytes(const QconvLifLayer& layer, const Convolution& c) {
  return c.kernel_height * BlocksOf(layer) * BlockBytes(c);
}

// Weights are packed once per row of a kernel: more rows than these are left to other targets.
template <class Mem>
bool SupportsTiles(const QconvLifLayer& layer) {
  constexpr std::int64_t kMostRows = 11;
  return layer.shape.kernel_height <= kMostRows && layer.rec_kernel_height <= kMostRows &&
         Supports<Mem>(layer);
}

std::size_t PackedBytes(const QconvLifLayer& layer) {
  std::int64_t bytes = ConstantBytes(layer);
  for (const Convolution& c : ConvolutionsOf(layer).of) bytes += WeightBytes(layer, c);
  return static_cast<std::size_t>(bytes);
}

// The weight of byte `i` of what a kernel sees, its first row in slot `first`: channels within
// slots within columns.
std::int8_t WeightOf(const Convolution& c, std::int64_t out_channel, std::int64_t first,
                     std::int64_t i) {
  if (i >= c.Taps()) return 0;
  const std::int64_t slot = i / c.channels % c.kernel_height;
  const std::int64_t row = (slot - first + c.kernel_height) % c.kernel_height;
  const std::int64_t column = i / (c.channels * c.kernel_height);
  const std::int64_t channel = out_channel * c.channels + i % c.channels;
  return c.weight[(channel * c.kernel_height + row) * c.kernel_width + column];
}

void PackWeights(const QconvLifLayer& layer, const Convolution& c, std::int8_t* packed) {
  for (std::int64_t at = 0; at < WeightBytes(layer, c); ++at) {
    const std::int64_t step = at / (2 * kTileBytes) % StepsOf(c);
    const std::int64_t block = at / BlockBytes(c) % BlocksOf(layer);
    const std::int64_t first = at / (BlockBytes(c) * BlocksOf(layer));
    const std::int64_t channel =
        block * kBlockChannels + ChannelOfLane(at / kTileBytes % 2, at / 4 % kLanes);
    const std::int64_t byte = step * kStepBytes + at / 64 % kLanes * 4 + at % 4;
    const bool exists = channel < layer.shape.out_channels;
    packed[at] = exists ? WeightOf(c, channel, first, byte) : std::int8_t{0};
  }
}

template <class Mem>
void Pack(const QconvLifLayer& layer, void* packed) {
  PackConstants<Mem>(layer, packed);
  auto* weights = static_cast<std::int8_t*>(packed) + ConstantBytes(layer);
  for (const Convolution& c : ConvolutionsOf(layer).of) {
    PackWeights(layer, c, weights);
    weights += WeightBytes(layer, c);
  }
}

// Column after column, the slots of a column together: all a kernel sees is contiguous, though with
// its rows in an order that changes from output row to output row.
RingLayout LayoutByColumn(const Convolution& c, std::int64_t out_width, std::int64_t block) {
  const std::int64_t columns = RingColumns(c, out_width, block);
  const std::int64_t column = c.kernel_height * c.channels;
  return {columns, column, c.channels, RoundUp(columns * column, 64) + 64, MarkBytes(c)};
}

std::int64_t RingBytes(const Convolution& c, const QconvLifLayer& layer) {
  return ByteRows::Bytes(c, LayoutByColumn(c, layer.shape.out_width, kGroupPixels));
}

// The sums of a group of pixels.
struct alignas(64) Sums {
  std::int32_t value[2][kGroupPixels][kLanes];
};

std::size_t ScratchBytes(const QconvLifLayer& layer) {
  const Convolutions convolutions = ConvolutionsOf(layer);
  return 2 * sizeof(Sums) + static_cast<std::size_t>(RingBytes(convolutions.of[0], layer) +
                                                     RingBytes(convolutions.of[1], layer));
}

struct alignas(64) TileConfig {
  std::uint8_t palette, start_row, reserved[14];
  std::uint16_t row_bytes[16];
  std::uint8_t rows[16];
};

constexpr TileConfig kTileConfig = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

// Tiles 0 and 1 are the sums of the first sixteen pixels, 2 and 3 those of the other sixteen, 4 and
// 5 their inputs, 6 and 7 the weights. kTiles: of pixels.
template <int kTiles>
__attribute__((always_inline)) inline void StartSums(const ChannelBlock& block) {
  _tile_loadd(0, block.bias[0], 0);
  _tile_loadd(1, block.bias[1], 0);
  if constexpr (kTiles == 2) {
    _tile_loadd(2, block.bias[0], 0);
    _tile_loadd(3, block.bias[1], 0);
  }
}

template <int kTiles>
__attribute__((always_inline)) inline void AddStep(const std::uint8_t* bytes, std::int64_t stride,
                                                   const std::int8_t* weights) {
  _tile_loadd(6, weights, 64);
  _tile_loadd(4, bytes, stride);
  _tile_dpbusd(0, 4, 6);
  _tile_loadd(7, weights + kTileBytes, 64);
  _tile_dpbusd(1, 4, 7);
  if constexpr (kTiles == 2) {
    _tile_loadd(5, bytes + kTilePixels * stride, stride);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
}

template <int kTiles>
__attribute__((always_inline)) inline void StoreSums(Sums* sums) {
  _tile_stored(0, sums->value[0][0], 64);
  _tile_stored(1, sums->value[1][0], 64);
  if constexpr (kTiles == 2) {
    _tile_stored(2, sums->value[0][kTilePixels], 64);
    _tile_stored(3, sums->value[1][kTilePixels], 64);
  }
}

// One of the convolutions while it is computed.
class Input {
 public:
  Input(const Convolution& c, const QconvLifLayer& layer, const std::int8_t* weights,
        std::uint8_t* scratch)
      : layout_(LayoutByColumn(c, layer.shape.out_width, kGroupPixels)),
        rows_(c, layout_, scratch),
        weights_(weights),
        rotation_bytes_(BlocksOf(layer) * BlockBytes(c)),
        block_bytes_(BlockBytes(c)),
        steps_(StepsOf(c)),
        pixel_bytes_(c.stride_width * layout_.column_stride) {}

  void Begin(const void* image) { rows_.Begin(image); }

  void MoveTo(std::int64_t row) {
    rows_.MoveTo(row);
    if (steps_ > 0) row_weights_ = weights_ + rows_.FirstSlot() * rotation_bytes_;
  }

  bool Any(std::int64_t column, std::int64_t count) const { return rows_.Any(column, count); }

  std::int64_t steps() const { return steps_; }

  // Adds what the pixels from `column` on see, and calls `meanwhile` after every step.
  template <int kTiles, class Meanwhile>
  __attribute__((always_inline)) void AddTo(std::int64_t column, std::int64_t block,
                                            Meanwhile meanwhile) const {
    const std::uint8_t* bytes = rows_.At(column);
    const std::int8_t* weights = row_weights_ + block * block_bytes_;
    for (std::int64_t step = 0; step < steps_; ++step) {
      AddStep<kTiles>(bytes + step * kStepBytes, pixel_bytes_, weights + step * 2 * kTileBytes);
      meanwhile();
    }
  }

 private:
  RingLayout layout_;
  ByteRows rows_;
  const std::int8_t* weights_;
  const std::int8_t* row_weights_ = nullptr;
  std::int64_t rotation_bytes_;
  std::int64_t block_bytes_;
  std::int64_t steps_;
  std::int64_t pixel_bytes_;
};

// Neurons whose sums are there and which have not advanced yet.
template <class Mem, Reset kReset>
class Waiting {
 public:
  void Set(const Sums* sums, const ChannelBlock* block, const Output<Mem>& out) {
    sums_ = sums;
    block_ = block;
    out_ = out;
    next_ = 0;
  }

  std::int64_t count() const { return out_.pixels - next_; }

  __attribute__((always_inline)) void Advance(const Neuron32<Mem, kReset>& neurons,
                                              std::int64_t count) {
    // Copies, which stores to the membranes cannot change in the eyes of the compiler.
    const Neuron32<Mem, kReset> neuron = neurons;
    const Output<Mem> out = out_;
    const Sums* sums = sums_;
    const std::int64_t end = Min(next_ + count, out.pixels);
    if (next_ == end) return;
    const NeuronLanes& lanes = block_->neuron;
    for (std::int64_t p = next_; p < end; ++p) {
      const __m512i even = _mm512_load_si512(sums->value[0][p]);
      const __m512i odd = _mm512_load_si512(sums->value[1][p]);
      out.Advance(neuron, lanes, neuron.CurrentOfPacked(even, odd), p);
    }
    next_ = end;
  }

 private:
  const Sums* sums_ = nullptr;
  const ChannelBlock* block_ = nullptr;
  Output<Mem> out_{};
  std::int64_t next_ = 0;
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
        x_.Begin(ImageOfX(args_, item / s.out_height));
        previous_.Begin(ImageOfPrevious(args_, item / s.out_height));
      }
      x_.MoveTo(row);
      previous_.MoveTo(row);
      // The instructions that load tiles do not tell the compiler that they read memory.
      __asm__ volatile("" ::: "memory");
      for (std::int64_t column = 0; column < s.out_width; column += kGroupPixels) {
        Group(item * s.out_width, column, Min(kGroupPixels, s.out_width - column));
      }
    }
    waiting_.Advance(neuron_, kGroupPixels);
  }

 private:
  Step(const QconvLifArgs<Mem>& args, const Convolutions& convolutions, const std::int8_t* weights,
       std::uint8_t* scratch)
      : args_(args),
        neuron_(args.layer.frac_bits, static_cast<const PackedHeader*>(args.packed)->saturates),
        sums_(reinterpret_cast<Sums*>(scratch)),
        x_(convolutions.of[0], args.layer, weights, scratch + 2 * sizeof(Sums)),
        previous_(convolutions.of[1], args.layer,
                  weights + WeightBytes(args.layer, convolutions.of[0]),
                  scratch + 2 * sizeof(Sums) + RingBytes(convolutions.of[0], args.layer)) {}

  // Whether the pixels of a tile see anything in x and in the previous spikes.
  struct Sees {
    bool x, previous;
    bool Any() const { return x || previous; }
  };

  // The pixels column..column + count of the row that begins at pixel `row`.
  void Group(std::int64_t row, std::int64_t column, std::int64_t count) {
    const std::int64_t split = Min(kTilePixels, count);
    const Sees first = Look(column, split);
    const Sees second = count > split ? Look(column + split, count - split) : Sees{};
    for (std::int64_t block = 0; block < BlocksOf(args_.layer); ++block) {
      const auto out = [&](std::int64_t begin, std::int64_t end) {
        return OutputOf(args_, row + column + begin, end - begin, block);
      };
      if (first.Any() && second.Any()) {
        const Sees both{first.x || second.x, first.previous || second.previous};
        Multiply<2>(both, column, block, out(0, count));
        continue;
      }
      Tile(first, column, block, out(0, split));
      if (count > split) Tile(second, column + split, block, out(split, count));
    }
  }

  Sees Look(std::int64_t column, std::int64_t count) const {
    return {x_.Any(column, count), previous_.Any(column, count)};
  }

  void Tile(Sees sees, std::int64_t column, std::int64_t block, const Output<Mem>& out) {
    if (sees.Any()) return Multiply<1>(sees, column, block, out);
    // All the sums are the bias.
    const ChannelBlock& constants = BlocksIn(args_.packed)[block];
    const Neuron32<Mem, kReset> neuron = neuron_;
    const __m512i current = neuron.CurrentOfPacked(_mm512_load_si512(constants.bias[0]),
                                                   _mm512_load_si512(constants.bias[1]));
    for (std::int64_t p = 0; p < out.pixels; ++p) {
      out.Advance(neuron, constants.neuron, current, p);
    }
  }

  template <int kTiles>
  void Multiply(Sees sees, std::int64_t column, std::int64_t block, const Output<Mem>& out) {
    const ChannelBlock& constants = BlocksIn(args_.packed)[block];
    const std::int64_t steps = (sees.x ? x_.steps() : 0) + (sees.previous ? previous_.steps() : 0);
    const std::int64_t share = (waiting_.count() + steps - 1) / steps;
    const auto meanwhile = [this, share] { waiting_.Advance(neuron_, share); };
    StartSums<kTiles>(constants);
    if (sees.x) x_.template AddTo<kTiles>(column, block, meanwhile);
    if (sees.previous) previous_.template AddTo<kTiles>(column, block, meanwhile);
    turn_ = !turn_;
    Sums* sums = sums_ + (turn_ ? 1 : 0);
    StoreSums<kTiles>(sums);
    waiting_.Set(sums, &constants, out);
  }

  const QconvLifArgs<Mem>& args_;
  Neuron32<Mem, kReset> neuron_;
  Sums* sums_;
  bool turn_ = false;
  Waiting<Mem, kReset> waiting_;
  Input x_;
  Input previous_;
};

template <class Mem>
void Advance(const QconvLifArgs<Mem>& args, Range rows, std::uint8_t* scratch) {
  switch (args.layer.reset) {
    case Reset::kZero:
      return Step<Mem, Reset::kZero>(args, scratch).Rows(rows);
    case Reset::kSubtract:
      return Step<Mem, Reset::kSubtract>(args, scratch).Rows(rows);
    case Reset::kNone:
      return Step<Mem, Reset::kNone>(args, scratch).Rows(rows);
  }
}

// The thread may be anybody's: tiles are set up for every call, and given up after it.
template <class Mem>
void Compute(const QconvLifArgs<Mem>& args, Range rows, void* scratch) {
  _tile_loadconfig(&kTileConfig);
  Advance(args, rows, static_cast<std::uint8_t*>(scratch));
  _tile_release();
}

constexpr std::int64_t kMacsPerUs = 1600000;

template <class Mem>
constexpr QconvLifKernel<Mem> kKernel = {SupportsTiles<Mem>, PackedBytes,  Pack<Mem>,
                                         ScratchBytes,       Compute<Mem>, kMacsPerUs};

}  // namespace

const QconvLifKernel<std::int16_t>& QconvLif16() { return kKernel<std::int16_t>; }
const QconvLifKernel<std::int8_t>& QconvLif8() { return kKernel<std::int8_t>; }

}  // namespace lif_op::amx
