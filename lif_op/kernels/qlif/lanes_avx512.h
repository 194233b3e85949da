// The integer neuron of lif_op/qlif.h, thirty-two at a time in 16-bit lanes for both types of the
// membrane. Included by the AVX-512 targets only; internal linkage, see planes.h.
//
// Nothing needs more than 16 bits once the accumulator has been clamped: the decay product is the
// high half of abs(mem) * (decay << 8), and saturating addition is the clamp of a 16-bit membrane.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/qlif/qlif_contract.h"

namespace lif_op {
namespace {

inline __m512i LoadMembranes(__mmask32 exist, const std::int16_t* mem) {
  if (exist == 0xFFFFFFFFu) return _mm512_loadu_si512(mem);
  return _mm512_maskz_loadu_epi16(exist, mem);
}

inline __m512i LoadMembranes(__mmask32 exist, const std::int8_t* mem) {
  return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(exist, mem));
}

inline void StoreMembranes(__mmask32 exist, __m512i value, std::int16_t* mem) {
  if (exist == 0xFFFFFFFFu) {
    _mm512_storeu_si512(mem, value);
  } else {
    _mm512_mask_storeu_epi16(mem, exist, value);
  }
}

inline void StoreMembranes(__mmask32 exist, __m512i value, std::int8_t* mem) {
  _mm256_mask_storeu_epi8(mem, exist, _mm512_cvtepi16_epi8(value));
}

// What saturating operations leave to be clamped.
template <class Mem>
inline __m512i ClampLanes(__m512i value) {
  if constexpr (sizeof(Mem) == 2) return value;
  const __m512i hi = _mm512_set1_epi16(MembraneLimits<Mem>::kHi);
  const __m512i lo = _mm512_set1_epi16(MembraneLimits<Mem>::kLo);
  return _mm512_max_epi16(_mm512_min_epi16(value, hi), lo);
}

// Shifts of the input current: down and rounded for a negative frac_bits, else up.
class CurrentShifts {
 public:
  explicit CurrentShifts(int frac_bits)
      : rounds_(frac_bits < 0),
        up_bits_(rounds_ ? 0 : frac_bits),
        down_(_mm_cvtsi32_si128(rounds_ ? -frac_bits : 1)),
        half_(_mm_cvtsi32_si128(rounds_ ? -frac_bits - 1 : 0)),
        up_(_mm_cvtsi32_si128(up_bits_)) {}

  bool shifts_up() const { return up_bits_ > 0; }

  // What is shifted up stays below this, and at least at its negative.
  template <class Mem>
  std::int32_t Span() const {
    return (MembraneLimits<Mem>::kHi + 1) >> up_bits_;
  }

  // Accumulators, 32 bits each: floor((a + 2^(k-1)) / 2^k) without the sum, which could overflow.
  __m512i Down(__m512i acc) const {
    if (!rounds_) return acc;
    const __m512i half = _mm512_and_si512(_mm512_sra_epi32(acc, half_), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_sra_epi32(acc, down_), half);
  }

  __m512i Up(__m512i current) const { return _mm512_sll_epi16(current, up_); }

 private:
  bool rounds_;
  int up_bits_;
  __m128i down_;
  __m128i half_;
  __m128i up_;
};

// trunc_toward_zero(mem * decay / 256) for decays below 256; `decay_high` is decay << 8.
inline __m512i DecayLanes(__m512i mem, __m512i decay_high) {
  const __m512i magnitude = _mm512_mulhi_epu16(_mm512_abs_epi16(mem), decay_high);
  const __mmask32 negative = _mm512_movepi16_mask(mem);
  return _mm512_mask_sub_epi16(magnitude, negative, _mm512_setzero_si512(), magnitude);
}

// The membrane after a step.
template <class Mem, Reset kReset>
inline __m512i ResetLanes(__m512i u, __mmask32 fires, __m512i threshold) {
  if constexpr (kReset == Reset::kZero) return _mm512_maskz_mov_epi16(~fires, u);
  if constexpr (kReset == Reset::kNone) return u;
  return ClampLanes<Mem>(_mm512_mask_subs_epi16(u, fires, u, threshold));
}

}  // namespace
}  // namespace lif_op
