// The integer neuron, sixteen at a time in 16-bit lanes for both membrane types.
//
// Nothing needs more than 16 bits once the accumulator has been clamped: the decay product is the
// high half of abs(mem) * (decay << 8), and saturating addition is the clamp of a 16-bit membrane.
#include <immintrin.h>

#include "kernels/planes.h"
#include "kernels/qlif/qlif_contract.h"

namespace lif_op::avx2 {
namespace {

constexpr std::int64_t kLanes = 16;

__m256i LoadMem(const std::int16_t* mem) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mem));
}

__m256i LoadMem(const std::int8_t* mem) {
  return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(mem)));
}

// Narrows 16 lanes of 16 bits to bytes, saturating.
__m128i ToBytes(__m256i lanes) {
  return _mm_packs_epi16(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
}

void StoreMem(__m256i lanes, std::int16_t* mem) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(mem), lanes);
}

void StoreMem(__m256i lanes, std::int8_t* mem) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(mem), ToBytes(lanes));
}

template <class Mem>
__m256i Clamp(__m256i lanes) {
  if constexpr (sizeof(Mem) == 2) return lanes;  // the saturating operations have done it
  const __m256i hi = _mm256_set1_epi16(MembraneLimits<Mem>::kHi);
  const __m256i lo = _mm256_set1_epi16(MembraneLimits<Mem>::kLo);
  return _mm256_max_epi16(_mm256_min_epi16(lanes, hi), lo);
}

// Shifts and bounds of the input current, the same for all neurons of a call.
template <class Mem>
class Current {
 public:
  explicit Current(int frac_bits) : rounds_(frac_bits < 0) {
    const int down = rounds_ ? -frac_bits : 1;
    const int up = rounds_ ? 0 : frac_bits;
    const std::int32_t span = (MembraneLimits<Mem>::kHi + 1) >> up;
    lo_ = _mm256_set1_epi32(-span);
    hi_ = _mm256_set1_epi32(span - 1);
    down_ = _mm_cvtsi32_si128(down);
    half_ = _mm_cvtsi32_si128(down - 1);
    up_ = _mm_cvtsi32_si128(up);
  }

  // Of sixteen accumulators.
  __m256i operator()(const std::int32_t* acc) const {
    const __m256i first = Eight(acc);
    const __m256i second = Eight(acc + 8);
    const __m256i packed = _mm256_packs_epi32(first, second);
    const __m256i in_order = _mm256_permute4x64_epi64(packed, 0xD8);
    return _mm256_sll_epi16(in_order, up_);
  }

 private:
  __m256i Eight(const std::int32_t* acc) const {
    __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc));
    if (rounds_) {
      // floor((a + 2^(k-1)) / 2^k) without the sum, which could overflow.
      const __m256i half = _mm256_and_si256(_mm256_sra_epi32(value, half_), _mm256_set1_epi32(1));
      value = _mm256_add_epi32(_mm256_sra_epi32(value, down_), half);
    }
    return _mm256_max_epi32(_mm256_min_epi32(value, hi_), lo_);
  }

  bool rounds_;
  __m256i lo_;
  __m256i hi_;
  __m128i down_;
  __m128i half_;
  __m128i up_;
};

// trunc_toward_zero(mem * decay / 256); decay_high is decay << 8, and a decay of 256 does nothing.
__m256i Decay(__m256i mem, __m256i decay_high, bool keeps_all) {
  if (keeps_all) return mem;
  const __m256i magnitude = _mm256_mulhi_epu16(_mm256_abs_epi16(mem), decay_high);
  return _mm256_sign_epi16(magnitude, mem);
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
        const __m256i decay_high = _mm256_set1_epi16(static_cast<short>((decay & 0xFF) << 8));
        const __m256i threshold_v =
            _mm256_set1_epi16(static_cast<short>(Min(threshold, MembraneLimits<Mem>::kHi)));
        const std::int64_t end = offset + count;
        std::int64_t i = offset;
        for (; i + kLanes <= end; i += kLanes) {
          const __m256i decayed = Decay(LoadMem(args.mem + i), decay_high, keeps_all);
          const __m256i u = Clamp<Mem>(_mm256_adds_epi16(decayed, current(args.acc + i)));
          const __m256i fires = _mm256_cmpgt_epi16(u, threshold_v);
          __m256i after = u;
          if constexpr (kReset == Reset::kZero) {
            after = _mm256_andnot_si256(fires, u);
          } else if constexpr (kReset == Reset::kSubtract) {
            const __m256i drop = _mm256_and_si256(fires, threshold_v);
            after = Clamp<Mem>(_mm256_subs_epi16(u, drop));
          }
          const __m128i spike = _mm_and_si128(ToBytes(fires), _mm_set1_epi8(1));
          _mm_storeu_si128(reinterpret_cast<__m128i*>(args.spike + i), spike);
          StoreMem(after, args.mem_out + i);
        }
        QlifPlane<kReset>(args, channel, i, end - i);
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

}  // namespace lif_op::avx2
