// What an instruction set provides for the roofs of a core. The meaning is in lif_op/peak.h.
//
// A loop is made of rounds; each round feeds every sum once. The compiler is kept from taking work
// out of a loop by LIF_OP_OPAQUE, an empty piece of assembly that may have changed its register.
#pragma once

#include <cstdint>

#define LIF_OP_OPAQUE(constraint, value) __asm__ volatile("" : "+" constraint(value))

// Says something for each of six or twelve sums, as many as there are registers for. They are
// variables of their own since the elements of an array would live in memory.
#define LIF_OP_PEAK_6(say) say(0) say(1) say(2) say(3) say(4) say(5)
#define LIF_OP_PEAK_12(say) LIF_OP_PEAK_6(say) say(6) say(7) say(8) say(9) say(10) say(11)

namespace lif_op {

namespace scalar {
inline constexpr std::int64_t kIntegerMacs = 6;
void IntegerPeak(std::int64_t rounds);
void Stream(std::int16_t* mem, std::int64_t count);
}  // namespace scalar

namespace avx2 {
inline constexpr std::int64_t kIntegerMacs = std::int64_t{12} * 32;
inline constexpr std::int64_t kFloatMacs = std::int64_t{12} * 8;
void IntegerPeak(std::int64_t rounds);
void FloatPeak(std::int64_t rounds);
void Stream(std::int16_t* mem, std::int64_t count);
}  // namespace avx2

namespace avx512vnni {
inline constexpr std::int64_t kIntegerMacs = std::int64_t{12} * 64;
inline constexpr std::int64_t kFloatMacs = std::int64_t{12} * 16;
void IntegerPeak(std::int64_t rounds);
void FloatPeak(std::int64_t rounds);
void Stream(std::int16_t* mem, std::int64_t count);
}  // namespace avx512vnni

namespace amx {
inline constexpr std::int64_t kIntegerMacs = std::int64_t{4} * 16 * 16 * 64;
void IntegerPeak(std::int64_t rounds);
}  // namespace amx

namespace neon {
inline constexpr std::int64_t kIntegerMacs = std::int64_t{12} * 8;
inline constexpr std::int64_t kFloatMacs = std::int64_t{12} * 4;
void IntegerPeak(std::int64_t rounds);
void FloatPeak(std::int64_t rounds);
}  // namespace neon

namespace neondot {
inline constexpr std::int64_t kIntegerMacs = std::int64_t{12} * 16;
void IntegerPeak(std::int64_t rounds);
}  // namespace neondot

}  // namespace lif_op
