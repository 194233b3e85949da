// Bytes by vpdpbusd and floats by vfmadd231ps, both 64 bytes wide.
#include <immintrin.h>

#include "kernels/peak/peak_contract.h"

namespace lif_op::avx512vnni {
namespace {

constexpr std::int64_t kLanes = 32;

}  // namespace

void IntegerPeak(std::int64_t rounds) {
  const __m512i x = _mm512_set1_epi8(1);
#define START(i) __m512i sum##i = _mm512_setzero_si512();
#define FEED(i)                               \
  sum##i = _mm512_dpbusd_epi32(sum##i, x, x); \
  LIF_OP_OPAQUE("v", sum##i);
  LIF_OP_PEAK_12(START)
  for (std::int64_t round = 0; round < rounds; ++round) {
    LIF_OP_PEAK_12(FEED)
  }
#undef START
#undef FEED
}

void FloatPeak(std::int64_t rounds) {
  const __m512 x = _mm512_set1_ps(0.5f);
#define START(i) __m512 sum##i = _mm512_setzero_ps();
#define FEED(i)                           \
  sum##i = _mm512_fmadd_ps(x, x, sum##i); \
  LIF_OP_OPAQUE("v", sum##i);
  LIF_OP_PEAK_12(START)
  for (std::int64_t round = 0; round < rounds; ++round) {
    LIF_OP_PEAK_12(FEED)
  }
#undef START
#undef FEED
}

void Stream(std::int16_t* mem, std::int64_t count) {
  const __m512i ones = _mm512_set1_epi16(1);
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m512i* const place = reinterpret_cast<__m512i*>(mem + i);
    _mm512_storeu_si512(place, _mm512_xor_si512(_mm512_loadu_si512(place), ones));
  }
  for (; i < count; ++i) mem[i] = static_cast<std::int16_t>(mem[i] ^ 1);
}

}  // namespace lif_op::avx512vnni
