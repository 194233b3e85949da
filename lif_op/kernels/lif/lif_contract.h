// What every instruction set has to provide for the float neuron. The meaning of the functions is
// in lif_op/lif.h; all of them give the same bits as the scalar ones.
#pragma once

#include <cfloat>
#include <cmath>

#include "lif_op/lif.h"

namespace lif_op {

namespace scalar {
void Lif(const LifArgs& args, Range range);
void ForeignLif(const LifArgs& args, Range range);
}  // namespace scalar

namespace avx2 {
void Lif(const LifArgs& args, Range range);
void ForeignLif(const LifArgs& args, Range range);
}  // namespace avx2

namespace avx512vnni {
void Lif(const LifArgs& args, Range range);
void ForeignLif(const LifArgs& args, Range range);
}  // namespace avx512vnni

namespace neon {
void Lif(const LifArgs& args, Range range);
void ForeignLif(const LifArgs& args, Range range);
}  // namespace neon

// When a neuron fires.
enum class FireRule { kAbove, kAtOrAbove };

// A membrane that decays in silence would end among the denormal numbers, on which every processor
// is many times slower, and stay there. Internal linkage as below.
static inline float WithoutDenormals(float membrane) {
  return std::fabs(membrane) < FLT_MIN ? 0.0f : membrane;
}

// One neuron. Internal linkage for the reason given in planes.h.
template <FireRule kRule, Reset kReset>
static inline void LifNeuron(float current, float mem, float beta, float threshold, float* spike,
                             float* mem_out) {
  const float decayed = beta * mem;
  const float u = decayed + current;
  const bool fires = kRule == FireRule::kAbove ? u > threshold : u >= threshold;
  *spike = fires ? 1.0f : 0.0f;
  if constexpr (kReset == Reset::kZero) {
    *mem_out = fires ? 0.0f : WithoutDenormals(u);
  } else if constexpr (kReset == Reset::kSubtract) {
    *mem_out = WithoutDenormals(fires ? u - threshold : u);
  } else {
    *mem_out = WithoutDenormals(u);
  }
}

}  // namespace lif_op
