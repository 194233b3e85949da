// What every instruction set has to provide for the integer neuron. The meaning of the functions is
// in lif_op/qlif.h; all of them give the same integers as the scalar ones.
#pragma once

#include <cstdint>

#include "lif_op/qlif.h"

namespace lif_op {

namespace scalar {
void Qlif(const QlifArgs<std::int16_t>& args, Range range);
void Qlif(const QlifArgs<std::int8_t>& args, Range range);
}  // namespace scalar

namespace avx2 {
void Qlif(const QlifArgs<std::int16_t>& args, Range range);
void Qlif(const QlifArgs<std::int8_t>& args, Range range);
}  // namespace avx2

namespace avx512vnni {
void Qlif(const QlifArgs<std::int16_t>& args, Range range);
void Qlif(const QlifArgs<std::int8_t>& args, Range range);
}  // namespace avx512vnni

namespace neon {
void Qlif(const QlifArgs<std::int16_t>& args, Range range);
void Qlif(const QlifArgs<std::int8_t>& args, Range range);
}  // namespace neon

template <class Mem>
struct MembraneLimits {
  static constexpr std::int32_t kHi = (1 << (8 * sizeof(Mem) - 1)) - 1;
  static constexpr std::int32_t kLo = -kHi - 1;
};

// The functions below have internal linkage for the reason given in planes.h.

template <class Mem>
static inline std::int32_t ClampToMembrane(std::int64_t value) {
  using Limits = MembraneLimits<Mem>;
  if (value < Limits::kLo) return Limits::kLo;
  if (value > Limits::kHi) return Limits::kHi;
  return static_cast<std::int32_t>(value);
}

// The input current: the accumulator in the unit of the membrane.
template <class Mem>
static inline std::int32_t QlifCurrent(std::int32_t acc, int frac_bits) {
  if (frac_bits < 0) {
    const std::int64_t half = std::int64_t{1} << (-frac_bits - 1);
    return ClampToMembrane<Mem>((acc + half) >> -frac_bits);
  }
  const std::int32_t unit = 1 << frac_bits;
  const std::int32_t span = (MembraneLimits<Mem>::kHi + 1) >> frac_bits;
  const std::int32_t clamped = acc < -span ? -span : acc > span - 1 ? span - 1 : acc;
  return clamped * unit;
}

// One neuron.
template <class Mem, Reset kReset>
static inline void QlifNeuron(std::int32_t acc, Mem mem, std::int32_t decay, std::int32_t threshold,
                              int frac_bits, std::uint8_t* spike, Mem* mem_out) {
  const std::int32_t decayed = mem * decay / kDecayOne;
  const std::int32_t u = ClampToMembrane<Mem>(decayed + QlifCurrent<Mem>(acc, frac_bits));
  const bool fires = u > threshold;
  std::int32_t after = u;
  if constexpr (kReset == Reset::kZero) {
    if (fires) after = 0;
  } else if constexpr (kReset == Reset::kSubtract) {
    if (fires) after = ClampToMembrane<Mem>(std::int64_t{u} - threshold);
  }
  *spike = fires ? 1 : 0;
  *mem_out = static_cast<Mem>(after);
}

// The neurons offset..offset + count, all of channel `channel`.
template <Reset kReset, class Mem>
static inline void QlifPlane(const QlifArgs<Mem>& args, std::int64_t channel, std::int64_t offset,
                             std::int64_t count) {
  const std::int32_t decay = args.decay[channel];
  const std::int32_t threshold = args.threshold[channel];
  for (std::int64_t i = offset; i < offset + count; ++i) {
    QlifNeuron<Mem, kReset>(args.acc[i], args.mem[i], decay, threshold, args.frac_bits,
                            &args.spike[i], &args.mem_out[i]);
  }
}

}  // namespace lif_op
