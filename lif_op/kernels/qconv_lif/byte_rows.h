// The input rows a kernel covers, as bytes with the channels last: unpacked from words of spikes or
// interleaved from planes of counts, once per row, with zeros where a kernel reaches beyond the
// input. Included by the AVX-512 targets only; internal linkage, see planes.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/planes.h"
#include "lif_op/qconv_lif.h"

namespace lif_op {
namespace {

// One of the two convolutions of a layer.
struct Convolution {
  std::int64_t channels;
  std::int64_t in_height, in_width;
  std::int64_t kernel_height, kernel_width;
  std::int64_t stride_height, stride_width;
  std::int64_t pad_top, pad_left;
  bool packed;                // words of spikes, else planes of counts
  const std::int8_t* weight;  // [out_channels, channels, kernel_height, kernel_width]

  std::int64_t Taps() const { return kernel_height * kernel_width * channels; }
};

// The convolution of x and the one of the previous spikes. Where a layer has none, its kernel is
// empty.
struct Convolutions {
  Convolution of[2];
};

Convolutions ConvolutionsOf(const QconvLifLayer& layer) {
  const QconvShape& s = layer.shape;
  const std::int64_t height = layer.rec_kernel_height;
  const std::int64_t width = layer.rec_kernel_width;
  return {{{s.in_channels, s.in_height, s.in_width, s.kernel_height, s.kernel_width,
            s.stride_height, s.stride_width, s.pad_top, s.pad_left, layer.packed_x, layer.weight},
           {s.out_channels, s.out_height, s.out_width, height, width, 1, 1, height / 2, width / 2,
            true, layer.weight_rec}}};
}

constexpr std::int64_t RoundUp(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// Where the bytes are. Input row r is in slot r modulo kernel_height.
struct RingLayout {
  std::int64_t columns;        // that blocks of outputs reach, the padding included
  std::int64_t column_stride;  // in bytes
  std::int64_t slot_stride;
  std::int64_t bytes;       // with what loads of 64 bytes may read beyond the last column
  std::int64_t mark_bytes;  // of one slot
};

// Columns that are unpacked together, and whose marks are one number.
constexpr std::int64_t kMarked = 16;

// `block`: how many outputs are computed at a time, also at the end of a row.
std::int64_t RingColumns(const Convolution& c, std::int64_t out_width, std::int64_t block) {
  return (RoundUp(out_width, block) - 1) * c.stride_width + c.kernel_width;
}

std::int64_t MarkBytes(const Convolution& c) {
  return RoundUp(RoundUp(c.in_width, kMarked) / 8 + 8, 8);
}

class ByteRows {
 public:
  static std::int64_t Bytes(const Convolution& c, const RingLayout& layout) {
    return RoundUp(layout.bytes + c.kernel_height * layout.mark_bytes, 64);
  }

  // `memory` of Bytes() bytes, aligned to 64.
  ByteRows(const Convolution& c, const RingLayout& layout, std::uint8_t* memory)
      : conv_(c),
        layout_(layout),
        bytes_(memory),
        marks_(memory + layout.bytes),
        seen_width_(Min(c.in_width, layout.columns - c.pad_left)),
        words_(WordsFor(c.channels)) {
    __builtin_memset(memory, 0, static_cast<std::size_t>(Bytes(c, layout)));
    const std::int64_t last = c.channels - (words_ - 1) * kWordBits;
    last_channels_ = static_cast<__mmask32>((std::uint64_t{1} << last) - 1);
  }

  // The rows of another image follow.
  void Begin(const void* image) {
    image_ = image;
    next_row_ = kNone;
  }

  // Makes the rows that output row `out_row` sees those in the slots. Output rows come in rising
  // order.
  void MoveTo(std::int64_t out_row) {
    first_row_ = out_row * conv_.stride_height - conv_.pad_top;
    const std::int64_t end = first_row_ + conv_.kernel_height;
    for (std::int64_t row = next_row_ > first_row_ ? next_row_ : first_row_; row < end; ++row) {
      Fill(row);
    }
    next_row_ = end;
  }

  // The slot of the first of the rows.
  std::int64_t FirstSlot() const { return SlotOf(first_row_); }

  std::int64_t SlotOf(std::int64_t row) const {
    const std::int64_t slot = row % conv_.kernel_height;
    return slot < 0 ? slot + conv_.kernel_height : slot;
  }

  // What a kernel at output column `column` sees first.
  const std::uint8_t* At(std::int64_t column) const {
    return bytes_ + column * conv_.stride_width * layout_.column_stride;
  }

  // Whether `count` outputs from `column` on see anything but zeros in a slot.
  bool AnyIn(std::int64_t slot, std::int64_t column, std::int64_t count) const {
    std::int64_t begin = column * conv_.stride_width - conv_.pad_left;
    std::int64_t end = begin + (count - 1) * conv_.stride_width + conv_.kernel_width;
    begin = begin < 0 ? 0 : begin;
    end = Min(end, conv_.in_width);
    const std::uint8_t* marks = marks_ + slot * layout_.mark_bytes;
    constexpr std::int64_t kStep = 56;  // bits that eight bytes hold from any bit of the first on
    for (; begin < end; begin += kStep) {
      std::uint64_t bits;
      __builtin_memcpy(&bits, marks + begin / 8, sizeof(bits));
      bits >>= begin % 8;
      if ((bits & ((std::uint64_t{1} << Min(kStep, end - begin)) - 1)) != 0) return true;
    }
    return false;
  }

  bool Any(std::int64_t column, std::int64_t count) const {
    for (std::int64_t slot = 0; slot < conv_.kernel_height; ++slot) {
      if (AnyIn(slot, column, count)) return true;
    }
    return false;
  }

 private:
  static constexpr std::int64_t kNone = INT64_MIN;

  void Fill(std::int64_t row) {
    const std::int64_t slot = SlotOf(row);
    const bool exists = row >= 0 && row < conv_.in_height;
    for (std::int64_t column = 0; column < seen_width_; column += kMarked) {
      const std::int64_t count = Min(kMarked, seen_width_ - column);
      std::uint16_t marks = 0;
      if (exists)
        marks = conv_.packed ? MarksOfWords(row, column, count) : MarksOfCounts(row, column, count);
      // What was zero and stays so need not be written.
      std::uint8_t* before = marks_ + slot * layout_.mark_bytes + column / 8;
      std::uint16_t old;
      __builtin_memcpy(&old, before, sizeof(old));
      if ((old | marks) == 0) continue;
      __builtin_memcpy(before, &marks, sizeof(marks));
      std::uint8_t* out =
          bytes_ + slot * layout_.slot_stride + (conv_.pad_left + column) * layout_.column_stride;
      if (marks == 0) {
        Clear(count, out);
      } else if (conv_.packed) {
        Unpack(WordsAt(row, column), count, out);
      } else {
        Interleave(row, column, count, out);
      }
    }
  }

  const std::uint32_t* WordsAt(std::int64_t row, std::int64_t column) const {
    return static_cast<const std::uint32_t*>(image_) + (row * conv_.in_width + column) * words_;
  }

  const std::uint8_t* CountsAt(std::int64_t channel, std::int64_t row, std::int64_t column) const {
    return static_cast<const std::uint8_t*>(image_) +
           (channel * conv_.in_height + row) * conv_.in_width + column;
  }

  static __mmask16 Lanes(std::int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }

  // A bit for each of `count` columns: whether it holds anything but zeros.
  std::uint16_t MarksOfWords(std::int64_t row, std::int64_t column, std::int64_t count) const {
    const std::uint32_t* in = WordsAt(row, column);
    if (words_ == 1) {
      const __m512i words = _mm512_maskz_loadu_epi32(Lanes(count), in);
      return _mm512_test_epi32_mask(words, _mm512_set1_epi32(static_cast<int>(last_channels_)));
    }
    std::uint32_t marks = 0;
    for (std::int64_t i = 0; i < count; ++i, in += words_) {
      std::uint32_t any = in[words_ - 1] & last_channels_;
      for (std::int64_t w = 0; w < words_ - 1; ++w) any |= in[w];
      marks |= (any != 0 ? 1u : 0u) << i;
    }
    return static_cast<std::uint16_t>(marks);
  }

  std::uint16_t MarksOfCounts(std::int64_t row, std::int64_t column, std::int64_t count) const {
    __m128i any = _mm_setzero_si128();
    for (std::int64_t c = 0; c < conv_.channels; ++c) {
      any = _mm_or_si128(any, _mm_maskz_loadu_epi8(Lanes(count), CountsAt(c, row, column)));
    }
    return _mm_test_epi8_mask(any, any);
  }

  void Clear(std::int64_t count, std::uint8_t* out) const {
    for (std::int64_t i = 0; i < count; ++i, out += layout_.column_stride) {
      __builtin_memset(out, 0, static_cast<std::size_t>(conv_.channels));
    }
  }

  // Bits to bytes.
  void Unpack(const std::uint32_t* in, std::int64_t count, std::uint8_t* out) const {
    const __m256i one = _mm256_set1_epi8(1);
    if (conv_.channels == kWordBits && count == kMarked) {
      for (std::int64_t i = 0; i < kMarked; ++i, out += layout_.column_stride) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_maskz_mov_epi8(in[i], one));
      }
      return;
    }
    for (std::int64_t i = 0; i < count; ++i, out += layout_.column_stride, in += words_) {
      for (std::int64_t w = 0; w < words_ - 1; ++w) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + w * kWordBits),
                            _mm256_maskz_mov_epi8(in[w], one));
      }
      _mm256_mask_storeu_epi8(out + (words_ - 1) * kWordBits, last_channels_,
                              _mm256_maskz_mov_epi8(in[words_ - 1], one));
    }
  }

  // Planes to pixels, two channels at a time.
  void Interleave(std::int64_t row, std::int64_t column, std::int64_t count,
                  std::uint8_t* out) const {
    for (std::int64_t c = 0; c < conv_.channels; c += 2) {
      const bool pair = c + 1 < conv_.channels;
      const __m128i a = _mm_maskz_loadu_epi8(Lanes(count), CountsAt(c, row, column));
      const __m128i b = pair ? _mm_maskz_loadu_epi8(Lanes(count), CountsAt(c + 1, row, column)) : a;
      alignas(32) std::uint8_t zipped[2 * kMarked];
      _mm_store_si128(reinterpret_cast<__m128i*>(zipped), _mm_unpacklo_epi8(a, b));
      _mm_store_si128(reinterpret_cast<__m128i*>(zipped + kMarked), _mm_unpackhi_epi8(a, b));
      for (std::int64_t i = 0; i < count; ++i) {
        std::uint8_t* pixel = out + i * layout_.column_stride + c;
        if (pair) {
          __builtin_memcpy(pixel, zipped + 2 * i, 2);
        } else {
          *pixel = zipped[2 * i];
        }
      }
    }
  }

  Convolution conv_;
  RingLayout layout_;
  std::uint8_t* bytes_;
  std::uint8_t* marks_;
  std::int64_t seen_width_;
  std::int64_t words_;
  __mmask32 last_channels_;
  const void* image_ = nullptr;
  std::int64_t first_row_ = 0;
  std::int64_t next_row_ = kNone;
};

}  // namespace
}  // namespace lif_op
