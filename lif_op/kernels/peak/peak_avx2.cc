// Bytes by vpmaddubsw, vpmaddwd and vpaddd, the three instructions that make a 32-bit sum of them,
// and floats by vfmadd231ps.
#include <immintrin.h>

#include "kernels/peak/peak_contract.h"

namespace lif_op::avx2 {
namespace {

constexpr std::int64_t kLanes = 16;

}  // namespace

void IntegerPeak(std::int64_t rounds) {
  __m256i x = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi16(1);
#define START(i) __m256i sum##i = _mm256_setzero_si256();
#define FEED(i)                                                                           \
  LIF_OP_OPAQUE("x", x);                                                                  \
  sum##i = _mm256_add_epi32(sum##i, _mm256_madd_epi16(_mm256_maddubs_epi16(x, x), ones)); \
  LIF_OP_OPAQUE("x", sum##i);
  LIF_OP_PEAK_12(START)
  for (std::int64_t round = 0; round < rounds; ++round) {
    LIF_OP_PEAK_12(FEED)
  }
#undef START
#undef FEED
}

void FloatPeak(std::int64_t rounds) {
  const __m256 x = _mm256_set1_ps(0.5f);
#define START(i) __m256 sum##i = _mm256_setzero_ps();
#define FEED(i)                           \
  sum##i = _mm256_fmadd_ps(x, x, sum##i); \
  LIF_OP_OPAQUE("x", sum##i);
  LIF_OP_PEAK_12(START)
  for (std::int64_t round = 0; round < rounds; ++round) {
    LIF_OP_PEAK_12(FEED)
  }
#undef START
#undef FEED
}

void Stream(std::int16_t* mem, std::int64_t count) {
  const __m256i ones = _mm256_set1_epi16(1);
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m256i* const place = reinterpret_cast<__m256i*>(mem + i);
    _mm256_storeu_si256(place, _mm256_xor_si256(_mm256_loadu_si256(place), ones));
  }
  for (; i < count; ++i) mem[i] = static_cast<std::int16_t>(mem[i] ^ 1);
}

}  // namespace lif_op::avx2
