// Bytes by sdot.
#include <arm_neon.h>

#include "kernels/peak/peak_contract.h"

namespace lif_op::neondot {

void IntegerPeak(std::int64_t rounds) {
  const int8x16_t x = vdupq_n_s8(1);
#define START(i) int32x4_t sum##i = vdupq_n_s32(0);
#define FEED(i)                     \
  sum##i = vdotq_s32(sum##i, x, x); \
  LIF_OP_OPAQUE("w", sum##i);
  LIF_OP_PEAK_12(START)
  for (std::int64_t round = 0; round < rounds; ++round) {
    LIF_OP_PEAK_12(FEED)
  }
#undef START
#undef FEED
}

}  // namespace lif_op::neondot
