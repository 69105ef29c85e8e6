// Whole chains of an MLP energy. A block of chains keeps its activations in the cache for all steps, features in rows
// and chains in columns. A chain's sums run over the features in ascending order, from the bias on, wherever it sits.
#pragma once

#include <type_traits>
#include <utility>

#include "activations.h"
#include "chain_impl.h"
#include "panels.h"

namespace fastlangevin {
namespace {

// The accumulators of a product: rows × columns vectors, and registers left for what is multiplied.
template <class V>
struct MlpShape {
  static constexpr int rows = panel_rows(V::width), columns = V::width == 8 ? 3 : 2;
  static constexpr int64_t block = columns * V::width;
};

template <class V, int rows, class Finish>
FL_INLINE void product_panel(const float* panel, const float* bias, int64_t n_in, const float* in, int64_t first,
                             const Finish& finish) {
  using f32 = typename V::f32;
  constexpr int columns = MlpShape<V>::columns;
  constexpr int64_t block = MlpShape<V>::block;
  f32 sum[rows][columns];
  FL_UNROLL
  for (int r = 0; r < rows; ++r) {
    FL_UNROLL
    for (int c = 0; c < columns; ++c) sum[r][c] = V::broadcast(bias ? bias[r] : 0.0f);
  }
#pragma GCC unroll 2
  for (int64_t i = 0; i < n_in; ++i) {
    f32 a[columns];
    FL_UNROLL
    for (int c = 0; c < columns; ++c) a[c] = load<V>(in + i * block + c * V::width);
    FL_UNROLL
    for (int r = 0; r < rows; ++r) {
      const f32 w = V::broadcast(panel[i * rows + r]);
      FL_UNROLL
      for (int c = 0; c < columns; ++c) sum[r][c] = V::fma(w, a[c], sum[r][c]);
    }
  }
  FL_UNROLL
  for (int r = 0; r < rows; ++r) {
    FL_UNROLL
    for (int c = 0; c < columns; ++c) finish(first + r, (first + r) * block + c * V::width, sum[r][c]);
  }
}

// finish(row, place, sum) for every vector of bias + weights · in.
template <class V, class Finish>
FL_INLINE void product(const float* panels, const float* bias, int64_t n_in, int64_t n_out, const float* in,
                       const Finish& finish) {
  int64_t done = 0;
  const auto run = [&](auto rows) {
    constexpr int n = decltype(rows)::value;
    product_panel<V, n>(panels, bias, n_in, in, done, finish);
    panels += n * n_in, done += n;
    if (bias) bias += n;
  };
  constexpr int most = MlpShape<V>::rows;
  while (done + most <= n_out) run(std::integral_constant<int, most>{});
  const int64_t left = n_out - done;
  if constexpr (most > 4) {
    if (left & 4) run(std::integral_constant<int, 4>{});
  }
  if (left & 2) run(std::integral_constant<int, 2>{});
  if (left & 1) run(std::integral_constant<int, 1>{});
}

// h = f(z) and d = f'(z) for z = bias + weights · in, each (n_out, block); given last, h = last · f'(z) and no d.
template <class V, class F>
void forward(const MlpLayer& layer, const F& f, const float* in, float* h, float* d, const float* last) {
  using f32 = typename V::f32;
  const auto run = [&](const auto& finish) {
    product<V>(layer.forward, layer.bias, layer.n_in, layer.n_out, in, finish);
  };
  if (last) {
    run([&](int64_t row, int64_t at, f32 z) {
      f32 value, derivative;
      f.value(z, value, derivative);
      store<V>(h + at, derivative * V::broadcast(last[row]));
    });
  } else {
    run([&](int64_t, int64_t at, f32 z) {
      f32 value, derivative;
      f.value(z, value, derivative);
      store<V>(h + at, value);
      store<V>(d + at, derivative);
    });
  }
}

template <class V>
void forward(const MlpLayer& layer, const float* in, float* h, float* d, const float* last) {
  with_activation<V>(layer, [&](const auto& f) { forward<V>(layer, f, in, h, d, last); });
}

// out (n_in, block) = weightsᵀ · in; given factor, times it.
template <class V>
void backward(const MlpLayer& layer, const float* in, const float* factor, float* out) {
  using f32 = typename V::f32;
  const auto run = [&](const auto& finish) {
    product<V>(layer.backward, nullptr, layer.n_out, layer.n_in, in, finish);
  };
  if (factor) {
    run([&](int64_t, int64_t at, f32 sum) { store<V>(out + at, sum * load<V>(factor + at)); });
  } else {
    run([&](int64_t, int64_t at, f32 sum) { store<V>(out + at, sum); });
  }
}

template <class V>
void mlp_score(const Mlp& mlp, const float* x, float* score, float* scratch) {
  using f32 = typename V::f32;
  constexpr int64_t block = MlpShape<V>::block;
  const int64_t size = mlp.widest * block, n = mlp.n_layers;
  float *now = scratch, *next = scratch + size;
  float* const derivatives = scratch + 2 * size;
  const float* in = x;
  for (int64_t l = 0; l < n; ++l) {
    const MlpLayer& layer = mlp.layers[l];
    forward<V>(layer, in, now, derivatives + l * size, l == n - 1 ? mlp.last : nullptr);
    in = now;
    std::swap(now, next);
  }
  for (int64_t l = n - 1; l > 0; --l) {
    backward<V>(mlp.layers[l], in, derivatives + (l - 1) * size, now);
    in = now;
    std::swap(now, next);
  }
  const MlpLayer& first = mlp.layers[0];
  backward<V>(first, in, nullptr, score);
  if (mlp.prior != 0.0f) {
    const f32 minus_prior = V::broadcast(-mlp.prior);
    for (int64_t i = 0; i < first.n_in * block; i += V::width) {
      store<V>(score + i, V::fma(minus_prior, load<V>(x + i), load<V>(score + i)));
    }
  }
}

template <class V>
int64_t mlp_scratch(const Mlp& mlp) {
  return MlpShape<V>::block * (spread_arrays * mlp.layers[0].n_in + (1 + mlp.n_layers) * mlp.widest);
}

template <class A, class V>
void mlp_chain(const Mlp& mlp, const ChainArgs& args, int64_t first, int64_t n, float* chains, float* scratch) {
  constexpr int64_t block = MlpShape<V>::block;
  const int64_t dimension = mlp.layers[0].n_in;
  float* const layers = scratch + spread_arrays * dimension * block;
  run_spread<A, block>(args, dimension, first, n, chains, scratch,
                       [&](const float* x, float* score) { mlp_score<V>(mlp, x, score, layers); });
}

}  // namespace
}  // namespace fastlangevin
