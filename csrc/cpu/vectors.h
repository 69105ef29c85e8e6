// Vectors of floats for the chain kernels. V is Avx2Arithmetic, Avx512Arithmetic, NeonArithmetic or PortableVectors,
// whose f32 are the compiler's own vector types: with +, -, *, /, comparisons and ?: lane by lane.
#pragma once

#include <cstring>

#include "lanes.h"

namespace fastlangevin {
namespace {

// Four lanes, for any processor. There is no fused multiply-add to be had: this one rounds twice.
struct PortableVectors {
  static constexpr int width = 4;
  using f32 = float __attribute__((vector_size(16), may_alias));
  using u32 = uint32_t __attribute__((vector_size(16), may_alias));

  static FL_INLINE f32 broadcast(float a) { return f32{a, a, a, a}; }
  static FL_INLINE f32 fma(f32 a, f32 b, f32 c) { return a * b + c; }
  static FL_INLINE u32 bits(f32 a) { return reinterpret_cast<u32>(a); }
  static FL_INLINE f32 from_bits(u32 a) { return reinterpret_cast<f32>(a); }
  static FL_INLINE u32 add(u32 a, uint32_t b) { return a + b; }
  static FL_INLINE u32 subtract(u32 a, u32 b) { return a - b; }
  static FL_INLINE f32 signed_to_float(u32 a) {
    using i32 = int32_t __attribute__((vector_size(16)));
    return __builtin_convertvector(reinterpret_cast<i32>(a), f32);
  }
  static FL_INLINE u32 bit_and(u32 a, uint32_t b) { return a & b; }
  static FL_INLINE u32 bit_xor(u32 a, u32 b) { return a ^ b; }
  template <int n>
  static FL_INLINE u32 shift_left(u32 a) {
    return a << n;
  }
  static FL_INLINE f32 clamp(f32 a, f32 lo, f32 hi) {
    a = a < lo ? lo : a;
    return a > hi ? hi : a;
  }
  static FL_INLINE f32 maximum(f32 a, f32 b) { return a > b ? a : b; }
  // The lower or the upper halves of a and b, lanes in turn.
#ifdef __clang__
  static FL_INLINE f32 interleave_low(f32 a, f32 b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
  static FL_INLINE f32 interleave_high(f32 a, f32 b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
#else
  static FL_INLINE f32 interleave_low(f32 a, f32 b) { return __builtin_shuffle(a, b, u32{0, 4, 1, 5}); }
  static FL_INLINE f32 interleave_high(f32 a, f32 b) { return __builtin_shuffle(a, b, u32{2, 6, 3, 7}); }
#endif
  // a · 2^n, n = shifted - (1.5 · 2^23 + 127): the low bits of shifted are the exponent field of 2^n.
  static FL_INLINE f32 scale(f32 a, f32, f32 shifted) { return a * from_bits(shift_left<23>(bits(shifted))); }
};

template <class V>
FL_INLINE typename V::f32 absolute(typename V::f32 a) {
  return V::from_bits(V::bit_and(V::bits(a), 0x7fffffffu));
}

// a, which is not negative, with the sign of b.
template <class V>
FL_INLINE typename V::f32 with_sign(typename V::f32 a, typename V::f32 b) {
  return V::from_bits(V::bit_xor(V::bits(a), V::bit_and(V::bits(b), 0x80000000u)));
}

template <class V>
FL_INLINE typename V::f32 load(const float* at) {
  return *reinterpret_cast<const typename V::f32*>(at);
}

template <class V>
FL_INLINE void store(float* at, typename V::f32 a) {
  *reinterpret_cast<typename V::f32*>(at) = a;
}

// At any address.
template <class V>
FL_INLINE typename V::f32 load_any(const float* at) {
  typename V::f32 a;
  std::memcpy(&a, at, sizeof a);
  return a;
}

template <class V>
FL_INLINE void store_any(float* at, typename V::f32 a) {
  std::memcpy(at, &a, sizeof a);
}

}  // namespace
}  // namespace fastlangevin
