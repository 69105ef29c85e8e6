// Whole chains of transitions other than Langevin steps on the CPU: what a kernel is told about them.
#pragma once

#include "move_kernels.h"

namespace fastlangevin {

// `TransitionKind` of kernels/arguments.py.
enum class TransitionKind : int64_t { mala, hmc, underdamped };
constexpr TransitionKind last_transition = TransitionKind::underdamped;

// n_steps transitions of chains whose first element is number `offset` of the noise stream, and whose first one is
// number `first_chain` of the whole batch; transition k draws at step + k.
struct TransitionArgs {
  TransitionKind kind;
  const double *step_sizes, *noise_stds, *decays;  // (n_steps); decays: of underdamped dynamics alone
  int64_t n_steps;
  int64_t n_leapfrog;  // of HMC alone
  double temperature, lo, hi;
  Momentum<float> momentum;
  uint64_t seed;
  uint32_t step, stream, test_stream;
  uint64_t offset, first_chain;
  // Of underdamped dynamics: whether the first step is not preceded by the last kick of another one, and whether that
  // of the last step is done.
  bool opens, closes;
  ChainMemory memory;  // of Metropolis tests
  float* v;            // of underdamped dynamics, of x's shape
};

// Of underdamped dynamics: whether the last kick of step k is left to the next step, whose first one is equal.
FL_INLINE bool leaves_kick(const TransitionArgs& args, int64_t k) {
  return k + 1 < args.n_steps ? args.step_sizes[k + 1] == args.step_sizes[k] : !args.closes;
}

}  // namespace fastlangevin
