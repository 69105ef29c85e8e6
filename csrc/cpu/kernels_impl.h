// The CPU kernels over an arithmetic A. Included by one file an instruction set, each compiled with that set's flags:
// everything here has internal linkage, so that no code compiled for one set is ever linked into another.
#pragma once

#include <algorithm>

#include "../update.h"
#include "kernels.h"
#include "small_floats.h"

namespace fastlangevin {
namespace {

constexpr int64_t block = 1024;  // elements whose noise stays in the L1 cache

template <class A, bool is_uniform>
FL_INLINE void groups(const NoiseKey& key, uint64_t group, float* out) {
  typename A::f32 z[4];
  if constexpr (is_uniform) {
    noise_uniforms<A>(key, group, z);
  } else {
    noise_normals<A>(key, group, z);
  }
  A::store(out, z);
}

template <class A, bool is_uniform>
void fill(const NoiseKey& key, uint64_t index, int64_t n, float* out) {
  constexpr int64_t chunk = 4 * A::width;
  while (n > 0) {
    const int64_t lane = static_cast<int64_t>(index % 4);
    if (lane == 0 && n >= chunk) {
      groups<A, is_uniform>(key, index / 4, out);
      index += chunk, out += chunk, n -= chunk;
    } else {
      float part[chunk];
      groups<A, is_uniform>(key, index / 4, part);
      const int64_t m = std::min(n, chunk - lane);
      std::copy(part + lane, part + lane + m, out);
      index += static_cast<uint64_t>(m), out += m, n -= m;
    }
  }
}

template <bool has_score, bool has_noise, class T>
FL_INLINE void apply(const UpdateParams<T>& p, const float* z, const T* score, T* x, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    x[i] = langevin_update<has_score, has_noise, T>(p, x[i], has_score ? score[i] : T(0), has_noise ? T(z[i]) : T(0));
  }
}

template <class T>
FL_INLINE void apply(const UpdateArgs& args, const UpdateParams<T>& p, const float* z, const T* score, T* x,
                     int64_t n) {
  if (args.has_score && args.has_noise) {
    apply<true, true>(p, z, score, x, n);
  } else if (args.has_score) {
    apply<true, false>(p, z, score, x, n);
  } else {
    apply<false, true>(p, z, score, x, n);
  }
}

template <class A, class T>
void update(const UpdateArgs& args, uint64_t index, int64_t n, const T* score, T* x) {
  using Compute = typename ComputeType<T>::type;
  const UpdateParams<Compute> p{static_cast<Compute>(args.step_size), static_cast<Compute>(args.noise_std),
                                static_cast<Compute>(args.grad_clip), static_cast<Compute>(args.lo),
                                static_cast<Compute>(args.hi)};
  alignas(64) float z[block];
  while (n > 0) {
    // The first piece ends on a whole block, so that all later ones begin on a whole group.
    const int64_t m = std::min(n, block - static_cast<int64_t>(index % block));
    if (args.has_noise) fill<A, false>(args.key, index, m, z);
    if constexpr (std::is_same<T, Compute>::value) {
      apply(args, p, z, score, x, m);
    } else {
      alignas(64) Compute wide_x[block], wide_score[block];
      widen(x, wide_x, m);
      if (args.has_score) widen(score, wide_score, m);
      apply(args, p, z, wide_score, wide_x, m);
      narrow(wide_x, x, m);
    }
    index += static_cast<uint64_t>(m), x += m, n -= m;
    if (args.has_score) score += m;
  }
}

template <class A>
constexpr Kernels make_kernels(const char* name) {
  return {name,           fill<A, false>, fill<A, true>, update<A, float>, update<A, double>, update<A, BFloat16>,
          update<A, Half>};
}

}  // namespace
}  // namespace fastlangevin
