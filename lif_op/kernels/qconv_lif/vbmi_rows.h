// The input rows of the fused layer by look-up, as indices into its tables (vbmi_tables.h).
//
// A row of outputs sees kernel_height rows of an input. They lie in a ring: each row is written
// once and found again by the rows of outputs that follow. A row has two vectors of indices per
// sixteen words of spikes, of the low and of the high nibbles, and zeros where it is padded, so
// that a block of pixels finds the indices of a step in sixteen neighbouring words. Internal
// linkage, see planes.h.
#pragma once

#include <immintrin.h>

#include "kernels/qconv_lif/vbmi_tables.h"

namespace lif_op {
namespace {

constexpr std::int64_t kBlock = 16;  // pixels

constexpr std::int64_t BlocksIn(std::int64_t columns) { return (columns + kBlock - 1) / kBlock; }

class RowRing {
 public:
  RowRing() = default;

  RowRing(const Input& input, std::int64_t out_width, Divider& scratch)
      : input_(input), columns_(RoundUp(out_width, kBlock) + input.kernel_width - 1) {
    columns_ = RoundUp(columns_, kBlock);
    row_words_ = 2 * input.words * columns_;
    index_ = scratch.Take<std::uint32_t>(input.kernel_height * row_words_);
    words_ = scratch.Take<std::uint32_t>(input.kernel_height * row_words_ / 2);
    active_ = scratch.Take<std::uint16_t>(input.kernel_height * BlocksIn(columns_));
  }

  // Makes the rows that output row `row` sees available. With `follows`, those of the row before
  // are.
  void Advance(const std::uint32_t* image, std::int64_t row, bool follows) {
    top_ = row;
    for (std::int64_t u = follows ? input_.kernel_height - 1 : 0; u < input_.kernel_height; ++u) {
      const std::int64_t in_row = row + u - input_.pad_top;
      const bool inside = in_row >= 0 && in_row < input_.height;
      const std::uint32_t* words = image + (inside ? in_row : 0) * input_.width * input_.words;
      Write(inside ? words : nullptr, Slot(u));
    }
  }

  // Where the first block finds the indices of each step.
  const std::uint32_t** Locate(const std::uint32_t** at) const {
    for (std::int64_t u = 0; u < input_.kernel_height; ++u) {
      for (std::int64_t v = 0; v < input_.kernel_width; ++v) {
        for (std::int64_t plane = 0; plane < 2 * input_.words; ++plane) {
          *at++ = index_ + Slot(u) * row_words_ + plane * columns_ + v;
        }
      }
    }
    return at;
  }

  // Number of pixels with a spike in reach of a block.
  std::int64_t ActiveIn(std::int64_t block) const {
    const std::int64_t seen = kBlock + input_.kernel_width - 1;
    int pixels = 0;
    for (std::int64_t u = 0; u < input_.kernel_height; ++u) {
      const std::uint16_t* active = Active(u) + block;
      std::int64_t i = 0;
      for (; (i + 1) * kBlock <= seen; ++i) pixels += __builtin_popcount(active[i]);
      if (i * kBlock < seen) {
        pixels += __builtin_popcount(active[i] & ((1u << (seen - i * kBlock)) - 1u));
      }
    }
    return pixels;
  }

  // For kernels of width kEventWidth: a bit for each column in reach of a block, from the first.
  std::uint32_t ActiveColumns(std::int64_t block, std::int64_t u) const {
    const std::uint16_t* active = Active(u) + block;
    return active[0] | (active[1] & ((1u << (kEventWidth - 1)) - 1u)) << kBlock;
  }

  // Number of spikes in reach, for such kernels.
  std::int64_t SpikesIn(std::int64_t block) const {
    int spikes = 0;
    for (std::int64_t u = 0; u < input_.kernel_height; ++u) {
      for (std::uint32_t left = ActiveColumns(block, u); left != 0; left &= left - 1) {
        const std::int64_t column = block * kBlock + __builtin_ctz(left);
        for (std::int64_t word = 0; word < input_.words; ++word) {
          spikes += __builtin_popcount(Word(u, word, column));
        }
      }
    }
    return spikes;
  }

  // A word of spikes; columns count from the first that the first pixel sees.
  std::uint32_t Word(std::int64_t u, std::int64_t word, std::int64_t column) const {
    return words_[Slot(u) * row_words_ / 2 + word * columns_ + column];
  }

 private:
  const std::uint16_t* Active(std::int64_t u) const {
    return active_ + Slot(u) * BlocksIn(columns_);
  }

  std::int64_t Slot(std::int64_t u) const { return (top_ + u) % input_.kernel_height; }

  // The word `word` of sixteen pixels from `column` on, 0 outside of the row.
  __m512i Words(const std::uint32_t* row, std::int64_t column, std::int64_t word) const {
    const std::int64_t first = column < 0 ? Min(-column, kBlock) : 0;
    const std::int64_t last = Min(kBlock, input_.width - column);
    if (row == nullptr || last <= first) return _mm512_setzero_si512();
    const auto inside = static_cast<__mmask16>((0xFFFFu >> (kBlock - last)) & (0xFFFFu << first));
    const std::uint32_t* at = row + column * input_.words + word;
    if (input_.words == 1) return _mm512_maskz_loadu_epi32(inside, at);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i distance =
        _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(input_.words)));
    return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), inside, distance, at, 4);
  }

  // An index is a nibble plus sixteen times its byte: which of the four tables it goes to.
  static __m512i Index(__m512i nibbles) {
    const __m512i mask = _mm512_set1_epi8(0x0F);
    const __m512i table = _mm512_set1_epi32(0x30201000);
    return _mm512_ternarylogic_epi32(nibbles, mask, table, 0xEA);  // (nibbles & mask) | table
  }

  void Write(const std::uint32_t* row, std::int64_t slot) {
    std::uint32_t* index = index_ + slot * row_words_;
    std::uint32_t* words = words_ + slot * row_words_ / 2;
    std::uint16_t* active = active_ + slot * BlocksIn(columns_);
    for (std::int64_t block = 0; block < BlocksIn(columns_); ++block) {
      __m512i any = _mm512_setzero_si512();
      for (std::int64_t word = 0; word < input_.words; ++word) {
        const __m512i spikes = Words(row, block * kBlock - input_.pad_left, word);
        std::uint32_t* low = index + 2 * word * columns_ + block * kBlock;
        _mm512_store_si512(words + word * columns_ + block * kBlock, spikes);
        _mm512_store_si512(low, Index(spikes));
        _mm512_store_si512(low + columns_, Index(_mm512_srli_epi32(spikes, 4)));
        any = _mm512_or_si512(any, spikes);
      }
      active[block] = static_cast<std::uint16_t>(_mm512_test_epi32_mask(any, any));
    }
  }

  Input input_{};
  std::int64_t columns_ = 0;
  std::int64_t row_words_ = 0;
  std::int64_t top_ = 0;
  std::uint32_t* index_ = nullptr;
  std::uint32_t* words_ = nullptr;   // the spikes as they are
  std::uint16_t* active_ = nullptr;  // a bit per pixel
};

}  // namespace
}  // namespace lif_op
