// The windows of the inputs of the fused layer by look-up: rows of packed spikes spread over planes
// of nibbles, rows of counts gathered to words. See nibble_geometry.h.
#pragma once

#include "kernels/qconv_lif/nibble_geometry.h"

namespace lif_op {
namespace {

// Columns first..last - 1 of a run are inside the input; column i of it is column
// start + i * stride of the input.
struct Run {
  std::int64_t start, stride;
  std::int64_t first, last;
};

inline Run RunAt(const Source& source, std::int64_t tile, std::int64_t phase, std::int64_t begin,
                 std::int64_t count) {
  Run run;
  run.stride = source.stride_width;
  run.start = (tile + begin) * run.stride + phase - source.pad_left;
  run.first = run.start >= 0 ? 0 : Min(count, (-run.start + run.stride - 1) / run.stride);
  const std::int64_t inside = source.in_width - 1 - run.start;
  run.last = inside < 0 ? 0 : Min(count, inside / run.stride + 1);
  if (run.last < run.first) run.last = run.first;
  return run;
}

// One word of each pixel of a block, 0 outside of the input. Returns where they are: in place where
// that is possible.
inline const std::uint32_t* BlockWords(const Source& source, const Run& run,
                                       const std::uint32_t* row, std::uint32_t* buffer) {
  const std::int64_t step = run.stride * source.units;
  if (step == 1 && run.first == 0 && run.last == kBlock) return row + run.start;
  for (std::int64_t i = 0; i < kBlock; ++i) buffer[i] = 0;
  const std::uint32_t* word = row + (run.start + run.first * run.stride) * source.units;
  for (std::int64_t i = run.first; i < run.last; ++i, word += step) buffer[i] = *word;
  return buffer;
}

inline void Fill(std::uint8_t* out, std::uint8_t value, std::int64_t count) {
  __builtin_memset(out, value, static_cast<std::size_t>(count));
}

// Blocks of columns that a tile of `blocks` blocks of outputs sees.
inline std::int64_t BlocksSeen(const Source& source, std::int64_t blocks) {
  return blocks + ((source.kernel_width - 1) / source.stride_width + kBlock - 1) / kBlock;
}

// A row of spikes for the tile that starts at output column `tile`.
template <class Isa>
void SpreadSpikes(const Source& source, const std::uint32_t* row, std::int64_t tile,
                  std::int64_t blocks, std::uint8_t* out) {
  std::uint8_t* occupancy = out + source.row_bytes - source.plane_bytes;
  Fill(occupancy, 0, source.plane_bytes);
  std::uint32_t buffer[kBlock];
  for (std::int64_t phase = 0; phase < source.stride_width; ++phase) {
    for (std::int64_t block = 0; block < BlocksSeen(source, blocks); ++block) {
      const Run run = RunAt(source, tile, phase, block * kBlock, kBlock);
      const std::int64_t at = phase * kSpan + block * kBlock;
      for (std::int64_t unit = 0; unit < source.units; ++unit) {
        const std::uint32_t* words = BlockWords(source, run, row + unit, buffer);
        Isa::Spread(words, source.plane_bytes, out + unit * kWordNibbles * source.plane_bytes + at,
                    occupancy + at);
      }
    }
  }
}

// A row of counts; `row` is that of the first channel, `plane` the distance of the channels.
template <class Isa>
void GatherCounts(const Source& source, const std::uint8_t* row, std::int64_t plane,
                  std::int64_t tile, std::int64_t blocks, std::uint8_t* out) {
  constexpr std::int64_t kGroup = Isa::Words::kGroup;
  const std::int64_t phases = source.stride_width * kSpan;
  const std::int64_t count = kBlock * BlocksSeen(source, blocks);
  std::uint8_t* occupancy = out + source.row_bytes - phases;
  Fill(occupancy, 0, phases);
  for (std::int64_t phase = 0; phase < source.stride_width; ++phase) {
    const Run run = RunAt(source, tile, phase, 0, count);
    for (std::int64_t channel = 0; channel < source.channels; ++channel) {
      const std::uint8_t* in = row + channel * plane + run.start;
      std::uint8_t* seen = occupancy + phase * kSpan;
      auto* words =
          reinterpret_cast<std::uint32_t*>(out) + channel / kGroup * phases + phase * kSpan;
      const std::int64_t bits = channel % kGroup * (32 / kGroup);
      if (bits == 0) {
        for (std::int64_t i = 0; i < count; ++i) words[i] = Isa::Words::kZero;
      }
      for (std::int64_t i = run.first; i < run.last; ++i) {
        const std::uint8_t value = in[i * run.stride];
        seen[i] = static_cast<std::uint8_t>(seen[i] | value);
        words[i] ^= static_cast<std::uint32_t>(value) << bits;
      }
    }
  }
}

// The images of a source, and how far a step goes from one to the next.
struct Image {
  const void* data;

  Image(const Source& source, const void* first, std::int64_t index) {
    const std::int64_t pixels = index * source.in_height * source.in_width;
    data = source.spikes ? static_cast<const void*>(static_cast<const std::uint32_t*>(first) +
                                                    pixels * source.units)
                         : static_cast<const void*>(static_cast<const std::uint8_t*>(first) +
                                                    pixels * source.channels);
  }
};

template <class Isa>
void FillRow(const Source& source, const Image& image, std::int64_t in_row, std::int64_t tile,
             std::int64_t blocks, std::uint8_t* out) {
  if (in_row < 0 || in_row >= source.in_height) {
    const std::int64_t phases = source.stride_width * kSpan;
    Fill(out, source.spikes ? std::uint8_t{0} : Isa::Words::kZeroByte, source.row_bytes - phases);
    Fill(out + source.row_bytes - phases, 0, phases);
  } else if (source.spikes) {
    const auto* words = static_cast<const std::uint32_t*>(image.data);
    SpreadSpikes<Isa>(source, words + in_row * source.in_width * source.units, tile, blocks, out);
  } else {
    const auto* bytes = static_cast<const std::uint8_t*>(image.data);
    GatherCounts<Isa>(source, bytes + in_row * source.in_width, source.in_height * source.in_width,
                      tile, blocks, out);
  }
}

// Fills the window of output row `row`. With `follows`, it holds that of the row before, of which
// most is seen again.
template <class Isa>
void FillWindow(const Source& source, const Image& image, std::int64_t row, bool follows,
                std::int64_t tile, std::int64_t blocks, std::uint8_t* scratch) {
  std::uint8_t* window = scratch + source.start;
  std::int64_t kept = follows ? source.kernel_height - source.stride_height : 0;
  if (kept < 0) kept = 0;
  if (kept > 0) {
    __builtin_memmove(window, window + source.stride_height * source.row_bytes,
                      static_cast<std::size_t>(kept * source.row_bytes));
  }
  for (std::int64_t u = kept; u < source.kernel_height; ++u) {
    FillRow<Isa>(source, image, row * source.stride_height + u - source.pad_top, tile, blocks,
                 window + u * source.row_bytes);
  }
}

}  // namespace
}  // namespace lif_op
