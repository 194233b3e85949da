// Dot products of 16-bit numbers, two to a 32-bit word, in 256-bit vectors. Bytes are widened
// first, since the byte instruction of AVX2 saturates. Internal linkage, see planes.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace lif_op::avx2 {
namespace {

struct Words {
  using Vector = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kGroup = 2;           // channels to a word
  static constexpr std::uint32_t kZero = 0;  // the word of zeros
  static constexpr std::uint8_t kZeroByte = 0;
  static constexpr std::int32_t kSubtracted = 0;  // from each number in a word

  static Vector Broadcast(std::uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }

  static Vector Load(const std::uint32_t* words) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
  }

  static void Store(std::uint32_t* words, Vector value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), value);
  }

  static Vector Dot(Vector sum, Vector x, Vector w) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(x, w));
  }
};

}  // namespace
}  // namespace lif_op::avx2
