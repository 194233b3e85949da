// The fused layer by look-up on any 64-bit Arm processor.
#include "kernels/qconv/words_neon.h"
#include "kernels/qconv_lif/nibble_neon.h"
#include "kernels/qconv_lif/qconv_lif_contract.h"

namespace lif_op::neon {
namespace {

using Isa = NibbleNeon<Words>;

}  // namespace

const QconvLifKernel<std::int16_t>& QconvLif16() { return kNibbleKernel<Isa, std::int16_t>; }
const QconvLifKernel<std::int8_t>& QconvLif8() { return kNibbleKernel<Isa, std::int8_t>; }

}  // namespace lif_op::neon
