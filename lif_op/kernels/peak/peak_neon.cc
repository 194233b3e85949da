// Bytes by smull and sadalp, the two instructions that make a 32-bit sum of them, and floats by
// fmla.
#include <arm_neon.h>

#include "kernels/peak/peak_contract.h"

namespace lif_op::neon {

void IntegerPeak(std::int64_t rounds) {
  int8x8_t x = vdup_n_s8(1);
#define START(i) int32x4_t sum##i = vdupq_n_s32(0);
#define FEED(i)                                 \
  LIF_OP_OPAQUE("w", x);                        \
  sum##i = vpadalq_s16(sum##i, vmull_s8(x, x)); \
  LIF_OP_OPAQUE("w", sum##i);
  LIF_OP_PEAK_12(START)
  for (std::int64_t round = 0; round < rounds; ++round) {
    LIF_OP_PEAK_12(FEED)
  }
#undef START
#undef FEED
}

void FloatPeak(std::int64_t rounds) {
  const float32x4_t x = vdupq_n_f32(0.5f);
#define START(i) float32x4_t sum##i = vdupq_n_f32(0);
#define FEED(i)                     \
  sum##i = vfmaq_f32(sum##i, x, x); \
  LIF_OP_OPAQUE("w", sum##i);
  LIF_OP_PEAK_12(START)
  for (std::int64_t round = 0; round < rounds; ++round) {
    LIF_OP_PEAK_12(FEED)
  }
#undef START
#undef FEED
}

}  // namespace lif_op::neon
