#include <immintrin.h>

#include "arithmetic_avx512.h"
#include "convnet_impl.h"
#include "lane_sums_avx512.h"

namespace fastlangevin {
namespace {

struct Avx512Convnet : Float32Words {
  static constexpr int width = 16, rows = 7, vectors = 4;
  using f32 = __m512;
  using words = f32;

  static FL_INLINE f32 load(const float* p) { return _mm512_loadu_ps(p); }
  static FL_INLINE void store(float* p, f32 a) { _mm512_storeu_ps(p, a); }
  static FL_INLINE f32 broadcast(float a) { return _mm512_set1_ps(a); }
  static FL_INLINE words load_words(const float* p) { return load(p); }
  static FL_INLINE words broadcast_word(const float* p) { return _mm512_set1_ps(*p); }
  static FL_INLINE f32 multiply_add(words a, words b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
  static FL_INLINE void store_sums(float* to, f32 a, f32 b, f32 c, f32 d) { store_lane_sums(to, a, b, c, d); }
  static FL_INLINE f32 where_positive(f32 a, f32 yes, f32 no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ), no, yes);
  }
  static FL_INLINE f32 widen(const float* p) { return load(p); }
  static FL_INLINE void narrow(float* p, f32 a) { store(p, a); }
};

}  // namespace

const ConvnetKernels convnet_avx512 = make_convnet_kernels<Avx512Arithmetic, Avx512Convnet>();

}  // namespace fastlangevin
