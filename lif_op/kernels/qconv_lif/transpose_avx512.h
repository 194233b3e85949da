// Sixteen vectors of sixteen 32-bit lanes, transposed. Internal linkage, see planes.h.
#pragma once

#include <immintrin.h>

namespace lif_op {
namespace {

// Lane c of vector r becomes lane r of vector c.
inline __attribute__((always_inline)) void Transpose16(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // 128-bit part p of v[i + k] now has column 4p + k of the rows i..i + 3.
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512i even_top = _mm512_shuffle_i32x4(v[k], v[4 + k], 0x88);
    const __m512i odd_top = _mm512_shuffle_i32x4(v[k], v[4 + k], 0xDD);
    const __m512i even_bottom = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0x88);
    const __m512i odd_bottom = _mm512_shuffle_i32x4(v[8 + k], v[12 + k], 0xDD);
    t[k] = _mm512_shuffle_i32x4(even_top, even_bottom, 0x88);
    t[4 + k] = _mm512_shuffle_i32x4(odd_top, odd_bottom, 0x88);
    t[8 + k] = _mm512_shuffle_i32x4(even_top, even_bottom, 0xDD);
    t[12 + k] = _mm512_shuffle_i32x4(odd_top, odd_bottom, 0xDD);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

}  // namespace
}  // namespace lif_op
