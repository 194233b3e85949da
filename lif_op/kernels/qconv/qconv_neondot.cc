// The convolution with the dot products of Armv8.2: four outputs, four input channels at a time.
// There is none of unsigned with signed bytes. Weights are laid out with 128 added, which makes all
// bytes unsigned, and 128 times the sum of the inputs is taken off the result.
#include <arm_neon.h>

#include "kernels/qconv/qconv_contract.h"
#include "kernels/qconv/qconv_vector.h"

namespace lif_op::neondot {
namespace {

struct Isa {
  using Vector = uint32x4_t;
  static constexpr std::int64_t kLanes = 4;
  static constexpr int kGroup = 4;
  static constexpr int kMaxBlock = 8;
  static constexpr int kVectors = 2;
  static constexpr std::int32_t kWeightOffset = 128;

  static Vector Broadcast(std::uint32_t word) { return vdupq_n_u32(word); }
  static Vector Load(const std::uint32_t* words) { return vld1q_u32(words); }
  static Vector Or(Vector a, Vector b) { return vorrq_u32(a, b); }
  static bool AnyBit(Vector value) { return vmaxvq_u32(value) != 0; }

  static void Store(std::int32_t* out, Vector value, std::int64_t count) {
    const int32x4_t sums = vreinterpretq_s32_u32(value);
    if (count >= kLanes) return vst1q_s32(out, sums);
    std::int32_t lanes[kLanes];
    vst1q_s32(lanes, sums);
    for (std::int64_t i = 0; i < count; ++i) out[i] = lanes[i];
  }

  static Vector Dot(Vector sum, Vector x, Vector w) {
    return vdotq_u32(sum, vreinterpretq_u8_u32(x), vreinterpretq_u8_u32(w));
  }

  // Takes kWeightOffset times `inputs` off a sum.
  static Vector TakeOff(Vector sum, Vector inputs) {
    return vmlsq_n_u32(sum, inputs, kWeightOffset);
  }

  static void Words(const GroupRow<Isa>& row, std::int64_t column, std::int64_t count,
                    std::uint32_t* out) {
    std::int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      uint8x16x4_t bytes;
      for (int c = 0; c < kGroup; ++c) {
        const std::uint8_t* channel = row.channel[c];
        bytes.val[c] = channel == nullptr ? vdupq_n_u8(0) : vld1q_u8(channel + column + i);
      }
      vst4q_u8(reinterpret_cast<std::uint8_t*>(out + i), bytes);
    }
    for (; i < count; ++i) out[i] = InputWord<Isa>(row, column + i);
  }
};

}  // namespace

const QconvKernel& Qconv() { return kVectorQconv<Isa>; }

}  // namespace lif_op::neondot
