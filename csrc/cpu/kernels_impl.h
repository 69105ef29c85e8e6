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

// n_chunks chunks of 4 * A::width deviates each, from a whole group on. The words of all come first: two short loops
// let the processor overlap more of their iterations than one long one.
template <class A, bool is_uniform, int n_chunks>
FL_INLINE void fill_chunks(const NoiseKey& key, uint64_t group, float* out) {
  typename A::u32 r[n_chunks][4];
#pragma GCC unroll 1
  for (int i = 0; i < n_chunks; ++i) noise_words<A>(key, group + static_cast<uint64_t>(i) * A::width, r[i]);
#pragma GCC unroll 1
  for (int i = 0; i < n_chunks; ++i) {
    typename A::f32 z[4];
    if constexpr (is_uniform) {
      uniforms<A>(r[i], z);
    } else {
      normals<A>(r[i], z);
    }
    A::store(out + i * 4 * A::width, z);
  }
}

template <class A, bool is_uniform>
void fill(const NoiseKey& key, uint64_t index, int64_t n, float* out) {
  constexpr int64_t chunk = 4 * A::width;
  constexpr int several = 4;
  while (n > 0) {
    const int64_t lane = static_cast<int64_t>(index % 4);
    int64_t m;
    if (lane == 0 && n >= several * chunk) {
      m = several * chunk;
      fill_chunks<A, is_uniform, several>(key, index / 4, out);
    } else {
      float part[chunk];
      fill_chunks<A, is_uniform, 1>(key, index / 4, part);
      m = std::min(n, chunk - lane);
      std::copy(part + lane, part + lane + m, out);
    }
    index += static_cast<uint64_t>(m), out += m, n -= m;
  }
}

template <bool has_score, bool has_noise, bool has_limits, class T>
FL_INLINE void apply(const UpdateParams<T>& p, const float* z, const T* score, T* x, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    x[i] = langevin_update<has_score, has_noise, has_limits, T>(p, x[i], has_score ? score[i] : T(0),
                                                                has_noise ? T(z[i]) : T(0));
  }
}

template <bool has_score, bool has_noise, class T>
FL_INLINE void apply(const UpdateArgs& args, const UpdateParams<T>& p, const float* z, const T* score, T* x,
                     int64_t n) {
  if (args.has_limits) {
    apply<has_score, has_noise, true>(p, z, score, x, n);
  } else {
    apply<has_score, has_noise, false>(p, z, score, x, n);
  }
}

template <class T>
FL_INLINE void apply(const UpdateArgs& args, const UpdateParams<T>& p, const float* z, const T* score, T* x,
                     int64_t n) {
  if (args.has_score && args.has_noise) {
    apply<true, true>(args, p, z, score, x, n);
  } else if (args.has_score) {
    apply<true, false>(args, p, z, score, x, n);
  } else {
    apply<false, true>(args, p, z, score, x, n);
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

}  // namespace
}  // namespace fastlangevin
