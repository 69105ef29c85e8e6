#include <cstring>

#include "convnet_impl.h"

namespace fastlangevin {
namespace {

// Four lanes of the compiler's own vectors, which every processor has. No fma: without its instruction it is a call.
struct PortableConvnet : Float32Words {
  static constexpr int width = 4, rows = 3, vectors = 4;
  typedef float f32 __attribute__((vector_size(16)));
  using words = f32;

  static FL_INLINE f32 load(const float* p) {
    f32 a;
    std::memcpy(&a, p, sizeof a);
    return a;
  }
  static FL_INLINE void store(float* p, f32 a) { std::memcpy(p, &a, sizeof a); }
  static FL_INLINE f32 broadcast(float a) { return f32{a, a, a, a}; }
  static FL_INLINE words load_words(const float* p) { return load(p); }
  static FL_INLINE words broadcast_word(const float* p) { return broadcast(*p); }
  static FL_INLINE f32 multiply_add(words a, words b, f32 c) { return a * b + c; }
  static FL_INLINE f32 mul(f32 a, f32 b) { return a * b; }
  // to[0, 4) = the sums of the lanes of a, b, c and d.
  static FL_INLINE void store_sums(float* to, f32 a, f32 b, f32 c, f32 d) {
    for (const f32& e : {a, b, c, d}) *to++ = e[0] + e[1] + (e[2] + e[3]);
  }
  static FL_INLINE f32 where_positive(f32 a, f32 yes, f32 no) { return a > 0.0f ? yes : no; }
  static FL_INLINE f32 widen(const float* p) { return load(p); }
  static FL_INLINE void narrow(float* p, f32 a) { store(p, a); }
};

}  // namespace

const ConvnetKernels convnet_portable = make_convnet_kernels<ScalarArithmetic, PortableConvnet>();

}  // namespace fastlangevin
