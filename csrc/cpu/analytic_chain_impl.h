// Whole chains of energies in closed form.
#pragma once

#include "activations.h"
#include "chain_impl.h"

namespace fastlangevin {
namespace {

constexpr int64_t mixture_block = 256;

// Vectors of chains at a time: their latencies overlap, and each reads a component's numbers once.
constexpr int mixture_vectors = 4;

// Chains in lanes, features in rows. logits: mixture_vectors of them a component.
template <class V>
FL_INLINE void mixture_score(const Mixture& p, const float* x, float* score, float* logits) {
  using f32 = typename V::f32;
  constexpr int n = mixture_vectors;
  f32 greatest[n];
  FL_UNROLL
  for (int v = 0; v < n; ++v) greatest[v] = V::broadcast(-INFINITY);
  for (int64_t k = 0; k < p.n_components; ++k) {
    f32 square[n];
    FL_UNROLL
    for (int v = 0; v < n; ++v) square[v] = V::broadcast(0.0f);
    for (int64_t i = 0; i < p.dimension; ++i) {
      const f32 mean = V::broadcast(p.means[k * p.dimension + i]);
      const f32 precision = V::broadcast(p.precisions[k * p.dimension + i]);
      FL_UNROLL
      for (int v = 0; v < n; ++v) {
        const f32 away = load<V>(x + i * mixture_block + v * V::width) - mean;
        square[v] = V::fma(away * precision, away, square[v]);
      }
    }
    FL_UNROLL
    for (int v = 0; v < n; ++v) {
      const f32 logit = V::fma(square[v], V::broadcast(-0.5f), V::broadcast(p.constants[k]));
      store<V>(logits + (k * n + v) * V::width, logit);
      greatest[v] = logit > greatest[v] ? logit : greatest[v];
    }
  }
  f32 sum[n], inverse[n];
  FL_UNROLL
  for (int v = 0; v < n; ++v) sum[v] = V::broadcast(0.0f);
  for (int64_t k = 0; k < p.n_components; ++k) {
    FL_UNROLL
    for (int v = 0; v < n; ++v) {
      float* const logit = logits + (k * n + v) * V::width;
      const f32 weight = Exponential<V>(load<V>(logit) - greatest[v]).exp();
      store<V>(logit, weight);
      sum[v] = sum[v] + weight;
    }
  }
  FL_UNROLL
  for (int v = 0; v < n; ++v) inverse[v] = V::broadcast(1.0f) / sum[v];
  for (int64_t i = 0; i < p.dimension; ++i) {
    f32 at[n], s[n];
    FL_UNROLL
    for (int v = 0; v < n; ++v) {
      at[v] = load<V>(x + i * mixture_block + v * V::width), s[v] = V::broadcast(0.0f);
    }
    for (int64_t k = 0; k < p.n_components; ++k) {
      const f32 mean = V::broadcast(p.means[k * p.dimension + i]);
      const f32 precision = V::broadcast(p.precisions[k * p.dimension + i]);
      FL_UNROLL
      for (int v = 0; v < n; ++v) {
        s[v] = V::fma((mean - at[v]) * precision, load<V>(logits + (k * n + v) * V::width), s[v]);
      }
    }
    FL_UNROLL
    for (int v = 0; v < n; ++v) store<V>(score + i * mixture_block + v * V::width, s[v] * inverse[v]);
  }
}

template <class V>
int64_t mixture_scratch(const Mixture& p) {
  return spread_arrays * p.dimension * mixture_block + p.n_components * mixture_vectors * V::width;
}

template <class A, class V>
void mixture_chain(const Mixture& p, const ChainArgs& args, int64_t first, int64_t n, float* chains, float* scratch) {
  float* const logits = scratch + spread_arrays * p.dimension * mixture_block;
  const auto begin = [](int64_t, int64_t) {};
  run_spread<A, mixture_block>(args, p.dimension, first, n, chains, scratch, begin, [&](const float* x, float* score) {
    for (int64_t c = 0; c < mixture_block; c += mixture_vectors * V::width)
      mixture_score<V>(p, x + c, score + c, logits);
  });
}

inline int64_t double_well_scratch(const DoubleWell&) { return 2 * block; }

// Element by element: a "chain" is one of x's elements.
template <class A>
void double_well_chain(const DoubleWell& u, const ChainArgs& args, int64_t first, int64_t n, float* x, float* scratch) {
  const float per_square = 1.0f / (u.width * u.width), slope = -4.0f * u.barrier * per_square;
  uint64_t index = args.offset + static_cast<uint64_t>(first);
  float *const score = scratch, *const z = scratch + block;
  while (n > 0) {
    const int64_t m = std::min(n, block - static_cast<int64_t>(index % block));
    run_steps(
        args, m, x, score, z, [&](const NoiseKey& key) { fill<A, false>(key, index, m, z); },
        [&] {
          for (int64_t i = 0; i < m; ++i) score[i] = slope * x[i] * (x[i] * x[i] * per_square - 1.0f);
        });
    index += static_cast<uint64_t>(m), x += m, n -= m;
  }
}

}  // namespace
}  // namespace fastlangevin
