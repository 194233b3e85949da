// What every instruction set has to provide for the integer convolution. The meaning is in
// lif_op/qconv.h; all of them give the same integers as the scalar one.
#pragma once

#include "lif_op/qconv.h"

namespace lif_op {

namespace scalar {
const QconvKernel& Qconv();
}  // namespace scalar

namespace avx2 {
const QconvKernel& Qconv();
}  // namespace avx2

namespace avx512vnni {
const QconvKernel& Qconv();
}  // namespace avx512vnni

namespace neon {
const QconvKernel& Qconv();
}  // namespace neon

namespace neondot {
const QconvKernel& Qconv();
}  // namespace neondot

}  // namespace lif_op
