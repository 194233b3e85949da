// The neuron at the end of a fused layer: thirty-two channels of one pixel, in 16-bit lanes for
// both types of the membrane. Included by the AVX-512 targets only; internal linkage, see planes.h.
//
// Nothing needs more than 16 bits once the accumulator has been clamped: the decay product is the
// high half of abs(mem) * (decay << 8), and saturating addition is the clamp of a 16-bit membrane.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/qlif/qlif_contract.h"

namespace lif_op {
namespace {

// Parameters of thirty-two channels as the lanes want them. Channels beyond the last of a layer get
// decay 0 and the highest threshold, so that they never fire.
struct alignas(64) NeuronLanes {
  std::int16_t decay_high[32];  // decay << 8, modulo 2^16
  std::int16_t threshold[32];   // at most the highest membrane
  std::uint32_t keeps_all;      // bit of each channel whose decay is kDecayOne
};

// Whether the thresholds fit the lanes. One below all membranes, with which a neuron always fires,
// does not.
template <class Mem>
bool ThresholdsFit(const std::int32_t* threshold, std::int64_t channels) {
  for (std::int64_t c = 0; c < channels; ++c) {
    if (threshold[c] < MembraneLimits<Mem>::kLo) return false;
  }
  return true;
}

// Lanes of the channels first..first + 31, of which those below `channels` exist.
template <class Mem>
void FillNeuronLanes(const std::int32_t* decay, const std::int32_t* threshold, std::int64_t first,
                     std::int64_t channels, NeuronLanes* lanes) {
  constexpr std::int32_t kHi = MembraneLimits<Mem>::kHi;
  lanes->keeps_all = 0;
  for (std::int64_t i = 0; i < 32; ++i) {
    const bool exists = first + i < channels;
    const std::int32_t d = exists ? decay[first + i] : 0;
    const std::int32_t limit = exists ? threshold[first + i] : kHi;
    lanes->decay_high[i] = static_cast<std::int16_t>((d & 0xFF) << 8);
    lanes->threshold[i] = static_cast<std::int16_t>(limit < kHi ? limit : kHi);
    if (d == kDecayOne) lanes->keeps_all |= 1u << i;
  }
}

template <class Mem, Reset kReset>
class Neuron32 {
 public:
  // `saturates`: whether an accumulator can leave the range of the current. Where the sums are
  // known to stay inside, the clamp is left out.
  Neuron32(int frac_bits, bool saturates) : rounds_(frac_bits < 0), clamps_(saturates) {
    const int down = rounds_ ? -frac_bits : 1;
    const int up = rounds_ ? 0 : frac_bits;
    const std::int32_t span = (MembraneLimits<Mem>::kHi + 1) >> up;
    lo_ = _mm512_set1_epi16(static_cast<short>(-span));
    hi_ = _mm512_set1_epi16(static_cast<short>(span - 1));
    down_ = _mm_cvtsi32_si128(down);
    half_ = _mm_cvtsi32_si128(down - 1);
    up_ = _mm_cvtsi32_si128(up);
    shifts_up_ = up > 0;
  }

  // Current of two vectors of accumulators whose lanes interleave the way _mm512_packs_epi32 takes
  // them: within each group of eight channels, the first four in `even`, the last four in `odd`.
  __m512i CurrentOfPacked(__m512i even, __m512i odd) const {
    if (rounds_) {
      even = Rounded(even);
      odd = Rounded(odd);
    }
    return Bounded(_mm512_packs_epi32(even, odd));
  }

  // Current of sums in channel order that fit 16 bits and need no rounding.
  __m512i CurrentOfNarrow(__m512i acc) const { return Bounded(acc); }

  bool rounds() const { return rounds_; }

  // Advances the membranes of the channels in `exist` and returns which neurons fire.
  __mmask32 operator()(__m512i current, const NeuronLanes& lanes, __mmask32 exist, const Mem* mem,
                       Mem* mem_out) const {
    const __m512i before = Load(exist, mem);
    const __m512i threshold = _mm512_load_si512(lanes.threshold);
    const __m512i u = Clamp(_mm512_adds_epi16(Decayed(before, lanes), current));
    const __mmask32 fires = _mm512_cmpgt_epi16_mask(u, threshold);
    __m512i after = u;
    if constexpr (kReset == Reset::kZero) {
      after = _mm512_maskz_mov_epi16(~fires, u);
    } else if constexpr (kReset == Reset::kSubtract) {
      after = Clamp(_mm512_mask_subs_epi16(u, fires, u, threshold));
    }
    Store(exist, after, mem_out);
    return fires;
  }

 private:
  static constexpr __mmask32 kAll = 0xFFFFFFFFu;

  // floor((a + 2^(k-1)) / 2^k) without the sum, which could overflow.
  __m512i Rounded(__m512i acc) const {
    const __m512i half = _mm512_and_si512(_mm512_sra_epi32(acc, half_), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_sra_epi32(acc, down_), half);
  }

  __m512i Bounded(__m512i current) const {
    if (clamps_) current = _mm512_max_epi16(_mm512_min_epi16(current, hi_), lo_);
    return shifts_up_ ? _mm512_sll_epi16(current, up_) : current;
  }

  static __m512i Clamp(__m512i value) {
    if constexpr (sizeof(Mem) == 2) return value;  // the saturating operations have done it
    const __m512i hi = _mm512_set1_epi16(MembraneLimits<Mem>::kHi);
    const __m512i lo = _mm512_set1_epi16(MembraneLimits<Mem>::kLo);
    return _mm512_max_epi16(_mm512_min_epi16(value, hi), lo);
  }

  // trunc_toward_zero(mem * decay / 256).
  static __m512i Decayed(__m512i mem, const NeuronLanes& lanes) {
    const __m512i decay_high = _mm512_load_si512(lanes.decay_high);
    const __m512i magnitude = _mm512_mulhi_epu16(_mm512_abs_epi16(mem), decay_high);
    const __mmask32 negative = _mm512_movepi16_mask(mem);
    const __m512i decayed =
        _mm512_mask_sub_epi16(magnitude, negative, _mm512_setzero_si512(), magnitude);
    if (__builtin_expect(lanes.keeps_all == 0, 1)) return decayed;
    return _mm512_mask_mov_epi16(decayed, lanes.keeps_all, mem);
  }

  static __m512i Load(__mmask32 exist, const std::int16_t* mem) {
    if (exist == kAll) return _mm512_loadu_si512(mem);
    return _mm512_maskz_loadu_epi16(exist, mem);
  }

  static __m512i Load(__mmask32 exist, const std::int8_t* mem) {
    return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(exist, mem));
  }

  static void Store(__mmask32 exist, __m512i value, std::int16_t* mem) {
    if (exist == kAll) {
      _mm512_storeu_si512(mem, value);
    } else {
      _mm512_mask_storeu_epi16(mem, exist, value);
    }
  }

  static void Store(__mmask32 exist, __m512i value, std::int8_t* mem) {
    _mm256_mask_storeu_epi8(mem, exist, _mm512_cvtepi16_epi8(value));
  }

  bool rounds_;
  bool clamps_;
  bool shifts_up_;
  __m512i lo_;
  __m512i hi_;
  __m128i down_;
  __m128i half_;
  __m128i up_;
};

}  // namespace
}  // namespace lif_op
