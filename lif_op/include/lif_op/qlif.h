// Leaky integrate-and-fire neuron on integers, one time step.
#pragma once

#include <cstdint>

#include "lif_op/target.h"
#include "lif_op/types.h"

namespace lif_op {

// Largest number of bits an accumulator may be shifted down by.
inline constexpr int kMinFracBits = -30;
// A decay of kDecayOne leaves the membrane as it is.
inline constexpr std::int32_t kDecayOne = 256;

// All tensors are dense [N, C, ...], the parameters [C]. With b the bits of Mem, lo..hi its limits
// and f = frac_bits:
//   I = clamp(acc, -2^(b-1-f), 2^(b-1-f) - 1) * 2^f              for f >= 0
//   I = clamp(floor((acc + 2^(-f-1)) / 2^-f), lo, hi)            for f < 0
//   r = trunc_toward_zero(mem * decay / 256)
//   u = clamp(r + I, lo, hi)
//   spike = 1 where u > threshold, else 0
//   mem_out = 0 | clamp(u - threshold, lo, hi) | u               where it fires, by `reset`
// Defined for every acc, mem and threshold, decay 0..kDecayOne, f kMinFracBits..b-1.
// `mem_out` may be `mem`. Otherwise outputs overlap nothing.
template <class Mem>
struct QlifArgs {
  const std::int32_t* acc;
  const Mem* mem;
  const std::int32_t* decay;
  const std::int32_t* threshold;
  std::uint8_t* spike;
  Mem* mem_out;
  ChannelLayout layout;
  int frac_bits;
  Reset reset;
};

// Computes the elements `range` of the tensors, counted over 0..layout.size.
template <class Mem>
using QlifFunction = void (*)(const QlifArgs<Mem>& args, Range range);

// Mem is std::int16_t or std::int8_t.
template <class Mem>
QlifFunction<Mem> QlifFor(Target target);

}  // namespace lif_op
