// The fused layer by look-up on Arm, counts multiplied by the dot products of Armv8.2: of signed
// bytes, so that counts are laid out less 128, which their sums start with instead.
#include "kernels/qconv_lif/nibble_neon.h"
#include "kernels/qconv_lif/qconv_lif_contract.h"

namespace lif_op::neondot {
namespace {

struct Words {
  using Vector = int32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kGroup = 4;
  static constexpr std::uint32_t kZero = 0x80808080u;
  static constexpr std::uint8_t kZeroByte = 0x80;
  static constexpr std::int32_t kSubtracted = 128;

  static Vector Broadcast(std::uint32_t word) { return vdupq_n_s32(static_cast<int>(word)); }
  static Vector Load(const std::uint32_t* words) { return vreinterpretq_s32_u32(vld1q_u32(words)); }
  static void Store(std::uint32_t* words, Vector value) {
    vst1q_u32(words, vreinterpretq_u32_s32(value));
  }
  static Vector Dot(Vector sum, Vector x, Vector w) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(w));
  }
};

using Isa = NibbleNeon<Words>;

}  // namespace

const QconvLifKernel<std::int16_t>& QconvLif16() { return kNibbleKernel<Isa, std::int16_t>; }
const QconvLifKernel<std::int8_t>& QconvLif8() { return kNibbleKernel<Isa, std::int8_t>; }

}  // namespace lif_op::neondot
