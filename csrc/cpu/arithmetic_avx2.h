// Eight lanes of the noise stream's arithmetic. Philox words travel as two registers of four 64-bit lanes, whose high
// halves are don't-cares: vpmuludq reads the low halves only.
#pragma once

#include <immintrin.h>

#include "../noise.h"

namespace fastlangevin {
namespace {

struct Avx2Arithmetic {
  static constexpr int width = 8;
  struct word {
    __m256i first, second;
  };
  using product = word;
  using u32 = __m256i;
  using f32 = __m256;

  // In this order pairs end up in that of the elements.
  static FL_INLINE word groups(uint64_t group) {
    const __m256i first =
        _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(group)), _mm256_setr_epi64x(0, 2, 1, 3));
    return {first, _mm256_add_epi64(first, _mm256_set1_epi64x(4))};
  }
  static FL_INLINE word group_low(uint64_t group) { return groups(group); }
  static FL_INLINE word group_high(uint64_t group) {
    const word g = groups(group);
    return {_mm256_srli_epi64(g.first, 32), _mm256_srli_epi64(g.second, 32)};
  }
  static FL_INLINE word broadcast_word(uint32_t a) {
    const __m256i b = _mm256_set1_epi64x(a);
    return {b, b};
  }
  static FL_INLINE product multiply(word a, uint32_t b) {
    const __m256i c = _mm256_set1_epi64x(b);
    return {_mm256_mul_epu32(a.first, c), _mm256_mul_epu32(a.second, c)};
  }
  static FL_INLINE word low(product p) { return p; }
  static FL_INLINE word high_xor(product p, word a, uint32_t b) {
    const __m256i c = _mm256_set1_epi64x(b);
    return {_mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p.first, 32), a.first), c),
            _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p.second, 32), a.second), c)};
  }
  // The two pairs of a group in neighbouring lanes.
  static FL_INLINE void to_pairs(const word (&c)[4], u32 (&r)[4]) {
    r[0] = interleave(c[0].first, c[2].first), r[1] = interleave(c[1].first, c[3].first);
    r[2] = interleave(c[0].second, c[2].second), r[3] = interleave(c[1].second, c[3].second);
  }
  static FL_INLINE u32 interleave(__m256i even, __m256i odd) {
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  }

  static FL_INLINE u32 add(u32 a, uint32_t b) { return _mm256_add_epi32(a, _mm256_set1_epi32(static_cast<int>(b))); }
  static FL_INLINE u32 subtract(u32 a, u32 b) { return _mm256_sub_epi32(a, b); }
  static FL_INLINE u32 bit_and(u32 a, uint32_t b) {
    return _mm256_and_si256(a, _mm256_set1_epi32(static_cast<int>(b)));
  }
  static FL_INLINE u32 bit_xor(u32 a, u32 b) { return _mm256_xor_si256(a, b); }
  template <int n>
  static FL_INLINE u32 shift_left(u32 a) {
    return _mm256_slli_epi32(a, n);
  }
  template <int n>
  static FL_INLINE u32 shift_right(u32 a) {
    return _mm256_srli_epi32(a, n);
  }
  static FL_INLINE f32 signed_to_float(u32 a) { return _mm256_cvtepi32_ps(a); }
  static FL_INLINE f32 middle(u32 a) {
    return fma(signed_to_float(shift_right<8>(a)), broadcast(0x1p8f), broadcast(0x1p7f));
  }
  static FL_INLINE f32 select_bit30(u32 a, f32 set, f32 clear) {
    return _mm256_blendv_ps(clear, set, _mm256_castsi256_ps(_mm256_slli_epi32(a, 1)));
  }
  static FL_INLINE f32 flip_bit31(u32 a, f32 b) {
    return from_bits(_mm256_xor_si256(bits(b), bit_and(a, 0x80000000u)));
  }

  static FL_INLINE f32 broadcast(float a) { return _mm256_set1_ps(a); }
  static FL_INLINE u32 bits(f32 a) { return _mm256_castps_si256(a); }
  static FL_INLINE f32 from_bits(u32 a) { return _mm256_castsi256_ps(a); }
  static FL_INLINE f32 fma(f32 a, f32 b, f32 c) { return _mm256_fmadd_ps(a, b, c); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return _mm256_mul_ps(a, b); }
  static FL_INLINE f32 add(f32 a, f32 b) { return _mm256_add_ps(a, b); }
  static FL_INLINE f32 sqrt(f32 a) { return _mm256_sqrt_ps(a); }
  static FL_INLINE f32 maximum(f32 a, f32 b) { return _mm256_max_ps(a, b); }
  // a · 2^n, n = shifted - (1.5 · 2^23 + 127): the low bits of shifted are the exponent field of 2^n.
  static FL_INLINE f32 scale(f32 a, f32, f32 shifted) { return a * from_bits(shift_left<23>(bits(shifted))); }
  static FL_INLINE f32 clamp(f32 a, f32 lo, f32 hi) { return _mm256_min_ps(hi, _mm256_max_ps(lo, a)); }

  // The deviates of each pair beside each other.
  static FL_INLINE void store(float* out, const f32 (&z)[4]) {
    _mm256_storeu_ps(out, _mm256_unpacklo_ps(z[0], z[1]));
    _mm256_storeu_ps(out + 8, _mm256_unpackhi_ps(z[0], z[1]));
    _mm256_storeu_ps(out + 16, _mm256_unpacklo_ps(z[2], z[3]));
    _mm256_storeu_ps(out + 24, _mm256_unpackhi_ps(z[2], z[3]));
  }
};

}  // namespace
}  // namespace fastlangevin
