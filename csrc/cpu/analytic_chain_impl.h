// Whole chains of energies in closed form.
#pragma once

#include "activations.h"
#include "chain_impl.h"
#include "transitions_impl.h"

namespace fastlangevin {
namespace {

constexpr int64_t mixture_block = 256;

// Vectors of chains at a time: their latencies overlap, and each reads a component's numbers once.
constexpr int mixture_vectors = 4;

// Chains in lanes, features in rows. energy: null for scores alone. weights: scratch, mixture_vectors vectors a
// component.
template <class V>
FL_INLINE void mixture_score(const Mixture& p, const float* x, float* score, float* energy, float* weights) {
  using L = Lanes<V, mixture_vectors>;
  using f32 = typename L::f32;
  const auto away = [&](int64_t k, int64_t i) __attribute__((always_inline)) {
    return L::broadcast(p.means[k * p.dimension + i]) - L::load(x + i * mixture_block);
  };
  const auto precision = [&](int64_t k, int64_t i) { return L::broadcast(p.precisions[k * p.dimension + i]); };
  f32 greatest = L::broadcast(-INFINITY);
  for (int64_t k = 0; k < p.n_components; ++k) {
    f32 square = L::broadcast(0.0f);
    for (int64_t i = 0; i < p.dimension; ++i) {
      const f32 distance = away(k, i);
      square = L::fma(distance * precision(k, i), distance, square);
    }
    const f32 logit = L::fma(square, L::broadcast(-0.5f), L::broadcast(p.constants[k]));
    L::store(weights + k * L::width, logit);
    greatest = L::maximum(logit, greatest);
  }
  f32 sum = L::broadcast(0.0f);
  for (int64_t k = 0; k < p.n_components; ++k) {
    float* const at = weights + k * L::width;
    // Beside a weight of 1 what is below e^-70 does not count, and products with it would be denormal, which is slow.
    const f32 weight = short_exponential<L>(L::maximum(L::broadcast(-70.0f), L::load(at) - greatest));
    L::store(at, weight);
    sum = sum + weight;
  }
  if (energy) L::store(energy, L::broadcast(-1.0f) * (greatest + normal_logarithm<L>(sum)));
  const f32 inverse = L::broadcast(1.0f) / sum;
  for (int64_t i = 0; i < p.dimension; ++i) {
    f32 total = L::broadcast(0.0f);
    for (int64_t k = 0; k < p.n_components; ++k) {
      total = L::fma(away(k, i) * precision(k, i), L::load(weights + k * L::width), total);
    }
    L::store(score + i * mixture_block, total * inverse);
  }
}

template <class V>
void mixture_scores(const Mixture& p, const float* x, float* score, float* energy, float* weights) {
  for (int64_t c = 0; c < mixture_block; c += mixture_vectors * V::width) {
    mixture_score<V>(p, x + c, score + c, energy ? energy + c : nullptr, weights);
  }
}

template <class V>
int64_t mixture_weights(const Mixture& p) {
  return p.n_components * mixture_vectors * V::width;
}

template <class V>
int64_t mixture_scratch(const Mixture& p) {
  return spread_arrays * p.dimension * mixture_block + mixture_weights<V>(p);
}

template <class A, class V>
void mixture_chain(const Mixture& p, const ChainArgs& args, int64_t first, int64_t n, float* chains, float* scratch) {
  float* const weights = scratch + spread_arrays * p.dimension * mixture_block;
  const auto begin = [](int64_t, int64_t) {};
  run_spread<A, mixture_block>(args, p.dimension, first, n, chains, scratch, begin,
                               [&](const float* x, float* score) { mixture_scores<V>(p, x, score, nullptr, weights); });
}

template <class V>
int64_t mixture_transitions_scratch(const Mixture& p) {
  return transition_scratch<mixture_block>(p.dimension) + mixture_weights<V>(p);
}

template <class A, class V>
void mixture_transitions(const Mixture& p, const TransitionArgs& args, int64_t first, int64_t n, float* chains,
                         float* scratch) {
  float* const weights = scratch + transition_scratch<mixture_block>(p.dimension);
  const auto begin = [](int64_t, int64_t) {};
  run_spread_transitions<A, mixture_block>(
      args, p.dimension, first, n, chains, scratch, begin,
      [&](const float* x, float* score, float* energy) { mixture_scores<V>(p, x, score, energy, weights); });
}

constexpr int64_t double_well_block = 256;

// The numbers of a double well's score.
struct DoubleWellForce {
  float per_square, slope;

  explicit DoubleWellForce(const DoubleWell& u)
      : per_square(1.0f / (u.width * u.width)), slope(-4.0f * u.barrier * per_square) {}
  FL_INLINE float away(float x) const { return x * x * per_square - 1.0f; }
  FL_INLINE float score(float x) const { return slope * x * away(x); }
};

inline int64_t double_well_scratch(const DoubleWell&) { return 2 * block; }

// Element by element: a "chain" is one of x's elements.
template <class A>
void double_well_chain(const DoubleWell& u, const ChainArgs& args, int64_t first, int64_t n, float* x, float* scratch) {
  const DoubleWellForce force(u);
  uint64_t index = args.offset + static_cast<uint64_t>(first);
  float *const score = scratch, *const z = scratch + block;
  while (n > 0) {
    const int64_t m = std::min(n, block - static_cast<int64_t>(index % block));
    run_steps(
        args, m, x, score, z, [&](const NoiseKey& key) { fill<A, false>(key, index, m, z); },
        [&] {
          for (int64_t i = 0; i < m; ++i) score[i] = force.score(x[i]);
        });
    index += static_cast<uint64_t>(m), x += m, n -= m;
  }
}

// Chains in columns. energy: null for scores alone.
__attribute__((noinline)) void double_well_scores(const DoubleWell& u, const float* x, float* score, float* energy) {
  const DoubleWellForce force(u);
  for (int64_t i = 0; i < u.dimension * double_well_block; ++i) score[i] = force.score(x[i]);
  if (!energy) return;
  std::fill_n(energy, double_well_block, 0.0f);
  for (int64_t i = 0; i < u.dimension; ++i) {
    const float* const row = x + i * double_well_block;
    for (int64_t c = 0; c < double_well_block; ++c) energy[c] += force.away(row[c]) * force.away(row[c]);
  }
  for (int64_t c = 0; c < double_well_block; ++c) energy[c] *= u.barrier;
}

inline int64_t double_well_transitions_scratch(const DoubleWell& u) {
  return transition_scratch<double_well_block>(u.dimension);
}

template <class A>
void double_well_transitions(const DoubleWell& u, const TransitionArgs& args, int64_t first, int64_t n, float* chains,
                             float* scratch) {
  const auto begin = [](int64_t, int64_t) {};
  run_spread_transitions<A, double_well_block>(
      args, u.dimension, first, n, chains, scratch, begin,
      [&](const float* x, float* score, float* energy) { double_well_scores(u, x, score, energy); });
}

}  // namespace
}  // namespace fastlangevin
