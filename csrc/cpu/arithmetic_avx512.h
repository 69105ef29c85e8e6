// Sixteen lanes of the noise stream's arithmetic. Philox words travel as two registers of eight 64-bit lanes, whose
// high halves are don't-cares: vpmuludq reads the low halves only.
#pragma once

#include <immintrin.h>

#include "../noise.h"

namespace fastlangevin {
namespace {

struct Avx512Arithmetic {
  static constexpr int width = 16;
  struct word {
    __m512i first, second;
  };
  using product = word;
  using u32 = __m512i;
  using f32 = __m512;

  static FL_INLINE word groups(uint64_t group) {
    const __m512i first =
        _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(group)), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
    return {first, _mm512_add_epi64(first, _mm512_set1_epi64(8))};
  }
  static FL_INLINE word group_low(uint64_t group) { return groups(group); }
  static FL_INLINE word group_high(uint64_t group) {
    const word g = groups(group);
    return {_mm512_srli_epi64(g.first, 32), _mm512_srli_epi64(g.second, 32)};
  }
  static FL_INLINE word broadcast_word(uint32_t a) {
    const __m512i b = _mm512_set1_epi64(a);
    return {b, b};
  }
  static FL_INLINE product multiply(word a, uint32_t b) {
    const __m512i c = _mm512_set1_epi64(b);
    return {_mm512_mul_epu32(a.first, c), _mm512_mul_epu32(a.second, c)};
  }
  static FL_INLINE word low(product p) { return p; }
  static FL_INLINE word high_xor(product p, word a, uint32_t b) {
    const __m512i c = _mm512_set1_epi64(b);
    constexpr int xor3 = 0x96;
    return {_mm512_ternarylogic_epi64(_mm512_srli_epi64(p.first, 32), a.first, c, xor3),
            _mm512_ternarylogic_epi64(_mm512_srli_epi64(p.second, 32), a.second, c, xor3)};
  }
  // Lanes 4k and 4k + 1 of r[0] and r[1] are the pairs of group k, lanes 4k + 2 and 4k + 3 those of group k + 4; r[2]
  // and r[3] are those of groups k + 8 and k + 12.
  static FL_INLINE void to_pairs(const word (&c)[4], u32 (&r)[4]) {
    const __m512i order = _mm512_setr_epi32(0, 16, 8, 24, 2, 18, 10, 26, 4, 20, 12, 28, 6, 22, 14, 30);
    r[0] = _mm512_permutex2var_epi32(c[0].first, order, c[2].first);
    r[1] = _mm512_permutex2var_epi32(c[1].first, order, c[3].first);
    r[2] = _mm512_permutex2var_epi32(c[0].second, order, c[2].second);
    r[3] = _mm512_permutex2var_epi32(c[1].second, order, c[3].second);
  }

  static FL_INLINE u32 add(u32 a, uint32_t b) { return _mm512_add_epi32(a, _mm512_set1_epi32(static_cast<int>(b))); }
  static FL_INLINE u32 subtract(u32 a, u32 b) { return _mm512_sub_epi32(a, b); }
  static FL_INLINE u32 bit_and(u32 a, uint32_t b) {
    return _mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(b)));
  }
  static FL_INLINE u32 bit_xor(u32 a, u32 b) { return _mm512_xor_si512(a, b); }
  template <int n>
  static FL_INLINE u32 shift_left(u32 a) {
    return _mm512_slli_epi32(a, n);
  }
  template <int n>
  static FL_INLINE u32 shift_right(u32 a) {
    return _mm512_srli_epi32(a, n);
  }
  static FL_INLINE f32 signed_to_float(u32 a) { return _mm512_cvtepi32_ps(a); }
  static FL_INLINE f32 middle(u32 a) {
    constexpr int or_and = 0xF8;
    return _mm512_cvtepu32_ps(_mm512_ternarylogic_epi32(_mm512_set1_epi32(0x80), a, _mm512_set1_epi32(~0xff), or_and));
  }
  static FL_INLINE f32 select_bit30(u32 a, f32 set, f32 clear) {
    return _mm512_mask_blend_ps(_mm512_test_epi32_mask(a, _mm512_set1_epi32(0x40000000)), clear, set);
  }
  static FL_INLINE f32 flip_bit31(u32 a, f32 b) {
    constexpr int xor_and = 0x78;  // b ^ (a & sign)
    const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
    return from_bits(_mm512_ternarylogic_epi32(bits(b), a, sign, xor_and));
  }

  static FL_INLINE f32 broadcast(float a) { return _mm512_set1_ps(a); }
  static FL_INLINE u32 bits(f32 a) { return _mm512_castps_si512(a); }
  static FL_INLINE f32 from_bits(u32 a) { return _mm512_castsi512_ps(a); }
  static FL_INLINE f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
  static FL_INLINE f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
  static FL_INLINE f32 sqrt(f32 a) { return _mm512_sqrt_ps(a); }
  static FL_INLINE f32 maximum(f32 a, f32 b) { return _mm512_max_ps(a, b); }
  static FL_INLINE f32 scale(f32 a, f32 n, f32) { return _mm512_scalef_ps(a, n); }
  static FL_INLINE f32 clamp(f32 a, f32 lo, f32 hi) { return _mm512_min_ps(hi, _mm512_max_ps(lo, a)); }

  // The deviates of each pair beside each other.
  static FL_INLINE void store(float* out, const f32 (&z)[4]) {
    _mm512_storeu_ps(out, _mm512_unpacklo_ps(z[0], z[1]));
    _mm512_storeu_ps(out + 16, _mm512_unpackhi_ps(z[0], z[1]));
    _mm512_storeu_ps(out + 32, _mm512_unpacklo_ps(z[2], z[3]));
    _mm512_storeu_ps(out + 48, _mm512_unpackhi_ps(z[2], z[3]));
  }
};

}  // namespace
}  // namespace fastlangevin
