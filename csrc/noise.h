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
  static FL_INLINE void to_pairs(const word (&c)[4], u32 (&r)[4]) {
    for (int i = 0; i < 4; ++i) r[i] = c[i];
  }

  static FL_INLINE u32 add(u32 a, uint32_t b) { return a + b; }
  static FL_INLINE u32 subtract(u32 a, u32 b) { return a - b; }
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
  static FL_INLINE f32 signed_to_float(u32 a) { return static_cast<float>(static_cast<int32_t>(a)); }
  static FL_INLINE f32 middle(u32 a) { return static_cast<float>((a & ~0xffu) | 0x80u); }
  static FL_INLINE f32 select_bit30(u32 a, f32 set, f32 clear) { return a & 0x40000000u ? set : clear; }
  static FL_INLINE f32 flip_bit31(u32 a, f32 b) { return from_bits(bits(b) ^ (a & 0x80000000u)); }

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

// Of an arithmetic: to_pairs brings the four words of A::width groups into the order in which
// A::store expects their deviates; middle(a) is the float nearest to the middle of the 2^8 numbers that a's upper 24
// bits stand for; select_bit30 chooses by a bit of a, flip_bit31 flips the sign of b where that bit of a is set.

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

// The words of groups group, group + 1, … group + A::width - 1, in pairs: r[0] and r[1] make the two deviates of each
// lane of the first, r[2] and r[3] those of the second. high_word: that of all these groups, where it is the same.
template <class A>
FL_INLINE void noise_words(const NoiseKey& key, uint64_t group, typename A::word high_word, typename A::u32 (&r)[4]) {
  typename A::word c[4] = {A::group_low(group), high_word, A::broadcast_word(key.step), A::broadcast_word(key.stream)};
  philox<A>(c, static_cast<uint32_t>(key.seed), static_cast<uint32_t>(key.seed >> 32));
  A::to_pairs(c, r);
}

template <class A>
FL_INLINE void noise_words(const NoiseKey& key, uint64_t group, typename A::u32 (&r)[4]) {
  noise_words<A>(key, group, A::group_high(group), r);
}

// log(a / 2^32) for a in [2^7, 2^32]: argument reduction to [sqrt(1/2), sqrt(2)), then Cephes' logf polynomial. Powers
// of two round nothing: e is the exponent times 2^23.
template <class A>
FL_INLINE typename A::f32 log_unit(typename A::f32 a) {
  using f32 = typename A::f32;
  using u32 = typename A::u32;
  const u32 exponent = A::bit_and(A::add(A::bits(a), 0u - (0x3f3504f3u + (32u << 23))), 0xff800000u);
  const f32 e = A::signed_to_float(exponent);
  const f32 f = A::fma(A::from_bits(A::subtract(A::bits(a), exponent)), A::broadcast(0x1p-32f), A::broadcast(-1.0f));
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
  y = A::fma(e, A::broadcast(-2.12194440e-4f * 0x1p-23f), y);
  y = A::fma(z, A::broadcast(-0.5f), y);
  return A::fma(e, A::broadcast(0.693359375f * 0x1p-23f), A::add(f, y));
}

// Two standard normals from two words: radius from u, angle from v in quarter turns.
template <class A>
FL_INLINE void box_muller(typename A::u32 u, typename A::u32 v, typename A::f32& n0, typename A::f32& n1) {
  using f32 = typename A::f32;
  using u32 = typename A::u32;
  const f32 r = A::sqrt(A::mul(A::broadcast(-2.0f), log_unit<A>(A::middle(u))));
  const u32 quarter = A::add(v, 0x20000000u), next = A::add(v, 0x60000000u);  // bits 30 and 31
  const f32 t = A::mul(A::signed_to_float(A::template shift_left<2>(v)), A::broadcast(3.6572951e-10f));
  const f32 z = A::mul(t, t);
  f32 s = A::fma(z, A::broadcast(-1.9515295891e-4f), A::broadcast(8.3321608736e-3f));
  s = A::fma(s, z, A::broadcast(-1.6666654611e-1f));
  s = A::fma(A::mul(s, z), t, t);
  f32 c = A::fma(z, A::broadcast(2.443315711809948e-5f), A::broadcast(-1.388731625493765e-3f));
  c = A::fma(c, z, A::broadcast(4.166664568298827e-2f));
  c = A::fma(A::mul(c, z), z, A::fma(z, A::broadcast(-0.5f), A::broadcast(1.0f)));
  const f32 sin = A::flip_bit31(quarter, A::select_bit30(quarter, c, s));
  const f32 cos = A::flip_bit31(next, A::select_bit30(quarter, s, c));
  n0 = A::mul(r, cos);
  n1 = A::mul(r, sin);
}

// The normals of the groups from their words: the two of each pair in z[0] and z[1], or in z[2] and z[3].
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
