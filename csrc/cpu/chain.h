// Whole chains on the CPU: what a kernel is told about the steps, and about the energy that drives them.
#pragma once

#include <cstdint>

#include "transitions.h"

namespace fastlangevin {

enum class NoiseFirst : int64_t { no, yes, clamp };

// n_steps updates of chains whose first element is number `offset` of the noise stream; step k draws at step + k.
struct ChainArgs {
  const double *step_sizes, *noise_stds;  // (n_steps)
  int64_t n_steps;
  uint64_t seed;
  uint32_t step;
  uint64_t offset;
  bool has_noise, has_clip, has_bounds;
  NoiseFirst noise_first;
  double grad_clip, lo, hi;  // infinities where there is no such limit
};

enum class ActivationKind : int64_t { leaky_relu, silu, gelu, gelu_tanh, tanh, softplus, elu };
constexpr ActivationKind last_activation = ActivationKind::elu;

// A fully connected layer and the activation after it. Weights are packed (MlpKernels): W for the way forward, its
// transpose for the way back.
struct MlpLayer {
  int64_t n_in, n_out;
  const float *forward, *backward;
  const float* bias;  // (n_out) or null
  ActivationKind activation;
  float parameters[2];
};

// log p(x) = last · h(x) - prior / 2 · |x|^2 up to a constant, h the last layer's output: its activations or, if it has
// none, the logarithm of the sum of its exponentials.
struct Mlp {
  int64_t n_layers, widest;  // widest: of the input and all layers
  const MlpLayer* layers;
  bool sums_exponentials;  // the last layer has no activation
  const float* last;       // (n_last)
  int64_t n_last;          // numbers in h
  bool last_per_chain;     // last is (chains, n_last)
  float prior;
};

// p(x) ∝ Σ_k exp(constants[k] - Σ_i precisions[k, i] (x_i - means[k, i])^2 / 2).
struct Mixture {
  int64_t n_components, dimension;
  const float *constants, *means, *precisions;
};

// U(x) = barrier Σ_i ((x_i / width)^2 - 1)^2.
struct DoubleWell {
  float barrier, width;
  int64_t dimension;
};

// Runs n chains, x (n, dimension) in place, from chain number `first` of x's on: args.offset is that of the very first.
// Each has its result whatever n is. scratch: as many floats as scratch_size says, 64-byte aligned.
template <class Energy, class Args>
struct StepKernel {
  int64_t block;  // chains that are worth a thread of their own
  int64_t (*scratch_size)(const Energy& energy);
  void (*run)(const Energy& energy, const Args& args, int64_t first, int64_t n, float* x, float* scratch);
};

template <class Energy>
struct ChainKernel {
  StepKernel<Energy, ChainArgs> langevin;  // a double well's "chains" are the elements of x
  StepKernel<Energy, TransitionArgs> transitions;
};

// pack writes the n_out × n_in weights at[i * row_stride + j * column_stride] as the kernels read them, packed_size
// floats, 64-byte aligned.
struct MlpKernels {
  int64_t (*packed_size)(int64_t n_out, int64_t n_in);
  void (*pack)(const float* at, int64_t row_stride, int64_t column_stride, int64_t n_out, int64_t n_in, float* packed);
  ChainKernel<Mlp> chain;
};

}  // namespace fastlangevin
