// The convolution with 256-bit dot products of 16-bit numbers: eight outputs, two input channels at
// a time.
#include <immintrin.h>

#include "kernels/qconv/qconv_contract.h"
#include "kernels/qconv/qconv_vector.h"
#include "kernels/qconv/words_avx2.h"

namespace lif_op::avx2 {
namespace {

struct Isa : Words {
  static constexpr int kMaxBlock = 4;
  static constexpr int kVectors = 2;
  static constexpr std::int32_t kWeightOffset = 0;

  static Vector Or(Vector a, Vector b) { return _mm256_or_si256(a, b); }

  static bool AnyBit(Vector value) { return _mm256_testz_si256(value, value) == 0; }

  static void Store(std::int32_t* out, Vector value, std::int64_t count) {
    if (count >= kLanes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), value);
    } else if (count > 0) {
      const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
      const __m256i lanes = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), index);
      _mm256_maskstore_epi32(out, lanes, value);
    }
  }

  static __m128i Bytes(const std::uint8_t* row, std::int64_t column) {
    if (row == nullptr) return _mm_setzero_si128();
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + column));
  }

  static void Words(const GroupRow<Isa>& row, std::int64_t column, std::int64_t count,
                    std::uint32_t* out) {
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      const __m256i low = _mm256_cvtepu8_epi32(Bytes(row.channel[0], column + i));
      const __m256i high = _mm256_cvtepu8_epi32(Bytes(row.channel[1], column + i));
      const __m256i words = _mm256_or_si256(low, _mm256_slli_epi32(high, 16));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), words);
    }
    for (; i < count; ++i) out[i] = InputWord<Isa>(row, column + i);
  }
};

}  // namespace

const QconvKernel& Qconv() { return kVectorQconv<Isa>; }

}  // namespace lif_op::avx2
