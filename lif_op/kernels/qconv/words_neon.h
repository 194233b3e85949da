// Products of 32-bit numbers, one to a word: NEON has no dot product that is exact for unsigned
// times signed bytes, and widening products of fewer bits are no faster. Internal linkage, see
// planes.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace lif_op::neon {
namespace {

struct Words {
  using Vector = int32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kGroup = 1;           // channels to a word
  static constexpr std::uint32_t kZero = 0;  // the word of zeros
  static constexpr std::uint8_t kZeroByte = 0;
  static constexpr std::int32_t kSubtracted = 0;  // from each number in a word

  static Vector Broadcast(std::uint32_t word) { return vdupq_n_s32(static_cast<int>(word)); }
  static Vector Load(const std::uint32_t* words) { return vreinterpretq_s32_u32(vld1q_u32(words)); }
  static void Store(std::uint32_t* words, Vector value) {
    vst1q_u32(words, vreinterpretq_u32_s32(value));
  }
  static Vector Dot(Vector sum, Vector x, Vector w) { return vmlaq_s32(sum, x, w); }
};

}  // namespace
}  // namespace lif_op::neon
