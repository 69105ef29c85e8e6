// Sums over lanes, for the convnets of AVX-512 in float32 and in bfloat16.
#pragma once

#include <immintrin.h>

#include "../noise.h"

namespace fastlangevin {
namespace {

// to[0, 4) = the sums of the lanes of a, b, c and d.
FL_INLINE void store_lane_sums(float* to, __m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
  const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
  const __m512 even = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), odd = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
  const __m512 four = _mm512_add_ps(even, odd);
  const __m256 two = _mm256_add_ps(_mm512_castps512_ps256(four), _mm512_extractf32x8_ps(four, 1));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}

}  // namespace
}  // namespace fastlangevin
