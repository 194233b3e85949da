// The integer neuron on planes of one channel each; the arithmetic is in lanes_avx512.h.
#include <immintrin.h>

#include "kernels/planes.h"
#include "kernels/qlif/lanes_avx512.h"
#include "kernels/qlif/qlif_contract.h"

namespace lif_op::avx512vnni {
namespace {

constexpr std::int64_t kLanes = 32;

// Shifts and bounds of the input current, the same for all neurons of a call.
template <class Mem>
class Current {
 public:
  explicit Current(int frac_bits) : shifts_(frac_bits) {
    const std::int32_t span = shifts_.template Span<Mem>();
    lo_ = _mm512_set1_epi32(-span);
    hi_ = _mm512_set1_epi32(span - 1);
  }

  // Of thirty-two accumulators.
  __m512i operator()(__mmask32 lanes, const std::int32_t* acc) const {
    const __m256i first = Sixteen(static_cast<__mmask16>(lanes), acc);
    const __m256i second = Sixteen(static_cast<__mmask16>(lanes >> 16), acc + 16);
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    return shifts_.Up(both);
  }

 private:
  __m256i Sixteen(__mmask16 lanes, const std::int32_t* acc) const {
    const __m512i value = shifts_.Down(_mm512_maskz_loadu_epi32(lanes, acc));
    return _mm512_cvtepi32_epi16(_mm512_max_epi32(_mm512_min_epi32(value, hi_), lo_));
  }

  CurrentShifts shifts_;
  __m512i lo_;
  __m512i hi_;
};

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
          const __m512i mem = LoadMembranes(lanes, args.mem + i);
          const __m512i decayed = keeps_all ? mem : DecayLanes(mem, decay_high);
          const __m512i u =
              ClampLanes<Mem>(_mm512_adds_epi16(decayed, current(lanes, args.acc + i)));
          const __mmask32 fires = _mm512_cmpgt_epi16_mask(u, threshold_v);
          _mm256_mask_storeu_epi8(args.spike + i, lanes, _mm256_maskz_mov_epi8(fires, one));
          StoreMembranes(lanes, ResetLanes<Mem, kReset>(u, fires, threshold_v), args.mem_out + i);
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
