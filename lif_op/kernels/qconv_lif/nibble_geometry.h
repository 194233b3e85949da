// The fused layer by look-up, written once for AVX2 and Arm. Four files: where the inputs of a row
// of outputs lie (this one), what is prepared once per layer (nibble_program.h), how the inputs are
// laid out (nibble_input.h) and the computation (nibble_layer.h).
//
// A nibble of a spike word says which of four neighbouring channels fired. What those four add to
// an output channel through one position of the kernel is one of sixteen numbers: a table that fits
// a vector register, from which one instruction looks up as many pixels as the register has bytes.
// That is four multiply-accumulates per byte, and no multiplication.
//
// The nibbles of a pixel are spread over byte planes: plane n holds nibble n of all pixels of a
// row. A block of 32 neighbouring outputs then finds its nibbles for any position of the kernel in
// 32 neighbouring bytes.
//
// Counts are no bits. They are laid out as in kernels/qconv/qconv_vector.h, a few channels of a
// pixel to a 32-bit word, and multiplied.
//
// Rows are computed in tiles of kTile columns, so that what a tile needs stays in the first-level
// cache and every distance in it is known when a layer is packed, before the sizes are.
//
// Everything in these files has internal linkage, see planes.h. `Isa` provides the vector
// operations, see qconv_lif_avx2.cc, and in Isa::Words those of the counts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/planes.h"
#include "lif_op/qconv_lif.h"

namespace lif_op {
namespace {

constexpr std::int64_t kBlock = 32;  // outputs that are skipped or computed together
constexpr std::int64_t kTile = 256;
constexpr std::int64_t kTileBlocks = kTile / kBlock;
// Columns of a tile's input, of one phase: kernels reach up to kReach columns beyond the outputs.
constexpr std::int64_t kReach = 64;
constexpr std::int64_t kSpan = kTile + kReach;

constexpr std::int64_t kNibbleChannels = 4;
constexpr std::int64_t kWordNibbles = 8;

constexpr std::int64_t RoundUp(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// One of the two inputs of a layer, and the window of its rows that a row of outputs sees:
// [kernel row][plane][phase][column]. With a horizontal stride s, phase p holds the padded columns
// p, p + s, p + 2s, ...: neighbouring outputs meet neighbouring columns whatever the stride. The
// last plane of a row says of each pixel whether there is anything but zeros.
struct Source {
  bool spikes;  // else counts
  const std::int8_t* weight;
  std::int64_t channels;
  std::int64_t kernel_height, kernel_width;
  std::int64_t stride_height, stride_width;
  std::int64_t pad_top, pad_left;
  std::int64_t in_height, in_width;
  std::int64_t units;        // words of a pixel: of spikes, or of counts
  std::int64_t plane_bytes;  // of one nibble, or of one word of counts
  std::int64_t row_bytes;
  std::int64_t start;  // of the window, from the start of the scratch memory

  std::int64_t WindowBytes() const { return kernel_height * row_bytes; }

  // Where the first output of a tile finds the byte it meets at a position of the kernel, from the
  // start of a plane.
  std::int64_t Position(std::int64_t row, std::int64_t column) const {
    return start + row * row_bytes + column % stride_width * kSpan + column / stride_width;
  }

  std::int64_t NibbleAt(std::int64_t row, std::int64_t column, std::int64_t nibble) const {
    return Position(row, column) + nibble * plane_bytes;
  }

  std::int64_t OccupancyAt(std::int64_t row, std::int64_t column) const {
    return Position(row, column) + row_bytes - stride_width * kSpan;
  }

  std::int64_t CountsAt(std::int64_t row, std::int64_t column, std::int64_t unit) const {
    return start + row * row_bytes + unit * plane_bytes +
           4 * (column % stride_width * kSpan + column / stride_width);
  }
};

template <class Isa>
Source SourceOf(const QconvLifLayer& layer) {
  const QconvShape& s = layer.shape;
  Source source{};
  source.spikes = layer.packed_x;
  source.weight = layer.weight;
  source.channels = s.in_channels;
  source.kernel_height = s.kernel_height;
  source.kernel_width = s.kernel_width;
  source.stride_height = s.stride_height;
  source.stride_width = s.stride_width;
  source.pad_top = s.pad_top;
  source.pad_left = s.pad_left;
  source.in_height = s.in_height;
  source.in_width = s.in_width;
  const std::int64_t phases = s.stride_width * kSpan;
  if (source.spikes) {
    source.units = WordsFor(s.in_channels);
    source.plane_bytes = phases;
    source.row_bytes = (source.units * kWordNibbles + 1) * phases;
  } else {
    source.units = (s.in_channels + Isa::Words::kGroup - 1) / Isa::Words::kGroup;
    source.plane_bytes = 4 * phases;
    source.row_bytes = (4 * source.units + 1) * phases;
  }
  return source;
}

// The previous spikes: of no kernel rows where the layer has none.
inline Source RecurrentSourceOf(const QconvLifLayer& layer) {
  Source source{};
  source.spikes = true;
  source.stride_height = source.stride_width = 1;
  if (layer.weight_rec == nullptr) return source;
  source.weight = layer.weight_rec;
  source.channels = layer.shape.out_channels;
  source.kernel_height = layer.rec_kernel_height;
  source.kernel_width = layer.rec_kernel_width;
  source.pad_top = layer.rec_kernel_height / 2;
  source.pad_left = layer.rec_kernel_width / 2;
  source.in_height = layer.shape.out_height;
  source.in_width = layer.shape.out_width;
  source.units = WordsFor(source.channels);
  source.plane_bytes = kSpan;
  source.row_bytes = (source.units * kWordNibbles + 1) * kSpan;
  return source;
}

struct Sources {
  Source source[2];  // x, previous spikes
};

template <class Isa>
Sources SourcesOf(const QconvLifLayer& layer) {
  Sources both{{SourceOf<Isa>(layer), RecurrentSourceOf(layer)}};
  both.source[1].start = both.source[0].WindowBytes();
  return both;
}

// Blocks of a tile that have something in reach, in all rows of the windows or in one of them.
struct ActiveBlocks {
  std::uint32_t bits;  // one for each block
  std::int64_t count;
  std::int64_t index[kTileBlocks];
};

// Scratch memory: the windows of the sources, which blocks are active in each of their rows, sums
// of the spikes of one channel, the currents of a tile [block][channel][column], and those of one
// block with the channels last.
struct Scratch {
  std::int64_t rows;      // of both windows
  std::int64_t channels;  // whole words
  std::int64_t active;
  std::int64_t currents;
  std::int64_t transposed;
  std::int64_t bytes;
};

inline Scratch ScratchOf(const QconvLifLayer& layer, const Sources& both) {
  Scratch s;
  s.rows = both.source[0].kernel_height + both.source[1].kernel_height;
  s.channels = kWordBits * WordsFor(layer.shape.out_channels);
  s.active = both.source[1].start + both.source[1].WindowBytes();
  s.currents = s.active + RoundUp(s.rows * static_cast<std::int64_t>(sizeof(ActiveBlocks)),
                                  static_cast<std::int64_t>(kQconvAlignment));
  s.transposed = s.currents + kTile * s.channels * 2;
  s.bytes = s.transposed + kBlock * s.channels * 2;
  return s;
}

}  // namespace
}  // namespace lif_op
