// The float neuron, sixteen at a time.
#include <immintrin.h>

#include "kernels/lif/lif_contract.h"
#include "kernels/planes.h"

namespace lif_op::avx512vnni {
namespace {

__m512 WithoutDenormals(__m512 membrane) {
  // Not less, rather than greater or equal, keeps NaN.
  const __mmask16 kept =
      _mm512_cmp_ps_mask(_mm512_abs_ps(membrane), _mm512_set1_ps(FLT_MIN), _CMP_NLT_UQ);
  return _mm512_maskz_mov_ps(kept, membrane);
}

template <FireRule kRule, Reset kReset>
void Run(const LifArgs& args, Range range) {
  ForEachPlane(args.layout, range,
               [&args](std::int64_t channel, std::int64_t offset, std::int64_t count) {
                 const __m512 beta = _mm512_set1_ps(args.beta[channel]);
                 const __m512 threshold = _mm512_set1_ps(args.threshold[channel]);
                 const __m512 one = _mm512_set1_ps(1.0f);
                 constexpr int kCompare = kRule == FireRule::kAbove ? _CMP_GT_OQ : _CMP_GE_OQ;
                 const std::int64_t end = offset + count;
                 for (std::int64_t i = offset; i < end; i += 16) {
                   const auto lanes = static_cast<__mmask16>((1u << Min(16, end - i)) - 1u);
                   const __m512 mem = _mm512_maskz_loadu_ps(lanes, args.mem + i);
                   const __m512 current = _mm512_maskz_loadu_ps(lanes, args.current + i);
                   const __m512 u = _mm512_add_ps(_mm512_mul_ps(beta, mem), current);
                   const __mmask16 fires = _mm512_cmp_ps_mask(u, threshold, kCompare);
                   __m512 after = u;
                   if constexpr (kReset == Reset::kZero) {
                     after = _mm512_maskz_mov_ps(_knot_mask16(fires), u);
                   } else if constexpr (kReset == Reset::kSubtract) {
                     after = _mm512_mask_sub_ps(u, fires, u, threshold);
                   }
                   _mm512_mask_storeu_ps(args.spike + i, lanes, _mm512_maskz_mov_ps(fires, one));
                   _mm512_mask_storeu_ps(args.mem_out + i, lanes, WithoutDenormals(after));
                 }
               });
}

}  // namespace

void Lif(const LifArgs& args, Range range) {
  switch (args.reset) {
    case Reset::kZero:
      return Run<FireRule::kAbove, Reset::kZero>(args, range);
    case Reset::kSubtract:
      return Run<FireRule::kAbove, Reset::kSubtract>(args, range);
    case Reset::kNone:
      return Run<FireRule::kAbove, Reset::kNone>(args, range);
  }
}

void ForeignLif(const LifArgs& args, Range range) {
  Run<FireRule::kAtOrAbove, Reset::kZero>(args, range);
}

}  // namespace lif_op::avx512vnni
