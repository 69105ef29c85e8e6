#include "arithmetic_neon.h"
#include "convnet_impl.h"

namespace fastlangevin {
namespace {

struct NeonConvnet : Float32Words {
  static constexpr int width = 4, rows = 6, vectors = 4;
  using f32 = NeonArithmetic::f32;
  using words = f32;

  static FL_INLINE f32 load(const float* p) { return vld1q_f32(p); }
  static FL_INLINE void store(float* p, f32 a) { vst1q_f32(p, a); }
  static FL_INLINE f32 broadcast(float a) { return vdupq_n_f32(a); }
  static FL_INLINE words load_words(const float* p) { return load(p); }
  static FL_INLINE words broadcast_word(const float* p) { return vld1q_dup_f32(p); }
  static FL_INLINE f32 multiply_add(words a, words b, f32 c) { return vfmaq_f32(c, a, b); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return vmulq_f32(a, b); }
  // to[0, 4) = the sums of the lanes of a, b, c and d.
  static FL_INLINE void store_sums(float* to, f32 a, f32 b, f32 c, f32 d) {
    vst1q_f32(to, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
  }
  static FL_INLINE f32 where_positive(f32 a, f32 yes, f32 no) { return vbslq_f32(vcgtzq_f32(a), yes, no); }
  static FL_INLINE f32 widen(const float* p) { return load(p); }
  static FL_INLINE void narrow(float* p, f32 a) { store(p, a); }
};

}  // namespace

const ConvnetKernels convnet_neon = make_convnet_kernels<NeonArithmetic, NeonConvnet>();

}  // namespace fastlangevin
