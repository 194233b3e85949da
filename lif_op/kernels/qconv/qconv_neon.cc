// The convolution with 128-bit vectors: four outputs, one input channel at a time.
#include "kernels/qconv/qconv_contract.h"
#include "kernels/qconv/qconv_vector.h"
#include "kernels/qconv/words_neon.h"

namespace lif_op::neon {
namespace {

struct Isa : Words {
  static constexpr int kMaxBlock = 4;
  static constexpr int kVectors = 4;
  static constexpr std::int32_t kWeightOffset = 0;

  static Vector Or(Vector a, Vector b) { return vorrq_s32(a, b); }

  static bool AnyBit(Vector value) { return vmaxvq_u32(vreinterpretq_u32_s32(value)) != 0; }

  static void Store(std::int32_t* out, Vector value, std::int64_t count) {
    if (count >= kLanes) return vst1q_s32(out, value);
    std::int32_t lanes[kLanes];
    vst1q_s32(lanes, value);
    for (std::int64_t i = 0; i < count; ++i) out[i] = lanes[i];
  }

  static void Words(const GroupRow<Isa>& row, std::int64_t column, std::int64_t count,
                    std::uint32_t* out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = row.channel[0][column + i];
  }
};

}  // namespace

const QconvKernel& Qconv() { return kVectorQconv<Isa>; }

}  // namespace lif_op::neon
