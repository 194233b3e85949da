// Multiply-accumulates in general registers, and the stream in plain C++.
#include "kernels/peak/peak_contract.h"

namespace lif_op::scalar {

void IntegerPeak(std::int64_t rounds) {
  std::int32_t x = 3;
  std::int32_t factor = 5;
  LIF_OP_OPAQUE("r", factor);
#define START(i) std::int32_t sum##i = 0;
#define FEED(i)          \
  LIF_OP_OPAQUE("r", x); \
  sum##i += x * factor;  \
  LIF_OP_OPAQUE("r", sum##i);
  LIF_OP_PEAK_6(START)
  for (std::int64_t round = 0; round < rounds; ++round) {
    LIF_OP_PEAK_6(FEED)
  }
#undef START
#undef FEED
}

void Stream(std::int16_t* mem, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) mem[i] = static_cast<std::int16_t>(mem[i] ^ 1);
}

}  // namespace lif_op::scalar
