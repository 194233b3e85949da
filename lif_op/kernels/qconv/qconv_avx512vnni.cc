// The convolution with 512-bit byte dot products: sixteen outputs, four input channels at a time.
#include <immintrin.h>

#include "kernels/qconv/qconv_contract.h"
#include "kernels/qconv/qconv_vector.h"

namespace lif_op::avx512vnni {
namespace {

struct Isa {
  using Vector = __m512i;
  static constexpr std::int64_t kLanes = 16;
  static constexpr int kGroup = 4;
  static constexpr std::int32_t kWeightOffset = 0;
  static constexpr int kMaxBlock = 8;
  static constexpr int kVectors = 2;

  static Vector Broadcast(std::uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }

  static Vector Load(const std::uint32_t* words) { return _mm512_loadu_si512(words); }

  static Vector Or(Vector a, Vector b) { return _mm512_or_si512(a, b); }

  static bool AnyBit(Vector value) { return _mm512_test_epi32_mask(value, value) != 0; }

  static void Store(std::int32_t* out, Vector value, std::int64_t count) {
    if (count >= kLanes) {
      _mm512_storeu_si512(out, value);
    } else if (count > 0) {
      _mm512_mask_storeu_epi32(out, static_cast<__mmask16>((1u << count) - 1u), value);
    }
  }

  // Unsigned bytes of x times signed bytes of w; neither the products nor their sum saturate.
  static Vector Dot(Vector sum, Vector x, Vector w) { return _mm512_dpbusd_epi32(sum, x, w); }

  static __m128i Bytes(const std::uint8_t* row, std::int64_t column, __mmask16 lanes) {
    if (row == nullptr) return _mm_setzero_si128();
    return _mm_maskz_loadu_epi8(lanes, row + column);
  }

  static void Words(const GroupRow<Isa>& row, std::int64_t column, std::int64_t count,
                    std::uint32_t* out) {
    for (std::int64_t i = 0; i < count; i += kLanes) {
      const auto lanes = static_cast<__mmask16>((1u << Min(kLanes, count - i)) - 1u);
      // Four rows of bytes become words by two zips.
      const __m128i a = Bytes(row.channel[0], column + i, lanes);
      const __m128i b = Bytes(row.channel[1], column + i, lanes);
      const __m128i c = Bytes(row.channel[2], column + i, lanes);
      const __m128i d = Bytes(row.channel[3], column + i, lanes);
      const __m256i ab = Zip(a, b);
      const __m256i cd = Zip(c, d);
      const __m512i low = _mm512_cvtepu16_epi32(ab);
      const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(cd), 16);
      _mm512_mask_storeu_epi32(out + i, lanes, _mm512_or_si512(low, high));
    }
  }

  // 16-bit numbers with the low byte from a and the high byte from b.
  static __m256i Zip(__m128i a, __m128i b) {
    return _mm256_or_si256(_mm256_cvtepu8_epi16(a), _mm256_slli_epi16(_mm256_cvtepu8_epi16(b), 8));
  }
};

}  // namespace

const QconvKernel& Qconv() { return kVectorQconv<Isa>; }

}  // namespace lif_op::avx512vnni
