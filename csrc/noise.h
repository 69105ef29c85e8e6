// The noise stream: Philox4x32-10 and Box-Muller, written once for the host's scalar and vector code and for CUDA.
//
// An arithmetic A names the types and the correctly rounded operations that the formulas are written in: one lane in
// ScalarArithmetic below, 8 and 16 lanes in cpu/arithmetic_avx2.h and cpu/arithmetic_avx512.h. Every operation rounds
// once and none may be contracted or reordered: the result is fixed bit for bit (compile with -ffp-contract=off).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FL_INLINE __host__ __device__ __forceinline__
#define FL_UNROLL _Pragma("unroll")
#else
#define FL_INLINE inline __attribute__((always_inline))
#define FL_UNROLL _Pragma("GCC unroll 16")
#endif

namespace fastlangevin {

// The arguments of the stream that are the same for every element of a call.
struct NoiseKey {
  uint64_t seed;
  uint32_t step;
  uint32_t stream;
};

struct ScalarArithmetic {
  static constexpr int width = 1;
  using word = uint32_t;     // a Philox word
  using product = uint64_t;  // of two Philox words
  using u32 = uint32_t;
  using f32 = float;

  static FL_INLINE word group_low(uint64_t group) { return static_cast<uint32_t>(group); }
  static FL_INLINE word group_high(uint64_t group) { return static_cast<uint32_t>(group >> 32); }
  static FL_INLINE word broadcast_word(uint32_t a) { return a; }
  static FL_INLINE product multiply(word a, uint32_t b) { return static_cast<uint64_t>(a) * b; }
  static FL_INLINE word low(product p) { return static_cast<uint32_t>(p); }
  static FL_INLINE word high_xor(product p, word a, uint32_t b) { return static_cast<uint32_t>(p >> 32) ^ a ^ b; }
  static FL_INLINE u32 to_u32(word a) { return a; }

  static FL_INLINE u32 add(u32 a, uint32_t b) { return a + b; }
  static FL_INLINE u32 bit_and(u32 a, uint32_t b) { return a & b; }
  static FL_INLINE u32 bit_xor(u32 a, u32 b) { return a ^ b; }
  template <int n>
  static FL_INLINE u32 shift_left(u32 a) {
    return a << n;
  }
  template <int n>
  static FL_INLINE u32 shift_right(u32 a) {
    return a >> n;
  }
  template <int n>
  static FL_INLINE u32 shift_right_signed(u32 a) {
    return static_cast<uint32_t>(static_cast<int32_t>(a) >> n);
  }
  static FL_INLINE f32 signed_to_float(u32 a) { return static_cast<float>(static_cast<int32_t>(a)); }
  static FL_INLINE f32 select_odd(u32 q, f32 odd, f32 even) { return q & 1 ? odd : even; }

  static FL_INLINE f32 broadcast(float a) { return a; }
#if defined(__CUDA_ARCH__)
  static FL_INLINE u32 bits(f32 a) { return __float_as_uint(a); }
  static FL_INLINE f32 from_bits(u32 a) { return __uint_as_float(a); }
  static FL_INLINE f32 fma(f32 a, f32 b, f32 c) { return __fmaf_rn(a, b, c); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return __fmul_rn(a, b); }
  static FL_INLINE f32 add(f32 a, f32 b) { return __fadd_rn(a, b); }
  static FL_INLINE f32 sqrt(f32 a) { return __fsqrt_rn(a); }
#else
  static FL_INLINE u32 bits(f32 a) {
    u32 b;
    std::memcpy(&b, &a, sizeof b);
    return b;
  }
  static FL_INLINE f32 from_bits(u32 a) {
    f32 b;
    std::memcpy(&b, &a, sizeof b);
    return b;
  }
  static FL_INLINE f32 fma(f32 a, f32 b, f32 c) { return std::fma(a, b, c); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return a * b; }
  static FL_INLINE f32 add(f32 a, f32 b) { return a + b; }
  static FL_INLINE f32 sqrt(f32 a) { return std::sqrt(a); }
#endif

  // Element order: lanes 0..3 of the first group, then of the next (here there is one).
  static FL_INLINE void store(float* out, const f32 (&z)[4]) {
    for (int i = 0; i < 4; ++i) out[i] = z[i];
  }
};

// Philox4x32-10 (Salmon et al., SC 2011): ten rounds over the counter c.
template <class A>
FL_INLINE void philox(typename A::word (&c)[4], uint32_t key0, uint32_t key1) {
  FL_UNROLL
  for (int round = 0; round < 10; ++round) {
    const typename A::product p0 = A::multiply(c[0], 0xD2511F53u);
    const typename A::product p1 = A::multiply(c[2], 0xCD9E8D57u);
    c[0] = A::high_xor(p1, c[1], key0);
    c[1] = A::low(p1);
    c[2] = A::high_xor(p0, c[3], key1);
    c[3] = A::low(p0);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// The four words of groups group, group + 1, … group + A::width - 1.
template <class A>
FL_INLINE void noise_words(const NoiseKey& key, uint64_t group, typename A::u32 (&r)[4]) {
  typename A::word c[4] = {A::group_low(group), A::group_high(group), A::broadcast_word(key.step),
                           A::broadcast_word(key.stream)};
  philox<A>(c, static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
  for (int i = 0; i < 4; ++i) r[i] = A::to_u32(c[i]);
}

// log(a) for a in [2^-25, 1]: argument reduction to [sqrt(1/2), sqrt(2)), then Cephes' logf polynomial.
template <class A>
FL_INLINE typename A::f32 log_unit(typename A::f32 a) {
  using f32 = typename A::f32;
  using u32 = typename A::u32;
  const u32 j = A::add(A::bits(a), 0u - 0x3f3504f3u);
  const f32 e = A::signed_to_float(A::template shift_right_signed<23>(j));
  const f32 f = A::add(A::from_bits(A::add(A::bit_and(j, 0x7fffffu), 0x3f3504f3u)), A::broadcast(-1.0f));
  f32 y = A::broadcast(7.0376836292e-2f);
  y = A::fma(y, f, A::broadcast(-1.1514610310e-1f));
  y = A::fma(y, f, A::broadcast(1.1676998740e-1f));
  y = A::fma(y, f, A::broadcast(-1.2420140846e-1f));
  y = A::fma(y, f, A::broadcast(1.4249322787e-1f));
  y = A::fma(y, f, A::broadcast(-1.6668057665e-1f));
  y = A::fma(y, f, A::broadcast(2.0000714765e-1f));
  y = A::fma(y, f, A::broadcast(-2.4999993993e-1f));
  y = A::fma(y, f, A::broadcast(3.3333331174e-1f));
  const f32 z = A::mul(f, f);
  y = A::mul(y, A::mul(f, z));
  y = A::fma(e, A::broadcast(-2.12194440e-4f), y);
  y = A::fma(z, A::broadcast(-0.5f), y);
  return A::fma(e, A::broadcast(0.693359375f), A::add(f, y));
}

// Two standard normals from two words: radius from u, angle from v in quarter turns.
template <class A>
FL_INLINE void box_muller(typename A::u32 u, typename A::u32 v, typename A::f32& n0, typename A::f32& n1) {
  using f32 = typename A::f32;
  using u32 = typename A::u32;
  const f32 a =
      A::fma(A::signed_to_float(A::template shift_right<8>(u)), A::broadcast(0x1p-24f), A::broadcast(0x1p-25f));
  const f32 r = A::sqrt(A::mul(A::broadcast(-2.0f), log_unit<A>(a)));
  const u32 q = A::template shift_right<30>(A::add(v, 0x20000000u));
  const f32 t = A::mul(A::signed_to_float(A::template shift_left<2>(v)), A::broadcast(3.6572951e-10f));
  const f32 z = A::mul(t, t);
  f32 s = A::fma(z, A::broadcast(-1.9515295891e-4f), A::broadcast(8.3321608736e-3f));
  s = A::fma(s, z, A::broadcast(-1.6666654611e-1f));
  s = A::fma(A::mul(s, z), t, t);
  f32 c = A::fma(z, A::broadcast(2.443315711809948e-5f), A::broadcast(-1.388731625493765e-3f));
  c = A::fma(c, z, A::broadcast(4.166664568298827e-2f));
  c = A::fma(A::mul(c, z), z, A::fma(z, A::broadcast(-0.5f), A::broadcast(1.0f)));
  const u32 sin_sign = A::template shift_left<30>(A::bit_and(q, 2u));
  const u32 cos_sign = A::template shift_left<30>(A::bit_and(A::add(q, 1u), 2u));
  const f32 sin = A::from_bits(A::bit_xor(A::bits(A::select_odd(q, c, s)), sin_sign));
  const f32 cos = A::from_bits(A::bit_xor(A::bits(A::select_odd(q, s, c)), cos_sign));
  n0 = A::mul(r, cos);
  n1 = A::mul(r, sin);
}

// The four normals of each group from its words: lane i of every group in z[i].
template <class A>
FL_INLINE void normals(const typename A::u32 (&r)[4], typename A::f32 (&z)[4]) {
  box_muller<A>(r[0], r[1], z[0], z[1]);
  box_muller<A>(r[2], r[3], z[2], z[3]);
}

// The four uniforms in [0, 1), likewise.
template <class A>
FL_INLINE void uniforms(const typename A::u32 (&r)[4], typename A::f32 (&z)[4]) {
  for (int i = 0; i < 4; ++i) {
    z[i] = A::mul(A::signed_to_float(A::template shift_right<8>(r[i])), A::broadcast(0x1p-24f));
  }
}

}  // namespace fastlangevin
