// The fused layer by look-up with 256-bit vectors: one vpshufb looks up a block of 32 pixels.
#include <immintrin.h>

#include "kernels/qconv/words_avx2.h"
#include "kernels/qconv_lif/nibble_layer.h"
#include "kernels/qconv_lif/qconv_lif_contract.h"

namespace lif_op::avx2 {
namespace {

__m256i Load256(const void* memory) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(memory));
}

void Store256(void* memory, __m256i value) {
  _mm256_storeu_si256(static_cast<__m256i*>(memory), value);
}

struct Isa {
  using Words = avx2::Words;

  // Bytes of neighbouring pixels.
  using Bytes = __m256i;
  static constexpr int kBytes = 32;

  static constexpr std::int64_t kMacsPerUs = 330000;

  static Bytes LoadBytes(const std::uint8_t* bytes) { return Load256(bytes); }

  static Bytes LoadTable(const std::uint8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
  }

  static Bytes LookUp(Bytes table, const std::uint8_t* nibbles) {
    return _mm256_shuffle_epi8(table, Load256(nibbles));
  }

  static Bytes AddBytes(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
  static Bytes OrBytes(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
  static bool AnyBit(Bytes bytes) { return _mm256_testz_si256(bytes, bytes) == 0; }

  // 16-bit sums of the bytes, modulo 2^16: `all` takes a pair of neighbours as one number, of which
  // `odd` is the upper byte.
  struct Sum {
    __m256i all;
    __m256i odd;
  };

  static void Widen(Bytes bytes, Sum& sum) {
    sum.all = _mm256_add_epi16(sum.all, bytes);
    sum.odd = _mm256_add_epi16(sum.odd, _mm256_srli_epi16(bytes, 8));
  }

  // 16-bit numbers of neighbouring pixels, or channels.
  using Lanes = __m256i;
  static constexpr int kLanes = 16;

  static void InOrder(const Sum& sum, Lanes (&lanes)[2]) {
    const __m256i even = _mm256_sub_epi16(sum.all, _mm256_slli_epi16(sum.odd, 8));
    const __m256i low = _mm256_unpacklo_epi16(even, sum.odd);
    const __m256i high = _mm256_unpackhi_epi16(even, sum.odd);
    lanes[0] = _mm256_permute2x128_si256(low, high, 0x20);
    lanes[1] = _mm256_permute2x128_si256(low, high, 0x31);
  }

  static Lanes Load(const std::int16_t* lanes) { return Load256(lanes); }
  static void Store(Lanes lanes, std::int16_t* out) { Store256(out, lanes); }

  static Lanes Load(const std::int8_t* lanes) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(lanes)));
  }

  static void Store(Lanes lanes, std::int8_t* out) {
    const __m128i low = _mm256_castsi256_si128(lanes);
    const __m128i bytes = _mm_packs_epi16(low, _mm256_extracti128_si256(lanes, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
  }

  static Lanes Splat(std::int32_t value) { return _mm256_set1_epi16(static_cast<short>(value)); }
  static Lanes And(Lanes a, Lanes b) { return _mm256_and_si256(a, b); }
  static Lanes AndNot(Lanes a, Lanes b) { return _mm256_andnot_si256(b, a); }
  static Lanes Add(Lanes a, Lanes b) { return _mm256_add_epi16(a, b); }
  static Lanes AddSaturating(Lanes a, Lanes b) { return _mm256_adds_epi16(a, b); }
  static Lanes SubtractSaturating(Lanes a, Lanes b) { return _mm256_subs_epi16(a, b); }
  static Lanes AtMost(Lanes a, Lanes b) { return _mm256_min_epi16(a, b); }
  static Lanes AtLeast(Lanes a, Lanes b) { return _mm256_max_epi16(a, b); }
  static Lanes Above(Lanes a, Lanes b) { return _mm256_cmpgt_epi16(a, b); }
  static Lanes ShiftUp(Lanes a, int by) { return _mm256_sll_epi16(a, _mm_cvtsi32_si128(by)); }
  static Lanes ShiftDown(Lanes a, int by) { return _mm256_sra_epi16(a, _mm_cvtsi32_si128(by)); }

  // Decays of sixteen channels: shifted up, so that the high half of a product is the quotient;
  // a decay of kDecayOne leaves nothing there, and its channel is in `keeps` instead.
  struct Decay {
    __m256i shifted;
    __m256i keeps;
  };

  static Decay DecayOf(Lanes decay) {
    return {_mm256_slli_epi16(decay, 8), _mm256_cmpeq_epi16(decay, Splat(kDecayOne))};
  }

  // trunc_toward_zero(mem * decay / 256).
  static Lanes Decayed(Lanes mem, const Decay& decay) {
    const __m256i absolute = _mm256_abs_epi16(mem);
    const __m256i magnitude = _mm256_or_si256(_mm256_mulhi_epu16(absolute, decay.shifted),
                                              _mm256_and_si256(absolute, decay.keeps));
    return _mm256_sign_epi16(magnitude, mem);
  }

  // Bit c is set where lane c is.
  static std::uint32_t Word(const Lanes (&fires)[2]) {
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(fires[0], fires[1]), 0xD8);
    return static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
  }

  // Spreads the nibbles of 32 words over eight planes, and adds to `occupancy` which are not 0.
  static void Spread(const std::uint32_t* words, std::int64_t plane, std::uint8_t* out,
                     std::uint8_t* occupancy) {
    // In each quarter vector the bytes of four words, first to last.
    const __m256i by_byte = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m256i a = _mm256_shuffle_epi8(Load256(words), by_byte);
    const __m256i b = _mm256_shuffle_epi8(Load256(words + 8), by_byte);
    const __m256i c = _mm256_shuffle_epi8(Load256(words + 16), by_byte);
    const __m256i d = _mm256_shuffle_epi8(Load256(words + 24), by_byte);
    const __m256i ab_low = _mm256_unpacklo_epi32(a, b);
    const __m256i ab_high = _mm256_unpackhi_epi32(a, b);
    const __m256i cd_low = _mm256_unpacklo_epi32(c, d);
    const __m256i cd_high = _mm256_unpackhi_epi32(c, d);
    const __m256i bytes[4] = {
        _mm256_unpacklo_epi64(ab_low, cd_low), _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high), _mm256_unpackhi_epi64(ab_high, cd_high)};
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i nibble = _mm256_set1_epi8(0x0F);
    __m256i seen = Load256(occupancy);
    for (int i = 0; i < 4; ++i) {
      const __m256i in_order = _mm256_permutevar8x32_epi32(bytes[i], order);
      seen = _mm256_or_si256(seen, in_order);
      Store256(out + 2 * i * plane, _mm256_and_si256(in_order, nibble));
      Store256(out + (2 * i + 1) * plane, _mm256_and_si256(_mm256_srli_epi16(in_order, 4), nibble));
    }
    Store256(occupancy, seen);
  }

  // Transposes sixteen by sixteen numbers.
  static void Transpose(const std::int16_t* in, std::int64_t in_row, std::int16_t* out,
                        std::int64_t out_row) {
    __m256i low[8];
    __m256i high[8];
    TransposeEight(in, in_row, low);
    TransposeEight(in + 8 * in_row, in_row, high);
    for (int i = 0; i < 8; ++i) {
      Store256(out + i * out_row, _mm256_permute2x128_si256(low[i], high[i], 0x20));
      Store256(out + (8 + i) * out_row, _mm256_permute2x128_si256(low[i], high[i], 0x31));
    }
  }

 private:
  // Of eight rows of sixteen numbers: the columns i and 8 + i in the halves of out[i].
  static void TransposeEight(const std::int16_t* in, std::int64_t in_row, __m256i (&out)[8]) {
    __m256i pairs[8];
    for (int i = 0; i < 4; ++i) {
      const __m256i first = Load256(in + 2 * i * in_row);
      const __m256i second = Load256(in + (2 * i + 1) * in_row);
      pairs[i] = _mm256_unpacklo_epi16(first, second);
      pairs[4 + i] = _mm256_unpackhi_epi16(first, second);
    }
    __m256i quads[8];
    for (int i = 0; i < 8; i += 2) {
      quads[i] = _mm256_unpacklo_epi32(pairs[i], pairs[i + 1]);
      quads[i + 1] = _mm256_unpackhi_epi32(pairs[i], pairs[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      out[i] = _mm256_unpacklo_epi64(quads[i], quads[i + 2]);
      out[i + 1] = _mm256_unpackhi_epi64(quads[i], quads[i + 2]);
      out[i + 2] = _mm256_unpacklo_epi64(quads[i + 1], quads[i + 3]);
      out[i + 3] = _mm256_unpackhi_epi64(quads[i + 1], quads[i + 3]);
    }
  }
};

}  // namespace

const QconvLifKernel<std::int16_t>& QconvLif16() { return kNibbleKernel<Isa, std::int16_t>; }
const QconvLifKernel<std::int8_t>& QconvLif8() { return kNibbleKernel<Isa, std::int8_t>; }

}  // namespace lif_op::avx2
