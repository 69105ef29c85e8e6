// One element of the Langevin update, for the host and for CUDA.
#pragma once

#include <cmath>

#include "noise.h"

namespace fastlangevin {

// T is the arithmetic: float for 16- and 32-bit states, double for 64-bit ones.
template <class T>
struct UpdateParams {
  T step_size;
  T noise_std;
  T grad_clip;  // infinity: none
  T lo, hi;     // -infinity, infinity: none
};

#if defined(__CUDA_ARCH__)
FL_INLINE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
FL_INLINE double fused_multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
#else
template <class T>
FL_INLINE T fused_multiply_add(T a, T b, T c) {
  return std::fma(a, b, c);
}
#endif

// As torch.clamp: NaN stays NaN.
template <class T>
FL_INLINE T clamp(T a, T lo, T hi) {
  const T b = a < lo ? lo : a;
  return b > hi ? hi : b;
}

// x + step_size * clip(score) (has_score), then + noise_std * z (has_noise), each a fused multiply-add; then clamp.
// Without has_limits there is neither clip nor clamp.
template <bool has_score, bool has_noise, bool has_limits, class T>
FL_INLINE T langevin_update(const UpdateParams<T>& p, T x, T score, T z) {
  if constexpr (has_score && has_limits) score = clamp(score, -p.grad_clip, p.grad_clip);
  if constexpr (has_score) x = fused_multiply_add(p.step_size, score, x);
  if constexpr (has_noise) x = fused_multiply_add(p.noise_std, z, x);
  if constexpr (has_limits) x = clamp(x, p.lo, p.hi);
  return x;
}

}  // namespace fastlangevin
