// The float neuron, four at a time.
#include <arm_neon.h>

#include "kernels/lif/lif_contract.h"
#include "kernels/planes.h"

namespace lif_op::neon {
namespace {

constexpr std::int64_t kLanes = 4;

float32x4_t Masked(float32x4_t value, uint32x4_t lanes) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(value), lanes));
}

float32x4_t WithoutDenormals(float32x4_t membrane) {
  return Masked(membrane, vmvnq_u32(vcltq_f32(vabsq_f32(membrane), vdupq_n_f32(FLT_MIN))));
}

template <FireRule kRule, Reset kReset>
void Run(const LifArgs& args, Range range) {
  ForEachPlane(
      args.layout, range, [&args](std::int64_t channel, std::int64_t offset, std::int64_t count) {
        const float beta = args.beta[channel];
        const float threshold = args.threshold[channel];
        const float32x4_t beta_v = vdupq_n_f32(beta);
        const float32x4_t threshold_v = vdupq_n_f32(threshold);
        const std::int64_t end = offset + count;
        std::int64_t i = offset;
        for (; i + kLanes <= end; i += kLanes) {
          const float32x4_t decayed = vmulq_f32(beta_v, vld1q_f32(args.mem + i));
          const float32x4_t u = vaddq_f32(decayed, vld1q_f32(args.current + i));
          const uint32x4_t fires =
              kRule == FireRule::kAbove ? vcgtq_f32(u, threshold_v) : vcgeq_f32(u, threshold_v);
          float32x4_t after = u;
          if constexpr (kReset == Reset::kZero) {
            after = Masked(u, vmvnq_u32(fires));
          } else if constexpr (kReset == Reset::kSubtract) {
            after = vbslq_f32(fires, vsubq_f32(u, threshold_v), u);
          }
          vst1q_f32(args.spike + i, Masked(vdupq_n_f32(1.0f), fires));
          vst1q_f32(args.mem_out + i, WithoutDenormals(after));
        }
        for (; i < end; ++i) {
          LifNeuron<kRule, kReset>(args.current[i], args.mem[i], beta, threshold, &args.spike[i],
                                   &args.mem_out[i]);
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

}  // namespace lif_op::neon
