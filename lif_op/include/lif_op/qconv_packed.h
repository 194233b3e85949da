// Convolution of packed spikes with signed bytes into 32-bit sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lif_op/qconv.h"
#include "lif_op/spikes.h"
#include "lif_op/target.h"
#include "lif_op/types.h"

namespace lif_op {

// The convolution of lif_op/qconv.h where x is packed spikes [batch, in_height, in_width,
// WordsFor(in_channels)]. Bits of a word beyond the last channel are ignored.
struct QconvPackedArgs {
  QconvShape shape;
  const std::uint32_t* x;
  const void* weight;  // packed by QconvPackedKernel::pack_weight
  const std::int32_t* bias;
  std::int32_t* acc;
};

// A convolution runs in two steps: pack_weight once per weight, into memory aligned to
// kQconvAlignment bytes, then compute over all output rows, counted over 0..batch * out_height.
struct QconvPackedKernel {
  std::size_t (*weight_bytes)(const QconvShape& shape);
  void (*pack_weight)(const QconvShape& shape, const std::int8_t* weight, void* packed);
  void (*compute)(const QconvPackedArgs& args, Range rows);
};

const QconvPackedKernel& QconvPackedFor(Target target);

}  // namespace lif_op
