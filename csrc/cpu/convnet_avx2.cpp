#include <immintrin.h>

#include "arithmetic_avx2.h"
#include "convnet_impl.h"

namespace fastlangevin {
namespace {

struct Avx2Convnet : Float32Words {
  static constexpr int width = 8, rows = 6, vectors = 2;
  using f32 = __m256;
  using words = f32;

  static FL_INLINE f32 load(const float* p) { return _mm256_loadu_ps(p); }
  static FL_INLINE void store(float* p, f32 a) { _mm256_storeu_ps(p, a); }
  static FL_INLINE f32 broadcast(float a) { return _mm256_set1_ps(a); }
  static FL_INLINE words load_words(const float* p) { return load(p); }
  static FL_INLINE words broadcast_word(const float* p) { return _mm256_broadcast_ss(p); }
  static FL_INLINE f32 multiply_add(words a, words b, f32 c) { return _mm256_fmadd_ps(a, b, c); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return _mm256_mul_ps(a, b); }
  // to[0, 4) = the sums of the lanes of a, b, c and d.
  static FL_INLINE void store_sums(float* to, f32 a, f32 b, f32 c, f32 d) {
    const __m256 two = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
  }
  static FL_INLINE f32 where_positive(f32 a, f32 yes, f32 no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GT_OQ));
  }
  static FL_INLINE f32 widen(const float* p) { return load(p); }
  static FL_INLINE void narrow(float* p, f32 a) { store(p, a); }
};

}  // namespace

const ConvnetKernels convnet_avx2 = make_convnet_kernels<Avx2Arithmetic, Avx2Convnet>();

}  // namespace fastlangevin
