// The arithmetic of convnets in bfloat16 on AVX512_BF16.
#pragma once

#include <immintrin.h>

#include "convnet_impl.h"
#include "lane_sums_avx512.h"

namespace fastlangevin {
namespace {

// A word is two channels of bfloat16, the first in the low half; sums and what is done to them are float32.
struct Avx512BFloat16Convnet {
  static constexpr int width = 16, rows = 7, vectors = 4;
  static constexpr int64_t channels_a_word = 2;
  static constexpr bool has_tiles = false;
  struct Registers {};
  using word = uint32_t;
  using f32 = __m512;
  using words = __m512bh;

  static FL_INLINE f32 load(const float* p) { return _mm512_loadu_ps(p); }
  static FL_INLINE void store(float* p, f32 a) { _mm512_storeu_ps(p, a); }
  static FL_INLINE f32 broadcast(float a) { return _mm512_set1_ps(a); }
  static FL_INLINE words load_words(const word* p) { return (words)_mm512_loadu_si512(p); }
  static FL_INLINE words broadcast_word(const word* p) { return (words)_mm512_set1_epi32(static_cast<int>(*p)); }
  static FL_INLINE f32 multiply_add(words a, words b, f32 c) { return _mm512_dpbf16_ps(c, a, b); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
  static FL_INLINE void store_sums(float* to, f32 a, f32 b, f32 c, f32 d) { store_lane_sums(to, a, b, c, d); }
  static FL_INLINE f32 where_positive(f32 a, f32 yes, f32 no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ), no, yes);
  }
  static FL_INLINE f32 widen(const word* p) {
    const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
  }
  static FL_INLINE void narrow(word* p, f32 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a));
  }
  static FL_INLINE void load_image(const float* x, int64_t channels, int64_t area, word* out) {
    const int64_t pairs = (channels + 1) / 2;
    for (int64_t c = 0; c < channels; c += 2) {
      for (int64_t i = 0; i < area; ++i) {
        const word low = narrow_bfloat16(x[c * area + i]).bits;
        const word high = c + 1 < channels ? narrow_bfloat16(x[(c + 1) * area + i]).bits : 0;
        out[i * pairs + c / 2] = low | high << 16;
      }
    }
  }
};

}  // namespace
}  // namespace fastlangevin
