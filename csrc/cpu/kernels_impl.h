// The CPU kernels over an arithmetic A. Included by one file an instruction set, each compiled with that set's flags:
// everything here has internal linkage, so that no code compiled for one set is ever linked into another.
#pragma once

#include <algorithm>

#include "../update.h"
#include "kernels.h"
#include "lanes.h"
#include "small_floats.h"

namespace fastlangevin {
namespace {

constexpr int64_t block = 1024;  // elements whose noise stays in the L1 cache

constexpr int64_t most_chunks = 8;

// The words of n chunks of A::width groups each. one_high_word: all groups have the same, which makes a part of the
// first two rounds the same for all.
template <class A, int n, bool one_high_word>
FL_INLINE void chunk_words(const NoiseKey& key, uint64_t group, typename A::u32 (*r)[4]) {
  using L = Lanes<A, n>;
  typename L::u32 words[4];
  noise_words<L>(key, group,
                 one_high_word ? L::broadcast_word(static_cast<uint32_t>(group >> 32)) : L::group_high(group), words);
  FL_UNROLL
  for (int i = 0; i < n; ++i) {
    FL_UNROLL
    for (int j = 0; j < 4; ++j) r[i][j] = words[j].at[i];
  }
}

// n_chunks chunks of 4 * A::width deviates each, at most most_chunks, from a whole group on. The words of all come
// first: two short loops let the processor overlap more of their iterations than one long one.
template <class A, bool is_uniform>
FL_INLINE void fill_chunks(const NoiseKey& key, uint64_t group, int64_t n_chunks, float* out) {
  // The twelve instructions of a round of Philox do not fill its latency. There is room for more in the 32 registers of
  // AVX-512 and of NEON, whose vectors have 16 and 4 lanes.
  constexpr int together = A::width == 16 || A::width == 4 ? 2 : 1;
  typename A::u32 r[most_chunks][4];
  const auto at = [&](int64_t chunk) { return group + static_cast<uint64_t>(chunk * A::width); };
  if (group >> 32 == (at(n_chunks) - 1) >> 32) {
    int64_t i = 0;
#pragma GCC unroll 1
    for (; i + together <= n_chunks; i += together) chunk_words<A, together, true>(key, at(i), r + i);
#pragma GCC unroll 1
    for (; i < n_chunks; ++i) chunk_words<A, 1, true>(key, at(i), r + i);
  } else {
#pragma GCC unroll 1
    for (int64_t i = 0; i < n_chunks; ++i) chunk_words<A, 1, false>(key, at(i), r + i);
  }
#pragma GCC unroll 1
  for (int64_t i = 0; i < n_chunks; ++i) {
    typename A::f32 z[4];
    if constexpr (is_uniform) {
      uniforms<A>(r[i], z);
    } else {
      using L = Lanes<A, 2>;  // both pairs at once
      typename L::f32 even, odd;
      box_muller<L>(typename L::u32{{r[i][0], r[i][2]}}, typename L::u32{{r[i][1], r[i][3]}}, even, odd);
      z[0] = even.at[0], z[1] = odd.at[0], z[2] = even.at[1], z[3] = odd.at[1];
    }
    A::store(out + i * 4 * A::width, z);
  }
}

template <class A, bool is_uniform>
void fill(const NoiseKey& key, uint64_t index, int64_t n, float* out) {
  constexpr int64_t chunk = 4 * A::width;
  while (n > 0) {
    const int64_t lane = static_cast<int64_t>(index % 4);
    int64_t m;
    if (lane == 0 && n >= chunk) {
      const int64_t n_chunks = std::min(n / chunk, most_chunks);
      m = n_chunks * chunk;
      fill_chunks<A, is_uniform>(key, index / 4, n_chunks, out);
    } else {
      float part[chunk];
      fill_chunks<A, is_uniform>(key, index / 4, 1, part);
      m = std::min(n, chunk - lane);
      std::copy(part + lane, part + lane + m, out);
    }
    index += static_cast<uint64_t>(m), out += m, n -= m;
  }
}

constexpr int64_t fetched = 256;  // elements whose lines are asked for at a time

template <class T>
FL_INLINE void fetch(const T* at, int64_t n) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < n; i += line) __builtin_prefetch(at + i);
}

// The normals of n elements, a block at most, while the elements that are used with them come into the L1 cache:
// read[0], read[1], …, where they are not null.
template <class A, class... T>
FL_INLINE void fill_and_fetch(const NoiseKey& key, uint64_t index, int64_t n, float* z, const T*... read) {
  for (int64_t i = 0, m; i < n; i += m) {
    // The first piece ends where a later one begins on a whole group.
    m = std::min(n - i, fetched - static_cast<int64_t>((index + static_cast<uint64_t>(i)) % fetched));
    ((read ? fetch(read + i, m) : void()), ...);
    fill<A, false>(key, index + static_cast<uint64_t>(i), m, z + i);
  }
}

// UpdateParams whose step size and noise level differ from element to element.
template <class T>
struct ElementParams {
  const T *step_size, *noise_std;
  T grad_clip, lo, hi;
};

template <class T>
FL_INLINE UpdateParams<T> params_at(const UpdateParams<T>& p, int64_t) {
  return p;
}
template <class T>
FL_INLINE UpdateParams<T> params_at(const ElementParams<T>& p, int64_t i) {
  return {p.step_size[i], p.noise_std[i], p.grad_clip, p.lo, p.hi};
}

// P: UpdateParams<T> or ElementParams<T>.
template <bool has_score, bool has_noise, bool has_limits, class T, class P>
FL_INLINE void apply(const P& p, const float* z, const T* score, T* x, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    x[i] = langevin_update<has_score, has_noise, has_limits, T>(params_at(p, i), x[i], has_score ? score[i] : T(0),
                                                                has_noise ? T(z[i]) : T(0));
  }
}

template <bool has_score, bool has_noise, class T, class P>
FL_INLINE void apply(const UpdateArgs& args, const P& p, const float* z, const T* score, T* x, int64_t n) {
  if (args.has_limits) {
    apply<has_score, has_noise, true>(p, z, score, x, n);
  } else {
    apply<has_score, has_noise, false>(p, z, score, x, n);
  }
}

template <class T, class P>
FL_INLINE void apply(const UpdateArgs& args, const P& p, const float* z, const T* score, T* x, int64_t n) {
  if (args.has_score && args.has_noise) {
    apply<true, true>(args, p, z, score, x, n);
  } else if (args.has_score) {
    apply<true, false>(args, p, z, score, x, n);
  } else {
    apply<false, true>(args, p, z, score, x, n);
  }
}

// The numbers of the n elements from `place` on, counted from the first chain's first element.
template <class T>
void expand(const double* of_chains, double of_all, int64_t size, uint64_t place, int64_t n, T* out) {
  if (!of_chains) {
    std::fill_n(out, n, static_cast<T>(of_all));
    return;
  }
  const uint64_t chain = place / static_cast<uint64_t>(size);
  of_chains += chain;
  int64_t m = size - static_cast<int64_t>(place - chain * static_cast<uint64_t>(size));
  for (; n > 0; out += m, n -= m, m = size) {
    m = std::min(m, n);
    std::fill_n(out, m, static_cast<T>(*of_chains++));
  }
}

// params(index, m): what `apply` needs for the m elements from `index` on.
template <class A, class T, class Params>
FL_INLINE void update_blocks(const UpdateArgs& args, uint64_t index, int64_t n, const T* score, T* x,
                             const Params& params) {
  using Compute = typename ComputeType<T>::type;
  alignas(64) float z[block];
  while (n > 0) {
    // The first piece ends on a whole block, so that all later ones begin on a whole group.
    const int64_t m = std::min(n, block - static_cast<int64_t>(index % block));
    if (args.has_noise) fill_and_fetch<A>(args.key, index, m, z, x, args.has_score ? score : nullptr);
    const auto& p = params(index, m);
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

template <class A, class T>
void update(const UpdateArgs& args, uint64_t index, int64_t n, const T* score, T* x) {
  using Compute = typename ComputeType<T>::type;
  const auto grad_clip = static_cast<Compute>(args.grad_clip);
  const auto lo = static_cast<Compute>(args.lo), hi = static_cast<Compute>(args.hi);
  const PerChain& chains = args.per_chain;
  if (chains.size == 0) {
    const UpdateParams<Compute> p{static_cast<Compute>(args.step_size), static_cast<Compute>(args.noise_std), grad_clip,
                                  lo, hi};
    update_blocks<A>(args, index, n, score, x, [&](uint64_t, int64_t) -> const auto& { return p; });
    return;
  }
  alignas(64) Compute step_size[block], noise_std[block];
  const ElementParams<Compute> p{step_size, noise_std, grad_clip, lo, hi};
  update_blocks<A>(args, index, n, score, x, [&](uint64_t at, int64_t m) -> const auto& {
    expand(chains.step_sizes, args.step_size, chains.size, at - chains.first, m, step_size);
    expand(chains.noise_stds, args.noise_std, chains.size, at - chains.first, m, noise_std);
    return p;
  });
}

}  // namespace
}  // namespace fastlangevin
