// Whole chains of an MLP energy. A block of chains keeps its activations in the cache for all steps, features in rows
// and chains in columns. A chain's sums run over the features in ascending order, from the bias on, wherever it sits.
#pragma once

#include <type_traits>
#include <utility>

#include "activations.h"
#include "chain_impl.h"
#include "panels.h"
#include "transitions_impl.h"

namespace fastlangevin {
namespace {

// Chains that are worked on together: `columns` vectors of them. A product adds up rows × columns vectors, and leaves
// registers for what is multiplied.
template <class Vector, int n_columns>
struct MlpBlock {
  using V = Vector;
  static constexpr int columns = n_columns, panel = panel_rows(V::width);
  static constexpr int panels = columns == 1 ? 8 / panel : 1;  // at a time: eight sums overlap their latencies
  static constexpr int rows = panels * panel;
  static constexpr int64_t chains = columns * V::width;
  // Features whose values stay in the L1 cache while all rows are multiplied by them.
  static constexpr int64_t features = 24 * 1024 / static_cast<int64_t>(sizeof(float)) / chains;
};

// Many chains fill wide blocks, a few narrow ones. A chain's result is the same in both.
template <class V>
using WideBlock = MlpBlock<V, V::width == 8 ? 3 : 2>;
template <class V>
using NarrowBlock = MlpBlock<V, 1>;

// Adds the products of features first … last - 1 to sums of n_panels panels of rows. start(row, place) is the sum
// before, finish(row, place, sum) takes the sum after.
template <class B, int rows, int n_panels, class Start, class Finish>
FL_INLINE void product_panels(const float* panels, int64_t n_in, int64_t first, int64_t last, const float* in,
                              int64_t row, const Start& start, const Finish& finish) {
  using V = typename B::V;
  using f32 = typename V::f32;
  constexpr int columns = B::columns, n = rows * n_panels;
  constexpr int64_t block = B::chains;
  f32 sum[n][columns];
  FL_UNROLL
  for (int r = 0; r < n; ++r) {
    FL_UNROLL
    for (int c = 0; c < columns; ++c) sum[r][c] = start(row + r, (row + r) * block + c * V::width);
  }
#pragma GCC unroll 2
  for (int64_t i = first; i < last; ++i) {
    f32 a[columns];
    FL_UNROLL
    for (int c = 0; c < columns; ++c) a[c] = load<V>(in + i * block + c * V::width);
    FL_UNROLL
    for (int r = 0; r < n; ++r) {
      const f32 w = V::broadcast(panels[(r / rows * n_in + i) * rows + r % rows]);
      FL_UNROLL
      for (int c = 0; c < columns; ++c) sum[r][c] = V::fma(w, a[c], sum[r][c]);
    }
  }
  FL_UNROLL
  for (int r = 0; r < n; ++r) {
    FL_UNROLL
    for (int c = 0; c < columns; ++c) finish(row + r, (row + r) * block + c * V::width, sum[r][c]);
  }
}

// Rows from `row` on of out = bias + weights · in, some features at a time.
template <class B>
void product_in_parts(const float* panels, const float* bias, int64_t n_in, int64_t n_out, int64_t row, const float* in,
                      float* out) {
  using V = typename B::V;
  for (int64_t r = row; r < n_out; ++r) std::fill_n(out + r * B::chains, B::chains, bias ? bias[r] : 0.0f);
  const auto start = [&](int64_t, int64_t at) { return load<V>(out + at); };
  const auto finish = [&](int64_t, int64_t at, typename V::f32 sum) { store<V>(out + at, sum); };
  for (int64_t first = 0; first < n_in; first += B::features) {
    const int64_t last = std::min(n_in, first + B::features);
    int64_t done = row;
    const auto run = [&](auto rows, auto n_panels) {
      constexpr int n = decltype(rows)::value, m = decltype(n_panels)::value;
      product_panels<B, n, m>(panels + done * n_in, n_in, first, last, in, done, start, finish);
      done += n * m;
    };
    constexpr std::integral_constant<int, B::panel> whole{};
    constexpr std::integral_constant<int, 1> one{};
    while (done + B::rows <= n_out) run(whole, std::integral_constant<int, B::panels>{});
    if constexpr (B::panels > 1) {
      while (done + B::panel <= n_out) run(whole, one);
    }
    const int64_t left = n_out - done;
    if constexpr (B::panel > 4) {
      if (left & 4) run(std::integral_constant<int, 4>{}, one);
    }
    if (left & 2) run(std::integral_constant<int, 2>{}, one);
    if (left & 1) run(one, one);
  }
}

// finish(row, place, sum) for every vector of bias + weights · in. partial (n_out, block): scratch, which finish may
// write to at its own place.
template <class B, class Finish>
FL_INLINE void product(const float* panels, const float* bias, int64_t n_in, int64_t n_out, const float* in,
                       float* partial, const Finish& finish) {
  using V = typename B::V;
  int64_t row = 0;
  if (n_in <= B::features) {
    const auto start = [&](int64_t r, int64_t) { return V::broadcast(bias ? bias[r] : 0.0f); };
    for (; row + B::rows <= n_out; row += B::rows) {
      product_panels<B, B::panel, B::panels>(panels + row * n_in, n_in, 0, n_in, in, row, start, finish);
    }
  }
  if (row == n_out) return;
  product_in_parts<B>(panels, bias, n_in, n_out, row, in, partial);
  for (; row < n_out; ++row) {
    for (int64_t at = row * B::chains; at < (row + 1) * B::chains; at += V::width) {
      finish(row, at, load<V>(partial + at));
    }
  }
}

// sums (one vector) += a · b.
template <class V>
FL_INLINE void add_product(typename V::f32 a, typename V::f32 b, float* sums) {
  store<V>(sums, V::fma(a, b, load<V>(sums)));
}

// h = f(z) and d = f'(z) for z = bias + weights · in, each (n_out, block); given last, h = last · f'(z) and no d, and
// last · f(z) is added to `sums` (block), unless they are null.
template <class B, class F>
void forward(const MlpLayer& layer, const F& f, const float* in, float* h, float* d, const float* last, float* sums) {
  using V = typename B::V;
  using f32 = typename V::f32;
  product<B>(layer.forward, layer.bias, layer.n_in, layer.n_out, in, h, [&](int64_t row, int64_t at, f32 z) {
    f32 value, derivative;
    f.value(z, value, derivative);
    if (last) {
      const f32 factor = V::broadcast(last[row]);
      store<V>(h + at, derivative * factor);
      if (sums) add_product<V>(factor, value, sums + at % B::chains);
    } else {
      store<V>(h + at, value);
      store<V>(d + at, derivative);
    }
  });
}

template <class B>
void forward(const MlpLayer& layer, const float* in, float* h, float* d, const float* last, float* sums) {
  with_activation<typename B::V>(layer, [&](const auto& f) { forward<B>(layer, f, in, h, d, last, sums); });
}

// out = bias + weights · in.
template <class B>
void affine(const MlpLayer& layer, const float* in, float* out) {
  using V = typename B::V;
  product<B>(layer.forward, layer.bias, layer.n_in, layer.n_out, in, out,
             [&](int64_t, int64_t at, typename V::f32 z) { store<V>(out + at, z); });
}

// out (n_in, block) = weightsᵀ · in; given factor, times it.
template <class B>
void backward(const MlpLayer& layer, const float* in, const float* factor, float* out) {
  using V = typename B::V;
  product<B>(layer.backward, nullptr, layer.n_out, layer.n_in, in, out, [&](int64_t, int64_t at, typename V::f32 sum) {
    store<V>(out + at, factor ? sum * load<V>(factor + at) : sum);
  });
}

// The n exponents z (n, block) of some chains, to factor · ∂ log Σ exp z / ∂z. scaled_log: null, or where factor · log
// Σ exp z is written.
template <class B>
FL_INLINE void softmax(int64_t n, typename B::V::f32 factor, float* z, float* scaled_log) {
  using V = typename B::V;
  using f32 = typename V::f32;
  constexpr int64_t block = B::chains;
  f32 greatest = load<V>(z);
  for (int64_t i = 1; i < n; ++i) {
    const f32 a = load<V>(z + i * block);
    greatest = a > greatest ? a : greatest;
  }
  f32 sum = V::broadcast(0.0f);
  for (int64_t i = 0; i < n; ++i) {
    const f32 e = Exponential<V>(load<V>(z + i * block) - greatest).exp();
    store<V>(z + i * block, e);
    sum = sum + e;
  }
  if (scaled_log) store<V>(scaled_log, factor * (greatest + normal_logarithm<V>(sum)));
  const f32 scale = factor / sum;
  for (int64_t i = 0; i < n; ++i) store<V>(z + i * block, load<V>(z + i * block) * scale);
}

// The values of two layers in turn, and the derivatives of all.
template <class B>
int64_t layers_size(const Mlp& mlp) {
  return B::chains * (2 + mlp.n_layers) * mlp.widest;
}

// -log p of each chain from `energy`, which holds last · h.
template <class B>
void finish_energy(const Mlp& mlp, const float* x, float* energy) {
  using V = typename B::V;
  using f32 = typename V::f32;
  const f32 half_prior = V::broadcast(0.5f * mlp.prior);
  for (int64_t c = 0; c < B::chains; c += V::width) {
    f32 square = V::broadcast(0.0f);
    for (int64_t i = 0; i < mlp.layers[0].n_in; ++i) {
      const f32 a = load<V>(x + i * B::chains + c);
      square = V::fma(a, a, square);
    }
    store<V>(energy + c, V::fma(half_prior, square, -load<V>(energy + c)));
  }
}

// last (n_last, block): of each chain; null if mlp.last is that of all. energy: null for scores alone. scratch:
// layers_size.
template <class B>
void mlp_score(const Mlp& mlp, const float* last, const float* x, float* score, float* energy, float* scratch) {
  using V = typename B::V;
  using f32 = typename V::f32;
  constexpr int64_t block = B::chains;
  const int64_t size = mlp.widest * block, n = mlp.n_layers;
  float *now = scratch, *next = scratch + size;
  float* const derivatives = scratch + 2 * size;
  const float* in = x;
  if (energy) std::fill_n(energy, block, 0.0f);
  for (int64_t l = 0; l < n; ++l) {
    const MlpLayer& layer = mlp.layers[l];
    const bool is_last = l == n - 1;
    float* const d = derivatives + l * size;
    if (is_last && mlp.sums_exponentials) {
      affine<B>(layer, in, now);
      for (int64_t c = 0; c < block; c += V::width) {
        softmax<B>(layer.n_out, last ? load<V>(last + c) : V::broadcast(*mlp.last), now + c,
                   energy ? energy + c : nullptr);
      }
    } else if (is_last && last) {
      forward<B>(layer, in, now, d, nullptr, nullptr);
      for (int64_t i = 0; i < layer.n_out * block; i += V::width) {
        if (energy) add_product<V>(load<V>(last + i), load<V>(now + i), energy + i % block);
        store<V>(now + i, load<V>(d + i) * load<V>(last + i));
      }
    } else {
      forward<B>(layer, in, now, d, is_last ? mlp.last : nullptr, energy);
    }
    in = now;
    std::swap(now, next);
  }
  if (energy) finish_energy<B>(mlp, x, energy);
  for (int64_t l = n - 1; l > 0; --l) {
    backward<B>(mlp.layers[l], in, derivatives + (l - 1) * size, now);
    in = now;
    std::swap(now, next);
  }
  const MlpLayer& first = mlp.layers[0];
  backward<B>(first, in, nullptr, score);
  if (mlp.prior != 0.0f) {
    const f32 minus_prior = V::broadcast(-mlp.prior);
    for (int64_t i = 0; i < first.n_in * block; i += V::width) {
      store<V>(score + i, V::fma(minus_prior, load<V>(x + i), load<V>(score + i)));
    }
  }
}

template <class V>
int64_t mlp_scratch(const Mlp& mlp) {
  using B = WideBlock<V>;
  return B::chains * (spread_arrays * mlp.layers[0].n_in + mlp.n_last) + layers_size<B>(mlp);
}

template <class V>
int64_t mlp_transitions_scratch(const Mlp& mlp) {
  using B = WideBlock<V>;
  return transition_scratch<B::chains>(mlp.layers[0].n_in) + B::chains * mlp.n_last + layers_size<B>(mlp);
}

// Runs Langevin steps or other transitions of n chains, in blocks.
template <class A, class B, class Args>
void run_blocks(const Mlp& mlp, const Args& args, int64_t first, int64_t n, float* chains, float* scratch) {
  constexpr bool is_langevin = std::is_same<Args, ChainArgs>::value;
  const int64_t dimension = mlp.layers[0].n_in;
  float* const layers =
      scratch + (is_langevin ? spread_arrays * dimension * B::chains : transition_scratch<B::chains>(dimension));
  float* const last = mlp.last_per_chain ? layers + layers_size<B>(mlp) : nullptr;
  if (last) std::fill_n(last, mlp.n_last * B::chains, 0.0f);
  const auto begin = [&](int64_t at, int64_t m) {
    if (last) spread<B::chains>(mlp.last + at * mlp.n_last, m, mlp.n_last, last);
  };
  if constexpr (is_langevin) {
    run_spread<A, B::chains>(args, dimension, first, n, chains, scratch, begin,
                             [&](const float* x, float* score) { mlp_score<B>(mlp, last, x, score, nullptr, layers); });
  } else {
    run_spread_transitions<A, B::chains>(
        args, dimension, first, n, chains, scratch, begin,
        [&](const float* x, float* score, float* energy) { mlp_score<B>(mlp, last, x, score, energy, layers); });
  }
}

// The chains that are left after whole wide blocks take narrow ones, if those have fewer columns in all.
template <class A, class V, class Args>
void run_all_blocks(const Mlp& mlp, const Args& args, int64_t first, int64_t n, float* chains, float* scratch) {
  using Wide = WideBlock<V>;
  using Narrow = NarrowBlock<V>;
  const int64_t left = n % Wide::chains;
  const int64_t narrow = left <= Wide::chains - Narrow::chains ? left : 0, wide = n - narrow;
  run_blocks<A, Wide>(mlp, args, first, wide, chains, scratch);
  run_blocks<A, Narrow>(mlp, args, first + wide, narrow, chains + wide * mlp.layers[0].n_in, scratch);
}

template <class A, class V>
void mlp_chain(const Mlp& mlp, const ChainArgs& args, int64_t first, int64_t n, float* chains, float* scratch) {
  run_all_blocks<A, V>(mlp, args, first, n, chains, scratch);
}

template <class A, class V>
void mlp_transitions(const Mlp& mlp, const TransitionArgs& args, int64_t first, int64_t n, float* chains,
                     float* scratch) {
  run_all_blocks<A, V>(mlp, args, first, n, chains, scratch);
}

}  // namespace
}  // namespace fastlangevin
