// Whole chains of an MLP energy. A block of chains keeps its activations in the cache for all steps, features in rows
// and chains in columns. A chain's result does not depend on where it sits.
#pragma once

#include <type_traits>
#include <utility>

#include "activations.h"
#include "chain_impl.h"
#include "mlp_product_impl.h"
#include "transitions_impl.h"

namespace fastlangevin {
namespace {

// sums (one vector) += a · b.
template <class V>
FL_INLINE void add_product(typename V::f32 a, typename V::f32 b, float* sums) {
  store<V>(sums, V::fma(a, b, load<V>(sums)));
}

// h = f(z) and d = f'(z) for z = bias + weights · in, each (n_out, block); given last, h = last · f'(z) and no d, and
// last · f(z) is added to `sums` (block), unless they are null.
template <class B, class F>
void forward(const MlpLayer& layer, const F& f, const float* in, float* h, float* d, const float* last, float* sums,
             float* work) {
  using V = typename B::V;
  using f32 = typename V::f32;
  const auto finish = [&](int64_t row, int64_t at, f32 z) {
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
  };
  B::Products::template product<B>(layer.forward, layer.bias, layer.n_in, layer.n_out, in, h, work, finish);
}

template <class B>
void forward(const MlpLayer& layer, const float* in, float* h, float* d, const float* last, float* sums, float* work) {
  with_activation<typename B::V>(layer, [&](const auto& f) { forward<B>(layer, f, in, h, d, last, sums, work); });
}

// out = bias + weights · in.
template <class B>
void affine(const MlpLayer& layer, const float* in, float* out, float* work) {
  using V = typename B::V;
  B::Products::template product<B>(layer.forward, layer.bias, layer.n_in, layer.n_out, in, out, work,
                                   [&](int64_t, int64_t at, typename V::f32 z) { store<V>(out + at, z); });
}

// out (n_in, block) = weightsᵀ · in; given factor, times it.
template <class B>
void backward(const MlpLayer& layer, const float* in, const float* factor, float* out, float* work) {
  using V = typename B::V;
  const auto finish = [&](int64_t, int64_t at, typename V::f32 sum) {
    store<V>(out + at, factor ? sum * load<V>(factor + at) : sum);
  };
  B::Products::template product<B>(layer.backward, nullptr, layer.n_out, layer.n_in, in, out, work, finish);
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

// The values of two layers in turn, the derivatives of all, and what products need.
template <class B>
int64_t layers_size(const Mlp& mlp) {
  return B::chains * (2 + mlp.n_layers) * mlp.widest + B::Products::template scratch_size<B>(mlp.widest);
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
  float *const derivatives = scratch + 2 * size, *const work = derivatives + n * size;
  const float* in = x;
  if (energy) std::fill_n(energy, block, 0.0f);
  for (int64_t l = 0; l < n; ++l) {
    const MlpLayer& layer = mlp.layers[l];
    const bool is_last = l == n - 1;
    float* const d = derivatives + l * size;
    if (is_last && mlp.sums_exponentials) {
      affine<B>(layer, in, now, work);
      for (int64_t c = 0; c < block; c += V::width) {
        softmax<B>(layer.n_out, last ? load<V>(last + c) : V::broadcast(*mlp.last), now + c,
                   energy ? energy + c : nullptr);
      }
    } else if (is_last && last) {
      forward<B>(layer, in, now, d, nullptr, nullptr, work);
      for (int64_t i = 0; i < layer.n_out * block; i += V::width) {
        if (energy) add_product<V>(load<V>(last + i), load<V>(now + i), energy + i % block);
        store<V>(now + i, load<V>(d + i) * load<V>(last + i));
      }
    } else {
      forward<B>(layer, in, now, d, is_last ? mlp.last : nullptr, energy, work);
    }
    in = now;
    std::swap(now, next);
  }
  if (energy) finish_energy<B>(mlp, x, energy);
  for (int64_t l = n - 1; l > 0; --l) {
    backward<B>(mlp.layers[l], in, derivatives + (l - 1) * size, now, work);
    in = now;
    std::swap(now, next);
  }
  const MlpLayer& first = mlp.layers[0];
  backward<B>(first, in, nullptr, score, work);
  if (mlp.prior != 0.0f) {
    const f32 minus_prior = V::broadcast(-mlp.prior);
    for (int64_t i = 0; i < first.n_in * block; i += V::width) {
      store<V>(score + i, V::fma(minus_prior, load<V>(x + i), load<V>(score + i)));
    }
  }
}

template <class V, class Products>
int64_t mlp_scratch(const Mlp& mlp) {
  using B = WideBlock<V, Products>;
  return B::chains * (spread_arrays * mlp.layers[0].n_in + mlp.n_last) + layers_size<B>(mlp);
}

template <class V, class Products>
int64_t mlp_transitions_scratch(const Mlp& mlp) {
  using B = WideBlock<V, Products>;
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
template <class A, class V, class Products, class Args>
void run_all_blocks(const Mlp& mlp, const Args& args, int64_t first, int64_t n, float* chains, float* scratch) {
  using Wide = WideBlock<V, Products>;
  using Narrow = NarrowBlock<V, Products>;
  [[maybe_unused]] const typename Products::Registers held{};
  const int64_t left = n % Wide::chains;
  const int64_t narrow = left <= Wide::chains - Narrow::chains ? left : 0, wide = n - narrow;
  run_blocks<A, Wide>(mlp, args, first, wide, chains, scratch);
  run_blocks<A, Narrow>(mlp, args, first + wide, narrow, chains + wide * mlp.layers[0].n_in, scratch);
}

template <class A, class V, class Products>
void mlp_chain(const Mlp& mlp, const ChainArgs& args, int64_t first, int64_t n, float* chains, float* scratch) {
  run_all_blocks<A, V, Products>(mlp, args, first, n, chains, scratch);
}

template <class A, class V, class Products>
void mlp_transitions(const Mlp& mlp, const TransitionArgs& args, int64_t first, int64_t n, float* chains,
                     float* scratch) {
  run_all_blocks<A, V, Products>(mlp, args, first, n, chains, scratch);
}

template <class A, class V, class Products = PanelProducts<V>>
constexpr MlpKernels make_mlp_kernels() {
  return {Products::packed_size,
          Products::pack,
          {{NarrowBlock<V, Products>::chains, mlp_scratch<V, Products>, mlp_chain<A, V, Products>},
           {NarrowBlock<V, Products>::chains, mlp_transitions_scratch<V, Products>, mlp_transitions<A, V, Products>}}};
}

}  // namespace
}  // namespace fastlangevin
