// 16-bit states: exact to float32, and back with one rounding to nearest, ties to even.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "noise.h"

namespace fastlangevin {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

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

FL_INLINE float widen(float a) { return a; }
FL_INLINE double widen(double a) { return a; }
FL_INLINE float widen(BFloat16 a) { return bits_float(static_cast<uint32_t>(a.bits) << 16); }

FL_INLINE BFloat16 narrow_bfloat16(float a) {
#if defined(__CUDA_ARCH__)
  return {__bfloat16_as_ushort(__float2bfloat16_rn(a))};
#else
  const uint32_t b = float_bits(a);
  const uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(a != a ? 0x7fc0u : rounded)};
#endif
}

FL_INLINE float widen(Half a) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(a.bits));
#else
  const uint32_t sign = static_cast<uint32_t>(a.bits & 0x8000u) << 16;
  const uint32_t magnitude = a.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x0400u) return bits_float(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return bits_float(sign | float_bits(subnormal));
#endif
}

FL_INLINE Half narrow_half(float a) {
#if defined(__CUDA_ARCH__)
  return {__half_as_ushort(__float2half_rn(a))};
#else
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
#endif
}

FL_INLINE void narrow(float a, float& out) { out = a; }
FL_INLINE void narrow(double a, double& out) { out = a; }
FL_INLINE void narrow(float a, BFloat16& out) { out = narrow_bfloat16(a); }
FL_INLINE void narrow(float a, Half& out) { out = narrow_half(a); }

}  // namespace
}  // namespace fastlangevin
