// What an instruction set may provide for the fused layer. The meaning is in lif_op/qconv_lif.h;
// all of them give the same bits as the scalar one.
#pragma once

#include <cstdint>

#include "lif_op/qconv_lif.h"

// The table of kernels a target has, for both types of the membrane.
#define LIF_OP_DECLARE_QCONV_LIF(target)            \
  namespace target {                                \
  const QconvLifKernel<std::int16_t>& QconvLif16(); \
  const QconvLifKernel<std::int8_t>& QconvLif8();   \
  }

namespace lif_op {

LIF_OP_DECLARE_QCONV_LIF(scalar)
LIF_OP_DECLARE_QCONV_LIF(avx2)
LIF_OP_DECLARE_QCONV_LIF(avx512vnni)
LIF_OP_DECLARE_QCONV_LIF(avx512vbmi)
LIF_OP_DECLARE_QCONV_LIF(amx)
LIF_OP_DECLARE_QCONV_LIF(neon)
LIF_OP_DECLARE_QCONV_LIF(neondot)

}  // namespace lif_op
