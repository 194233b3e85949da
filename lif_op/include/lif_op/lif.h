// Leaky integrate-and-fire neuron on float32, one time step.
#pragma once

#include "lif_op/target.h"
#include "lif_op/types.h"

namespace lif_op {

// All tensors are dense [N, C, ...], the parameters [C]:
//
//   u = beta * mem + current              each operation rounded on its own, no fused multiply-add
//   spike = 1 where u > threshold, else 0    ForeignLif: u >= threshold
//   mem_out = 0 | u - threshold | u          where it fires, by `reset`; u elsewhere
//   mem_out = 0                              where that is less than 2^-126 in magnitude
//
// `mem_out` may be `mem`. Otherwise outputs overlap nothing.
struct LifArgs {
  const float* current;
  const float* mem;
  const float* beta;
  const float* threshold;
  float* spike;
  float* mem_out;
  ChannelLayout layout;
  Reset reset;
};

// Computes the elements `range` of the tensors, counted over 0..layout.size.
using LifFunction = void (*)(const LifArgs& args, Range range);

// The canonical neuron, snn::LIF.
LifFunction LifFor(Target target);

// SNN_implementation::LIF: fires at the threshold as well. `reset` is kZero there.
LifFunction ForeignLifFor(Target target);

}  // namespace lif_op
