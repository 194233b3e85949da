// The integer neuron, thirty-two at a time in 16-bit lanes for both membrane types.
//
// Nothing needs more than 16 bits once the accumulator has been clamped: the decay product is the
// high half of abs(mem) * (decay << 8), and saturating addition is the clamp of a 16-bit membrane.
#include <immintrin.h>

#include "kernels/planes.h"
#include "kernels/qlif/qlif_contract.h"

namespace lif_op::avx512vnni {
namespace {

constexpr std::int64_t kLanes = 32;

__m512i LoadMem(__mmask32 lanes, const std::int16_t* mem) {
  return _mm512_maskz_loadu_epi16(lanes, mem);
}

__m512i LoadMem(__mmask32 lanes, const std::int8_t* mem) {
  return _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(lanes, mem));
}

void StoreMem(__mmask32 lanes, __m512i value, std::int16_t* mem) {
  _mm512_mask_storeu_epi16(mem, lanes, value);
}

void StoreMem(__mmask32 lanes, __m512i value, std::int8_t* mem) {
  _mm256_mask_storeu_epi8(mem, lanes, _mm512_cvtepi16_epi8(value));
}

template <class Mem>
__m512i Clamp(__m512i value) {
  if constexpr (sizeof(Mem) == 2) return value;  // the saturating operations have done it
  const __m512i hi = _mm512_set1_epi16(MembraneLimits<Mem>::kHi);
  const __m512i lo = _mm512_set1_epi16(MembraneLimits<Mem>::kLo);
  return _mm512_max_epi16(_mm512_min_epi16(value, hi), lo);
}

// Shifts and bounds of the input current, the same for all neurons of a call.
template <class Mem>
class Current {
 public:
  explicit Current(int frac_bits) : rounds_(frac_bits < 0) {
    const int down = rounds_ ? -frac_bits : 1;
    const int up = rounds_ ? 0 : frac_bits;
    const std::int32_t span = (MembraneLimits<Mem>::kHi + 1) >> up;
    lo_ = _mm512_set1_epi32(-span);
    hi_ = _mm512_set1_epi32(span - 1);
    down_ = _mm_cvtsi32_si128(down);
    half_ = _mm_cvtsi32_si128(down - 1);
    up_ = _mm_cvtsi32_si128(up);
  }

  // Of thirty-two accumulators.
  __m512i operator()(__mmask32 lanes, const std::int32_t* acc) const {
    const __m256i first = Sixteen(static_cast<__mmask16>(lanes), acc);
    const __m256i second = Sixteen(static_cast<__mmask16>(lanes >> 16), acc + 16);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    return _mm512_sll_epi16(both, up_);
  }

 private:
  __m256i Sixteen(__mmask16 lanes, const std::int32_t* acc) const {
    __m512i value = _mm512_maskz_loadu_epi32(lanes, acc);
    if (rounds_) {
      // floor((a + 2^(k-1)) / 2^k) without the sum, which could overflow.
      const __m512i half = _mm512_and_si512(_mm512_sra_epi32(value, half_), _mm512_set1_epi32(1));
      value = _mm512_add_epi32(_mm512_sra_epi32(value, down_), half);
    }
    value = _mm512_max_epi32(_mm512_min_epi32(value, hi_), lo_);
    return _mm512_cvtepi32_epi16(value);
  }

  bool rounds_;
  __m512i lo_;
  __m512i hi_;
  __m128i down_;
  __m128i half_;
  __m128i up_;
};

// trunc_toward_zero(mem * decay / 256); decay_high is decay << 8, and a decay of 256 does nothing.
__m512i Decay(__m512i mem, __m512i decay_high, bool keeps_all) {
  if (keeps_all) return mem;
  const __m512i magnitude = _mm512_mulhi_epu16(_mm512_abs_epi16(mem), decay_high);
  const __mmask32 negative = _mm512_movepi16_mask(mem);
  return _mm512_mask_sub_epi16(magnitude, negative, _mm512_setzero_si512(), magnitude);
}

template <Reset kReset, class Mem>
void Run(const QlifArgs<Mem>& args, Range range) {
  const Current<Mem> current(args.frac_bits);
  ForEachPlane(
      args.layout, range, [&](std::int64_t channel, std::int64_t offset, std::int64_t count) {
        const std::int32_t decay = args.decay[channel];
        const std::int32_t threshold = args.threshold[channel];
        // A threshold below all membranes does not fit the lanes.
        if (threshold < MembraneLimits<Mem>::kLo) {
          return QlifPlane<kReset>(args, channel, offset, count);
        }
        const bool keeps_all = decay == kDecayOne;
        const __m512i decay_high = _mm512_set1_epi16(static_cast<short>((decay & 0xFF) << 8));
        const __m512i threshold_v =
            _mm512_set1_epi16(static_cast<short>(Min(threshold, MembraneLimits<Mem>::kHi)));
        const __m256i one = _mm256_set1_epi8(1);
        const std::int64_t end = offset + count;
        for (std::int64_t i = offset; i < end; i += kLanes) {
          const auto lanes = static_cast<__mmask32>((1ull << Min(kLanes, end - i)) - 1ull);
          const __m512i decayed = Decay(LoadMem(lanes, args.mem + i), decay_high, keeps_all);
          const __m512i u = Clamp<Mem>(_mm512_adds_epi16(decayed, current(lanes, args.acc + i)));
          const __mmask32 fires = _mm512_cmpgt_epi16_mask(u, threshold_v);
          __m512i after = u;
          if constexpr (kReset == Reset::kZero) {
            after = _mm512_maskz_mov_epi16(~fires, u);
          } else if constexpr (kReset == Reset::kSubtract) {
            after = Clamp<Mem>(_mm512_mask_subs_epi16(u, fires, u, threshold_v));
          }
          _mm256_mask_storeu_epi8(args.spike + i, lanes, _mm256_maskz_mov_epi8(fires, one));
          StoreMem(lanes, after, args.mem_out + i);
        }
      });
}

template <class Mem>
void Dispatch(const QlifArgs<Mem>& args, Range range) {
  switch (args.reset) {
    case Reset::kZero:
      return Run<Reset::kZero>(args, range);
    case Reset::kSubtract:
      return Run<Reset::kSubtract>(args, range);
    case Reset::kNone:
      return Run<Reset::kNone>(args, range);
  }
}

}  // namespace

void Qlif(const QlifArgs<std::int16_t>& args, Range range) { Dispatch(args, range); }
void Qlif(const QlifArgs<std::int8_t>& args, Range range) { Dispatch(args, range); }

}  // namespace lif_op::avx512vnni
