// What an instruction set may provide for the convolution of packed spikes. The meaning is in
// lif_op/qconv_packed.h; all of them give the same bits as the scalar one.
#pragma once

#include "lif_op/qconv_packed.h"

#define LIF_OP_DECLARE_QCONV_PACKED(target) \
  namespace target {                        \
  const QconvPackedKernel& QconvPacked();   \
  }

namespace lif_op {

LIF_OP_DECLARE_QCONV_PACKED(scalar)

}  // namespace lif_op
