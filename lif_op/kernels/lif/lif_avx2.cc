// The float neuron, eight at a time.
#include <immintrin.h>

#include "kernels/lif/lif_contract.h"
#include "kernels/planes.h"

namespace lif_op::avx2 {
namespace {

__m256 WithoutDenormals(__m256 membrane) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), membrane);
  // Not less, rather than greater or equal, keeps NaN.
  return _mm256_and_ps(membrane, _mm256_cmp_ps(magnitude, _mm256_set1_ps(FLT_MIN), _CMP_NLT_UQ));
}

template <FireRule kRule, Reset kReset>
void Run(const LifArgs& args, Range range) {
  ForEachPlane(args.layout, range,
               [&args](std::int64_t channel, std::int64_t offset, std::int64_t count) {
                 const float beta = args.beta[channel];
                 const float threshold = args.threshold[channel];
                 const __m256 beta_v = _mm256_set1_ps(beta);
                 const __m256 threshold_v = _mm256_set1_ps(threshold);
                 const __m256 one = _mm256_set1_ps(1.0f);
                 constexpr int kCompare = kRule == FireRule::kAbove ? _CMP_GT_OQ : _CMP_GE_OQ;
                 const std::int64_t end = offset + count;
                 std::int64_t i = offset;
                 for (; i + 8 <= end; i += 8) {
                   const __m256 decayed = _mm256_mul_ps(beta_v, _mm256_loadu_ps(args.mem + i));
                   const __m256 u = _mm256_add_ps(decayed, _mm256_loadu_ps(args.current + i));
                   const __m256 fires = _mm256_cmp_ps(u, threshold_v, kCompare);
                   __m256 after = u;
                   if constexpr (kReset == Reset::kZero) {
                     after = _mm256_andnot_ps(fires, u);
                   } else if constexpr (kReset == Reset::kSubtract) {
                     after = _mm256_blendv_ps(u, _mm256_sub_ps(u, threshold_v), fires);
                   }
                   _mm256_storeu_ps(args.spike + i, _mm256_and_ps(fires, one));
                   _mm256_storeu_ps(args.mem_out + i, WithoutDenormals(after));
                 }
                 for (; i < end; ++i) {
                   LifNeuron<kRule, kReset>(args.current[i], args.mem[i], beta, threshold,
                                            &args.spike[i], &args.mem_out[i]);
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

}  // namespace lif_op::avx2
