// Whole chains of energies in closed form.
#pragma once

#include "activations.h"
#include "chain_impl.h"

namespace fastlangevin {
namespace {

constexpr int64_t mixture_block = 256;

// Chains in lanes, features in rows. logits: one vector a component.
template <class V>
FL_INLINE void mixture_score(const Mixture& p, const float* x, float* score, float* logits) {
  using f32 = typename V::f32;
  f32 greatest = V::broadcast(-INFINITY);
  for (int64_t k = 0; k < p.n_components; ++k) {
    f32 square = V::broadcast(0.0f);
    for (int64_t i = 0; i < p.dimension; ++i) {
      const f32 away = load<V>(x + i * mixture_block) - V::broadcast(p.means[k * p.dimension + i]);
      square = V::fma(away * V::broadcast(p.precisions[k * p.dimension + i]), away, square);
    }
    const f32 logit = V::fma(square, V::broadcast(-0.5f), V::broadcast(p.constants[k]));
    store<V>(logits + k * V::width, logit);
    greatest = logit > greatest ? logit : greatest;
  }
  f32 sum = V::broadcast(0.0f);
  for (int64_t k = 0; k < p.n_components; ++k) {
    const f32 weight = Exponential<V>(load<V>(logits + k * V::width) - greatest).exp();
    store<V>(logits + k * V::width, weight);
    sum = sum + weight;
  }
  const f32 inverse = V::broadcast(1.0f) / sum;
  for (int64_t i = 0; i < p.dimension; ++i) {
    const f32 at = load<V>(x + i * mixture_block);
    f32 s = V::broadcast(0.0f);
    for (int64_t k = 0; k < p.n_components; ++k) {
      const f32 pull =
          (V::broadcast(p.means[k * p.dimension + i]) - at) * V::broadcast(p.precisions[k * p.dimension + i]);
      s = V::fma(pull, load<V>(logits + k * V::width), s);
    }
    store<V>(score + i * mixture_block, s * inverse);
  }
}

template <class V>
int64_t mixture_scratch(const Mixture& p) {
  return spread_arrays * p.dimension * mixture_block + p.n_components * V::width;
}

template <class A, class V>
void mixture_chain(const Mixture& p, const ChainArgs& args, int64_t first, int64_t n, float* chains, float* scratch) {
  float* const logits = scratch + spread_arrays * p.dimension * mixture_block;
  const auto begin = [](int64_t, int64_t) {};
  run_spread<A, mixture_block>(args, p.dimension, first, n, chains, scratch, begin, [&](const float* x, float* score) {
    for (int64_t c = 0; c < mixture_block; c += V::width) mixture_score<V>(p, x + c, score + c, logits);
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
