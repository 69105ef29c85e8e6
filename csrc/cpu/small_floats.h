// Conversions of 16-bit states: exact to float32, and back with one rounding to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace fastlangevin {
namespace {

template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

FL_INLINE uint32_t float_bits(float a) { return ScalarArithmetic::bits(a); }
FL_INLINE float bits_float(uint32_t a) { return ScalarArithmetic::from_bits(a); }

FL_INLINE float widen(BFloat16 a) { return bits_float(static_cast<uint32_t>(a.bits) << 16); }

FL_INLINE BFloat16 narrow_bfloat16(float a) {
  const uint32_t b = float_bits(a);
  const uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(a != a ? 0x7fc0u : rounded)};
}

FL_INLINE float widen(Half a) {
  const uint32_t sign = static_cast<uint32_t>(a.bits & 0x8000u) << 16;
  const uint32_t magnitude = a.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x0400u) return bits_float(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return bits_float(sign | float_bits(subnormal));
}

FL_INLINE Half narrow_half(float a) {
  const uint32_t b = float_bits(a), sign = (b >> 16) & 0x8000u, magnitude = b & 0x7fffffffu;
  uint32_t h;
  if (magnitude > 0x7f800000u) {
    h = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more round to infinity
    h = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // normal in half precision
    h = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  } else {  // adding 1/2 rounds at 2^-24, the unit of half's subnormals
    h = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  }
  return {static_cast<uint16_t>(sign | h)};
}

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
#endif
  for (; i < n; ++i) out[i] = narrow_half(in[i]);
}

}  // namespace
}  // namespace fastlangevin
