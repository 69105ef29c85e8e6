// The moves on the CPU: what a kernel is told, and the kernels of a type of states.
#pragma once

#include "../moves.h"
#include "../small_floats.h"

namespace fastlangevin {

// m, 1 / m and 1 / sqrt(m) of a state's elements, `period` of each, which repeat; null where all masses are 1. T is the
// arithmetic.
template <class T>
struct Momentum {
  const T *masses, *weights, *roots;
  int64_t period;
};

struct MoveNumbers {
  double kick, drift, decay, noise_std;
  int64_t n_kicks;  // 0, 1 or 2
  bool draws, has_decay;
  NoiseKey key;
  uint64_t offset;  // the stream's index of the state's first element
};

// T is the type of the states; the velocities have that of the arithmetic.
template <class T>
struct MoveWork {
  using Compute = typename ComputeType<T>::type;
  MoveNumbers numbers;
  T* x;
  Compute* v;
  const T* score;  // unread if n_kicks is 0
  Momentum<Compute> momentum;
};

struct TestNumbers {
  double temperature, lo, hi;
  NoiseKey test_key;
  uint64_t first_chain;    // the place of the first chain in the whole batch
  double step_size;        // of Langevin proposals. What follows is of trajectories.
  double kick, noise_std;  // the last kick, and what the velocities were drawn with
  NoiseKey key;
  uint64_t offset;  // the stream's index of the states' first element
};

// The test of chains of d elements.
template <class T>
struct TestWork {
  using Compute = typename ComputeType<T>::type;
  TestNumbers numbers;
  int64_t d;
  T *x, *score;
  ChainMemory memory;
  const T *y, *new_score;
  const double* new_energy;
  const Compute* v;  // of trajectories, like the masses
  Momentum<Compute> momentum;
};

// Elements, or chains, first … first + n - 1, in place. Each has its result whatever n is.
template <class T>
struct MoveKernels {
  void (*move)(const MoveWork<T>& work, int64_t first, int64_t n);
  void (*mala_test)(const TestWork<T>& work, int64_t first, int64_t n);
  void (*hmc_test)(const TestWork<T>& work, int64_t first, int64_t n);
};

}  // namespace fastlangevin
