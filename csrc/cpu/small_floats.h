// Conversions of rows of 16-bit states.
#pragma once

#include <type_traits>

#include "../small_floats.h"

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace fastlangevin {
namespace {

FL_INLINE void widen(const BFloat16* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = widen(in[i]);
}

FL_INLINE void narrow(const float* in, BFloat16* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = narrow_bfloat16(in[i]);
}

FL_INLINE void widen(const Half* in, float* out, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  }
#elif defined(__aarch64__)
  for (; i + 4 <= n; i += 4) {
    vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&in[i].bits))));
  }
#endif
  for (; i < n; ++i) out[i] = widen(in[i]);
}

FL_INLINE void narrow(const float* in, Half* out, int64_t n) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), h);
  }
#elif defined(__aarch64__)
  for (; i + 4 <= n; i += 4) {
    vst1_u16(&out[i].bits, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(in + i))));
  }
#endif
  for (; i < n; ++i) out[i] = narrow_half(in[i]);
}

}  // namespace
}  // namespace fastlangevin
