// One element of the moves of samplers with velocities or a Metropolis test, and one chain of the test, for the host
// and for CUDA. kernels/reference_moves.py defines every rounding; no product and sum may be contracted.
#pragma once

#include "update.h"

namespace fastlangevin {

// The numbers of one element. T is the arithmetic: float for 16- and 32-bit states, double for 64-bit ones.
template <class T>
struct MoveParams {
  T kick;  // times 1 / m, the product rounded
  T drift;
  T decay;
  T noise_std;  // times 1 / sqrt(m), the product rounded
};

// v ← noise_std z (draws); v ← v + kick score (n_kicks times, at most two); x ← x + drift v; then, given has_decay,
// v ← decay v + noise_std z and x ← x + drift v once more. Sums with a product are fused multiply-adds.
template <class T>
FL_INLINE void velocity_move(const MoveParams<T>& p, bool draws, int64_t n_kicks, bool has_decay, T score, T z, T& x,
                             T& v) {
  const T noise = p.noise_std * z;
  if (draws) v = noise;
  if (n_kicks > 0) v = fused_multiply_add(p.kick, score, v);
  if (n_kicks > 1) v = fused_multiply_add(p.kick, score, v);
  x = fused_multiply_add(p.drift, v, x);
  if (has_decay) {
    v = fused_multiply_add(p.decay, v, noise);
    x = fused_multiply_add(p.drift, v, x);
  }
}

template <bool draws, int n_kicks, bool has_decay, class T>
FL_INLINE void velocity_move(const MoveParams<T>& p, T score, T z, T& x, T& v) {
  velocity_move(p, draws, n_kicks, has_decay, score, z, x, v);
}

// An element's term of the sum that, times ½, is a Langevin proposal's work. half_step: half the step size.
template <class T>
FL_INLINE T mala_term(T half_step, T x, T y, T score, T new_score) {
  return (score + new_score) * fused_multiply_add(half_step, new_score - score, y - x);
}

// An element's kinetic energy at the end of a trajectory, after the last kick to v, less that of its drawn velocity.
// kick and noise_std are those of MoveParams, half_mass is m / 2.
template <class T>
FL_INLINE T hmc_term(T kick, T noise_std, T half_mass, T v, T new_score, T z) {
  const T end = fused_multiply_add(kick, new_score, v), drawn = noise_std * z;
  return (half_mass * (end - drawn)) * (end + drawn);
}

// NaN is outside.
template <class T>
FL_INLINE bool is_inside(T y, T lo, T hi) {
  return (y >= lo) & (y <= hi);
}

// Sums over a chain of d terms have P lanes, in float64. Lane l adds, from 0 on, terms l, l + P, l + 2P, … in turn;
// then lanes i and i + P / 2 are added, lanes i and i + P / 4, and so on until one is left.
constexpr int64_t most_lanes = 1024;

FL_INLINE int64_t sum_lanes(int64_t d) {
  int64_t lanes = 1;
  while (lanes < d && lanes < most_lanes) lanes *= 2;
  return lanes;
}

// What the test of each chain reads and writes, beside states and scores.
struct ChainMemory {
  double *energy, *log_ratio;
  int64_t *n_accepted, *n_rejected;
};

// Tests a chain: whether its state becomes the proposal. u: its uniform number. work: what the move has added to the
// energy's change. inside: all elements of the proposal are. If the ratio is NaN, the chain stays.
FL_INLINE bool metropolis(const ChainMemory& memory, int64_t chain, double new_energy, double work, double temperature,
                          bool inside, float u) {
  double& energy = memory.energy[chain];
  const double log_ratio = inside ? (energy - new_energy - work) / temperature : -INFINITY;
  const bool accepted = log(static_cast<double>(u)) < log_ratio;
  memory.log_ratio[chain] = log_ratio;
  if (accepted) energy = new_energy;
  memory.n_accepted[chain] += accepted;
  memory.n_rejected[chain] = accepted ? 0 : memory.n_rejected[chain] + 1;
  return accepted;
}

}  // namespace fastlangevin
