// The vectorised convolution, written once for all instruction sets.
//
// Output pixels lie in the lanes. The input is first packed so that one 32-bit word holds one pixel
// of a few neighbouring channels (a "group"): four bytes, or two 16-bit numbers. A lane then meets
// its pixel's word in one load, the weights of the group are one word for all lanes, and a dot
// product instruction multiplies the two and adds over the channels of the group.
//
// Packed input: [batch][group][padded row][phase][column] words, zeros where the convolution pads.
// With a horizontal stride s, phase p holds the padded columns p, p + s, p + 2s, ...: neighbouring
// outputs meet neighbouring words whatever the stride.
//
// Packed weight: blocks of output channels, in each [group][kernel row][kernel column][channel of
// the block] words.
//
// Everything here has internal linkage, see planes.h. `Isa` provides the vector operations:
//   Vector, kLanes (words per vector), kGroup (channels per word), kMaxBlock (output channels per
//   block), kVectors (vectors side by side), Broadcast, Load, Store (of the first `count` lanes),
//   Dot (accumulator + the dot products of its lanes), Words (interleaves one row of a group),
//   kWeightOffset (added to the packed weights; unless it is 0, TakeOff takes that many times the
//   sum of the inputs off a sum again).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/planes.h"
#include "lif_op/qconv.h"

namespace lif_op {

struct QconvGeometry {
  std::int64_t groups;
  std::int64_t rows;         // padded rows that some output sees
  std::int64_t phase_words;  // words of one phase of a row
  std::int64_t row_words;
  std::int64_t group_words;
  std::int64_t image_words;
  std::int64_t channel_weight_words;  // of one output channel
};

// Tiles of kVectors vectors that a row of outputs takes; what one vector can finish is left to one.
template <class Isa>
static inline std::int64_t WideTiles(std::int64_t out_width) {
  constexpr std::int64_t kStep = Isa::kVectors * Isa::kLanes;
  return (out_width + kStep - Isa::kLanes - 1) / kStep;
}

template <class Isa>
static inline QconvGeometry GeometryOf(const QconvShape& s) {
  QconvGeometry g;
  g.groups = (s.in_channels + Isa::kGroup - 1) / Isa::kGroup;
  g.rows = (s.out_height - 1) * s.stride_height + s.kernel_height;
  // Whole vectors and whole tiles are loaded, at every kernel column.
  const std::int64_t wide = WideTiles<Isa>(s.out_width) * Isa::kVectors * Isa::kLanes;
  const std::int64_t vectors = (s.out_width + Isa::kLanes - 1) / Isa::kLanes;
  const std::int64_t loaded = wide > vectors * Isa::kLanes ? wide : vectors * Isa::kLanes;
  g.phase_words = loaded + (s.kernel_width - 1) / s.stride_width;
  g.row_words = s.stride_width * g.phase_words;
  g.group_words = g.rows * g.row_words;
  g.image_words = g.groups * g.group_words;
  g.channel_weight_words = g.groups * s.kernel_height * s.kernel_width;
  return g;
}

// Output channels of the block that starts at `channel`: the largest power of two that is left.
template <class Isa>
static inline std::int64_t BlockAt(std::int64_t channel, std::int64_t channels) {
  std::int64_t block = Isa::kMaxBlock;
  while (block > channels - channel) block /= 2;
  return block;
}

template <class Isa>
static std::size_t WeightBytes(const QconvShape& s) {
  const QconvGeometry g = GeometryOf<Isa>(s);
  return static_cast<std::size_t>(s.out_channels * g.channel_weight_words) * 4;
}

// The weights of one output channel and kernel position for the channels of a group, as a word.
template <class Isa>
static inline std::uint32_t WeightWord(const QconvShape& s, const std::int8_t* weight,
                                       std::int64_t group) {
  constexpr int kBits = 32 / Isa::kGroup;
  const std::int64_t first = group * Isa::kGroup;
  const std::int64_t kernel = s.kernel_height * s.kernel_width;
  std::uint32_t word = 0;
  for (int i = 0; i < Isa::kGroup && first + i < s.in_channels; ++i) {
    const auto value =
        static_cast<std::uint32_t>(weight[(first + i) * kernel] + Isa::kWeightOffset);
    word |= (value & (0xFFFFFFFFu >> (32 - kBits))) << (i * kBits);
  }
  return word;
}

template <class Isa>
static void PackWeight(const QconvShape& s, const std::int8_t* weight, void* packed) {
  const QconvGeometry g = GeometryOf<Isa>(s);
  const std::int64_t kernel = s.kernel_height * s.kernel_width;
  auto* out = static_cast<std::uint32_t*>(packed);
  std::int64_t block;
  for (std::int64_t channel = 0; channel < s.out_channels; channel += block) {
    block = BlockAt<Isa>(channel, s.out_channels);
    for (std::int64_t group = 0; group < g.groups; ++group) {
      for (std::int64_t position = 0; position < kernel; ++position) {
        for (std::int64_t b = 0; b < block; ++b) {
          const std::int64_t start = (channel + b) * s.in_channels * kernel + position;
          *out++ = WeightWord<Isa>(s, weight + start, group);
        }
      }
    }
  }
}

template <class Isa>
static std::size_t ScratchBytes(const QconvShape& s) {
  return static_cast<std::size_t>(s.batch * GeometryOf<Isa>(s).image_words) * 4;
}

template <class Isa>
static std::int64_t InputItems(const QconvShape& s) {
  const QconvGeometry g = GeometryOf<Isa>(s);
  return s.batch * g.groups * g.rows;
}

static inline void ZeroWords(std::uint32_t* out, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) out[i] = 0;
}

// The channels of a group, one row of each; those past the last channel are null.
template <class Isa>
struct GroupRow {
  const std::uint8_t* channel[Isa::kGroup];
};

template <class Isa>
static inline std::uint32_t InputWord(const GroupRow<Isa>& row, std::int64_t column) {
  constexpr int kBits = 32 / Isa::kGroup;
  std::uint32_t word = 0;
  for (int i = 0; i < Isa::kGroup; ++i) {
    if (row.channel[i] == nullptr) break;
    word |= static_cast<std::uint32_t>(row.channel[i][column]) << (i * kBits);
  }
  return word;
}

// One phase of one packed row: the padded columns phase, phase + stride, ...
template <class Isa>
static inline void PackPhase(const QconvShape& s, const QconvGeometry& g, const GroupRow<Isa>& row,
                             std::int64_t phase, std::uint32_t* out) {
  const std::int64_t shift = phase - s.pad_left;  // input column of the first word
  const std::int64_t stride = s.stride_width;
  const std::int64_t first = Min(g.phase_words, shift >= 0 ? 0 : (-shift + stride - 1) / stride);
  const std::int64_t inside = s.in_width - 1 - shift;
  std::int64_t stop = inside < 0 ? 0 : Min(g.phase_words, inside / stride + 1);
  if (stop < first) stop = first;
  ZeroWords(out, 0, first);
  if (stride == 1) {
    Isa::Words(row, first + shift, stop - first, out + first);
  } else {
    for (std::int64_t i = first; i < stop; ++i) out[i] = InputWord<Isa>(row, i * stride + shift);
  }
  ZeroWords(out, stop, g.phase_words);
}

template <class Isa>
static void PackInput(const QconvArgs& args, Range items) {
  const QconvShape& s = args.shape;
  const QconvGeometry g = GeometryOf<Isa>(s);
  for (std::int64_t item = items.begin; item < items.end; ++item) {
    std::uint32_t* out = static_cast<std::uint32_t*>(args.scratch) + item * g.row_words;
    const std::int64_t in_row = item % g.rows - s.pad_top;
    if (in_row < 0 || in_row >= s.in_height) {
      ZeroWords(out, 0, g.row_words);
      continue;
    }
    const std::int64_t plane = item / g.rows;
    const std::int64_t first = plane % g.groups * Isa::kGroup;
    const std::int64_t image = plane / g.groups;
    GroupRow<Isa> row;
    for (int i = 0; i < Isa::kGroup; ++i) {
      const std::int64_t channel = image * s.in_channels + first + i;
      row.channel[i] = first + i < s.in_channels
                           ? args.x + (channel * s.in_height + in_row) * s.in_width
                           : nullptr;
    }
    for (std::int64_t phase = 0; phase < s.stride_width; ++phase) {
      PackPhase<Isa>(s, g, row, phase, out + phase * g.phase_words);
    }
  }
}

// A kernel row is one row of the kernel for one group; they are counted in the order of the
// weights. The first kMaxSeenRows of them are looked at before a tile is computed, the rest is
// taken as is.
static constexpr std::int64_t kMaxSeenRows = 256;

struct KernelRow {
  std::int64_t index;
  std::int64_t in;  // offset of its input words
};

// The kernel rows in which a tile meets anything but zeros. Spikes are few and lie together, so
// most tiles of most layers meet next to nothing and cost next to nothing.
struct ActiveRows {
  std::int64_t count;
  KernelRow rows[kMaxSeenRows];
};

// Tiles of a row that are worked on together.
static constexpr std::int64_t kMaxTiles = 8;

// Where one tile of outputs reads and writes.
struct QconvTile {
  const ActiveRows* active;
  const std::uint32_t* in;      // its first word, of the first group, row and kernel column
  const std::uint32_t* weight;  // of its block of output channels
  const std::int32_t* bias;
  std::int32_t* acc;       // its first output, of the first channel of the block
  std::int64_t acc_plane;  // from one output channel to the next
  std::int64_t columns;    // outputs to write, of one row
};

// Whether any of `count` words is not zero; count is at least one vector.
template <class Isa>
static inline bool AnyWord(const std::uint32_t* words, std::int64_t count) {
  typename Isa::Vector seen = Isa::Load(words + count - Isa::kLanes);
  for (std::int64_t i = 0; i + Isa::kLanes < count; i += Isa::kLanes) {
    seen = Isa::Or(seen, Isa::Load(words + i));
  }
  return Isa::AnyBit(seen);
}

template <class Isa, int kVectors>
static inline void FindActiveRows(const QconvShape& s, const QconvGeometry& g,
                                  const std::uint32_t* in, ActiveRows* active) {
  const std::int64_t words = kVectors * Isa::kLanes + (s.kernel_width - 1) / s.stride_width;
  active->count = 0;
  std::int64_t index = 0;
  for (std::int64_t group = 0; group < g.groups; ++group) {
    for (std::int64_t row = 0; row < s.kernel_height; ++row, ++index) {
      if (index == kMaxSeenRows) return;
      const std::int64_t offset = group * g.group_words + row * g.row_words;
      bool any = false;
      for (std::int64_t phase = 0; phase < s.stride_width; ++phase) {
        any |= AnyWord<Isa>(in + offset + phase * g.phase_words, words);
      }
      active->rows[active->count] = {index, offset};
      active->count += any ? 1 : 0;
    }
  }
}

// The sums of a tile: kBlock output channels of kVectors vectors of neighbouring outputs. They live
// in registers, which takes constant indices: every loop over them has to be unrolled.
template <class Isa, int kBlock, int kVectors>
struct QconvSums {
  typename Isa::Vector value[kBlock][kVectors];
  typename Isa::Vector inputs[kVectors];  // of the inputs themselves, with a kWeightOffset
};

#define LIF_OP_UNROLL _Pragma("GCC unroll 8")

// Adds what one kernel row contributes.
template <class Isa, int kBlock, int kVectors>
static inline __attribute__((always_inline)) void AddKernelRow(
    const QconvShape& s, const QconvGeometry& g, const std::uint32_t* in,
    const std::uint32_t* weight, QconvSums<Isa, kBlock, kVectors>& sums) {
  std::int64_t phase = 0;
  for (std::int64_t column = 0; column < s.kernel_width; ++column, weight += kBlock) {
    typename Isa::Vector words[kVectors];
    LIF_OP_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      words[v] = Isa::Load(in + v * Isa::kLanes);
      if constexpr (Isa::kWeightOffset != 0) {
        sums.inputs[v] = Isa::Dot(sums.inputs[v], words[v], Isa::Broadcast(0x01010101u));
      }
    }
    LIF_OP_UNROLL
    for (int b = 0; b < kBlock; ++b) {
      const typename Isa::Vector w = Isa::Broadcast(weight[b]);
      LIF_OP_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        sums.value[b][v] = Isa::Dot(sums.value[b][v], words[v], w);
      }
    }
    in += g.phase_words;
    if (++phase == s.stride_width) {
      phase = 0;
      in += 1 - g.row_words;
    }
  }
}

// Kernel row number i of those a tile has to add: the active ones, then those not looked at.
static inline KernelRow RowToAdd(const QconvShape& s, const QconvGeometry& g,
                                 const ActiveRows& active, std::int64_t i) {
  if (i < active.count) return active.rows[i];
  const std::int64_t index = kMaxSeenRows + i - active.count;
  return {index, index / s.kernel_height * g.group_words + index % s.kernel_height * g.row_words};
}

template <class Isa, int kBlock, int kVectors>
static inline void ComputeTile(const QconvShape& s, const QconvGeometry& g, const QconvTile& tile) {
  QconvSums<Isa, kBlock, kVectors> sums;
  LIF_OP_UNROLL
  for (int b = 0; b < kBlock; ++b) {
    const auto bias = Isa::Broadcast(static_cast<std::uint32_t>(tile.bias[b]));
    LIF_OP_UNROLL
    for (int v = 0; v < kVectors; ++v) sums.value[b][v] = bias;
  }
  if constexpr (Isa::kWeightOffset != 0) {
    LIF_OP_UNROLL
    for (int v = 0; v < kVectors; ++v) sums.inputs[v] = Isa::Broadcast(0);
  }
  const std::int64_t all = g.groups * s.kernel_height;
  const std::int64_t count = tile.active->count + all - Min(all, kMaxSeenRows);
  for (std::int64_t i = 0; i < count; ++i) {
    const KernelRow row = RowToAdd(s, g, *tile.active, i);
    AddKernelRow(s, g, tile.in + row.in, tile.weight + row.index * s.kernel_width * kBlock, sums);
  }
  LIF_OP_UNROLL
  for (int b = 0; b < kBlock; ++b) {
    std::int32_t* out = tile.acc + b * tile.acc_plane;
    LIF_OP_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      typename Isa::Vector sum = sums.value[b][v];
      if constexpr (Isa::kWeightOffset != 0) sum = Isa::TakeOff(sum, sums.inputs[v]);
      Isa::Store(out + v * Isa::kLanes, sum, tile.columns - v * Isa::kLanes);
    }
  }
}

#undef LIF_OP_UNROLL

template <class Isa, int kVectors>
static inline void ComputeBlock(const QconvShape& s, const QconvGeometry& g, std::int64_t block,
                                const QconvTile& tile) {
  switch (block) {
    case 8:
      if constexpr (Isa::kMaxBlock >= 8) ComputeTile<Isa, 8, kVectors>(s, g, tile);
      return;
    case 4:
      return ComputeTile<Isa, 4, kVectors>(s, g, tile);
    case 2:
      return ComputeTile<Isa, 2, kVectors>(s, g, tile);
    default:
      return ComputeTile<Isa, 1, kVectors>(s, g, tile);
  }
}

// All output channels of `count` neighbouring tiles of a row, the first at `column`. Channels come
// in the outer loop: consecutive tiles then write to consecutive places.
template <class Isa, int kVectors>
static inline void ComputeTiles(const QconvArgs& args, const QconvGeometry& g,
                                const std::uint32_t* in, std::int32_t* acc, std::int64_t column,
                                std::int64_t count) {
  constexpr std::int64_t kStep = kVectors * Isa::kLanes;
  const QconvShape& s = args.shape;
  ActiveRows active[kMaxTiles];
  for (std::int64_t i = 0; i < count; ++i) {
    FindActiveRows<Isa, kVectors>(s, g, in + column + i * kStep, &active[i]);
  }
  QconvTile tile;
  tile.acc_plane = s.out_height * s.out_width;
  std::int64_t block;
  for (std::int64_t channel = 0; channel < s.out_channels; channel += block) {
    block = BlockAt<Isa>(channel, s.out_channels);
    tile.weight = static_cast<const std::uint32_t*>(args.weight) + channel * g.channel_weight_words;
    tile.bias = args.bias + channel;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t first = column + i * kStep;
      tile.active = &active[i];
      tile.in = in + first;
      tile.acc = acc + channel * tile.acc_plane + first;
      tile.columns = s.out_width - first;
      ComputeBlock<Isa, kVectors>(s, g, block, tile);
    }
  }
}

template <class Isa>
static inline void ComputeRow(const QconvArgs& args, const QconvGeometry& g, std::int64_t image,
                              std::int64_t row) {
  const QconvShape& s = args.shape;
  if (s.out_channels == 0) return;  // acc may be null
  const std::uint32_t* in = static_cast<const std::uint32_t*>(args.scratch) +
                            image * g.image_words + row * s.stride_height * g.row_words;
  std::int32_t* acc = args.acc + (image * s.out_channels * s.out_height + row) * s.out_width;
  constexpr std::int64_t kStep = Isa::kVectors * Isa::kLanes;
  const std::int64_t tiles = WideTiles<Isa>(s.out_width);
  for (std::int64_t i = 0; i < tiles; i += kMaxTiles) {
    ComputeTiles<Isa, Isa::kVectors>(args, g, in, acc, i * kStep, Min(kMaxTiles, tiles - i));
  }
  for (std::int64_t column = tiles * kStep; column < s.out_width; column += Isa::kLanes) {
    ComputeTiles<Isa, 1>(args, g, in, acc, column, 1);
  }
}

template <class Isa>
static void Compute(const QconvArgs& args, Range rows) {
  const QconvGeometry g = GeometryOf<Isa>(args.shape);
  for (std::int64_t item = rows.begin; item < rows.end; ++item) {
    ComputeRow<Isa>(args, g, item / args.shape.out_height, item % args.shape.out_height);
  }
}

template <class Isa>
static constexpr QconvKernel kVectorQconv = {WeightBytes<Isa>, PackWeight<Isa>, ScratchBytes<Isa>,
                                             InputItems<Isa>,  PackInput<Isa>,  Compute<Isa>};

}  // namespace lif_op
