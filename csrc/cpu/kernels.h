// The CPU kernels' table: one row an instruction set, chosen once at load (capability.cpp).
#pragma once

#include <cstdint>

#include "../small_floats.h"
#include "chain.h"
#include "move_kernels.h"
#include "older_glibc.h"

namespace fastlangevin {

// Chains of `size` consecutive elements, with numbers of their own.
struct PerChain {
  const double *step_sizes, *noise_stds;  // one a chain; null: the same for all
  int64_t size;                           // 0: there is no number of a chain's own
  uint64_t first;                         // the stream's index of the first chain's first element
};

struct UpdateArgs {
  NoiseKey key;
  double step_size, noise_std, grad_clip, lo, hi;  // grad_clip, lo, hi: infinities where there is no such limit
  bool has_score, has_noise, has_limits;
  PerChain per_chain;
};

// Fills out[0, n) with the deviates of elements index … index + n - 1.
using FillKernel = void(const NoiseKey& key, uint64_t index, int64_t n, float* out);

// Updates the contiguous elements index … index + n - 1 in place. score is unread unless args.has_score.
template <class T>
using UpdateKernel = void(const UpdateArgs& args, uint64_t index, int64_t n, const T* score, T* x);

struct Kernels {
  const char* name;
  FillKernel* normal;
  FillKernel* uniform;
  UpdateKernel<float>* update_float;
  UpdateKernel<double>* update_double;
  UpdateKernel<BFloat16>* update_bfloat16;
  UpdateKernel<Half>* update_half;
  MoveKernels<float> moves_float;
  MoveKernels<double> moves_double;
  MoveKernels<BFloat16> moves_bfloat16;
  MoveKernels<Half> moves_half;
  ChainKernel<Mixture> mixture_chain;
  ChainKernel<DoubleWell> double_well_chain;
};

extern const Kernels portable_kernels, avx2_kernels, avx512_kernels, neon_kernels;
extern const MlpKernels mlp_portable, mlp_avx2, mlp_avx512, mlp_amx_bf16, mlp_neon;

struct MlpPrecisions {
  const MlpKernels* fp32;
  const MlpKernels* bf16;  // null where there are none
};

// The kernels of the instruction set in force.
const Kernels& kernels();
MlpPrecisions mlp_kernels();

}  // namespace fastlangevin
