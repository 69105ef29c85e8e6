// Whole chains of an MLP energy. A block of chains keeps its activations in the cache for all steps, features in rows and
// chains in columns. A chain's sums run over the features in ascending order, from the bias on, wherever it sits.
#pragma once

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

template <class V, int rows>
FL_INLINE void product_panel(const float* panel, const float* bias, int64_t n_in, const float* in, const float* factor,
                             float* out) {
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
    for (int c = 0; c < columns; ++c) {
      const int64_t at = r * block + c * V::width;
      store<V>(out + at, factor ? sum[r][c] * load<V>(factor + at) : sum[r][c]);
    }
  }
}

// out (n_out, block) = (bias + weights · in) · factor; without bias: 0, without factor: 1.
template <class V>
void product(const float* panels, const float* bias, int64_t n_in, int64_t n_out, const float* in, const float* factor,
             float* out) {
  constexpr int64_t block = MlpShape<V>::block;
  const auto run = [&](auto rows) {
    constexpr int n = decltype(rows)::value;
    product_panel<V, n>(panels, bias, n_in, in, factor, out);
    panels += n * n_in, out += n * block, n_out -= n;
    if (bias) bias += n;
    if (factor) factor += n * block;
  };
  constexpr int most = MlpShape<V>::rows;
  while (n_out >= most) run(std::integral_constant<int, most>{});
  if constexpr (most > 4) {
    if (n_out & 4) run(std::integral_constant<int, 4>{});
  }
  if (n_out & 2) run(std::integral_constant<int, 2>{});
  if (n_out & 1) run(std::integral_constant<int, 1>{});
}

// h (n_out, block): z to f(z), and d to f'(z); for the last layer d alone, times last.
template <class V, template <class> class F, bool is_last>
void activate(const MlpLayer& layer, float* h, float* d, const float* last) {
  using f32 = typename V::f32;
  constexpr int64_t block = MlpShape<V>::block;
  const F<V> f(layer.parameters);
  for (int64_t j = 0; j < layer.n_out; ++j) {
    FL_UNROLL
    for (int c = 0; c < MlpShape<V>::columns; ++c) {
      const int64_t at = j * block + c * V::width;
      f32 value, derivative;
      f.value(load<V>(h + at), value, derivative);
      if constexpr (is_last) {
        store<V>(d + at, derivative * V::broadcast(last[j]));
      } else {
        store<V>(h + at, value);
        store<V>(d + at, derivative);
      }
    }
  }
}

template <class V, bool is_last>
void activate(const MlpLayer& layer, float* h, float* d, const float* last) {
  switch (layer.activation) {
    case ActivationKind::leaky_relu:
      return activate<V, LeakyRelu, is_last>(layer, h, d, last);
    case ActivationKind::silu:
      return activate<V, Silu, is_last>(layer, h, d, last);
    case ActivationKind::gelu:
      return activate<V, Gelu, is_last>(layer, h, d, last);
    case ActivationKind::gelu_tanh:
      return activate<V, GeluTanh, is_last>(layer, h, d, last);
    case ActivationKind::tanh:
      return activate<V, Tanh, is_last>(layer, h, d, last);
    case ActivationKind::softplus:
      return activate<V, Softplus, is_last>(layer, h, d, last);
    case ActivationKind::elu:
      return activate<V, Elu, is_last>(layer, h, d, last);
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
    product<V>(layer.forward, layer.bias, layer.n_in, layer.n_out, in, nullptr, now);
    if (l == n - 1) {
      activate<V, true>(layer, now, now, mlp.last);
    } else {
      activate<V, false>(layer, now, derivatives + l * size, nullptr);
    }
    in = now;
    std::swap(now, next);
  }
  for (int64_t l = n - 1; l > 0; --l) {
    const MlpLayer& layer = mlp.layers[l];
    product<V>(layer.backward, nullptr, layer.n_out, layer.n_in, in, derivatives + (l - 1) * size, now);
    in = now;
    std::swap(now, next);
  }
  const MlpLayer& first = mlp.layers[0];
  product<V>(first.backward, nullptr, first.n_out, first.n_in, in, nullptr, score);
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
