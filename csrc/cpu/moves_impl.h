// The moves over an arithmetic A, with internal linkage as in kernels_impl.h.
#pragma once

#include "kernels_impl.h"
#include "move_kernels.h"

namespace fastlangevin {
namespace {

// A number for each element of a block: `all` times the element's factor, or `all` where there are no factors. They are
// written anew only where the elements have other factors than those before.
template <class T>
class ScaledBlock {
 public:
  alignas(64) T at[block];

  ScaledBlock(double all, const T* factors, int64_t period)
      : all_(static_cast<T>(all)), factors_(factors), period_(period) {
    if (!factors) std::fill_n(at, block, all_);
  }

  // To n elements from number `place` of the state on.
  void move_to(int64_t place, int64_t n) {
    if (!factors_) return;
    const int64_t phase = place % period_;
    if (phase == phase_ && n <= n_) return;
    phase_ = phase, n_ = n;
    int64_t done = 0;
    for (int64_t from = phase; done < std::min(n, period_); from = 0) {
      const int64_t m = std::min(period_ - from, std::min(n, period_) - done);
      for (int64_t i = 0; i < m; ++i) at[done + i] = all_ * factors_[from + i];
      done += m;
    }
    for (int64_t m; done < n; done += m) {  // done is a multiple of the period
      m = std::min(done, n - done);
      std::copy_n(at, m, at + done);
    }
  }

 private:
  T all_;
  const T* factors_;
  int64_t period_, phase_ = 0, n_ = 0;
};

// A piece of a state or a score in the arithmetic's type: itself, or widened.
template <class T>
struct WidePiece {
  alignas(64) float wide[block];

  const float* read(const T* in, int64_t n) {
    widen(in, wide, n);
    return wide;
  }
};
template <>
struct WidePiece<float> {
  const float* read(const float* in, int64_t) { return in; }
};
template <>
struct WidePiece<double> {
  const double* read(const double* in, int64_t) { return in; }
};

// The numbers of n elements of a block.
template <class T>
struct MoveBlock {
  const T *kick, *noise_std;
  T drift, decay;
  const float* z;  // unread if there is no noise, like score if there is no kick
  const T* score;
  int64_t n;
};

template <bool draws, int n_kicks, bool has_decay, class T>
void move_elements(const MoveBlock<T>& b, T* v, T* x) {
#pragma GCC ivdep
  for (int64_t i = 0; i < b.n; ++i) {
    const MoveParams<T> p{b.kick[i], b.drift, b.decay, b.noise_std[i]};
    velocity_move<draws, n_kicks, has_decay>(p, n_kicks > 0 ? b.score[i] : T(0),
                                             draws || has_decay ? static_cast<T>(b.z[i]) : T(0), x[i], v[i]);
  }
}

template <bool draws, bool has_decay, class T>
void move_elements(int64_t n_kicks, const MoveBlock<T>& b, T* v, T* x) {
  if (n_kicks == 0) return move_elements<draws, 0, has_decay>(b, v, x);
  if (n_kicks == 1) return move_elements<draws, 1, has_decay>(b, v, x);
  move_elements<draws, 2, has_decay>(b, v, x);
}

template <class T>
void move_elements(bool draws, int64_t n_kicks, bool has_decay, const MoveBlock<T>& b, T* v, T* x) {
  if (draws && has_decay) return move_elements<true, true>(n_kicks, b, v, x);
  if (draws) return move_elements<true, false>(n_kicks, b, v, x);
  if (has_decay) return move_elements<false, true>(n_kicks, b, v, x);
  move_elements<false, false>(n_kicks, b, v, x);
}

template <class A, class T>
void move(const MoveWork<T>& work, int64_t first, int64_t n) {
  using Compute = typename ComputeType<T>::type;
  alignas(64) float z[block];
  WidePiece<T> wide_score;
  ScaledBlock<Compute> kick(work.numbers.kick, work.momentum.weights, work.momentum.period);
  ScaledBlock<Compute> noise_std(work.numbers.noise_std, work.momentum.roots, work.momentum.period);
  MoveBlock<Compute> b{kick.at,
                       noise_std.at,
                       static_cast<Compute>(work.numbers.drift),
                       static_cast<Compute>(work.numbers.decay),
                       z,
                       nullptr,
                       0};
  const auto run = [&](Compute* x) {
    move_elements(work.numbers.draws, work.numbers.n_kicks, work.numbers.has_decay, b, work.v + first, x);
  };
  for (; n > 0; first += b.n, n -= b.n) {
    // The first piece ends on a whole block, so that all later ones begin on a whole group.
    const uint64_t index = work.numbers.offset + static_cast<uint64_t>(first);
    b.n = std::min(n, block - static_cast<int64_t>(index % block));
    if (work.numbers.draws || work.numbers.has_decay) {
      fill_and_fetch<A>(work.numbers.key, index, b.n, z, work.x + first, work.v + first,
                        work.numbers.n_kicks > 0 ? work.score + first : nullptr);
    }
    kick.move_to(first, b.n);
    noise_std.move_to(first, b.n);
    if (work.numbers.n_kicks > 0) b.score = wide_score.read(work.score + first, b.n);
    if constexpr (std::is_same<T, Compute>::value) {
      run(work.x + first);
    } else {
      alignas(64) Compute x[block];
      widen(work.x + first, x, b.n);
      run(x);
      narrow(x, work.x + first, b.n);
    }
  }
}

template <class T>
FL_INLINE bool all_inside(const T* y, int64_t n, T lo, T hi) {
  int outside = 0;
  for (int64_t i = 0; i < n; ++i) outside |= !is_inside(y[i], lo, hi);
  return !outside;
}

// The sum of d terms that have a lane each (of P, see moves.h), by halves. rest: P / 2 numbers of scratch.
template <class T>
FL_INLINE double sum_of_lanes(const T* terms, int64_t d, int64_t lanes, double* rest) {
  if (lanes == 1) return 0.0 + static_cast<double>(terms[0]);
  int64_t half = lanes / 2;
  const int64_t full = d - half;  // lanes of the lower half whose like in the upper one has a term
  for (int64_t i = 0; i < full; ++i)
    rest[i] = static_cast<double>(terms[i]) + (0.0 + static_cast<double>(terms[half + i]));
  for (int64_t i = full; i < half; ++i) rest[i] = 0.0 + static_cast<double>(terms[i]);
  while (half > 1) {
    half /= 2;
    for (int64_t i = 0; i < half; ++i) rest[i] += rest[half + i];
  }
  return rest[0];
}

// Tests n chains. terms(place, m, y, out): the terms of the work of m elements from `place` on, at most block of them,
// y in the arithmetic's type; the work is `factor` times their sum over the chain.
template <class A, class T, class Terms>
FL_INLINE void test_chains(const TestWork<T>& work, int64_t first, int64_t n, double factor, const Terms& terms) {
  using Compute = typename ComputeType<T>::type;
  static_assert(block == most_lanes, "a long chain's lanes are a block");
  const int64_t d = work.d, lanes = sum_lanes(d), together = d == 0 ? block : std::max<int64_t>(1, block / d);
  // As torch rounds a limit to the states' type.
  T low, high;
  narrow(static_cast<Compute>(work.numbers.lo), low);
  narrow(static_cast<Compute>(work.numbers.hi), high);
  const Compute lo = widen(low), hi = widen(high);
  alignas(64) Compute piece[block];
  alignas(64) double sums[block];
  alignas(64) float u[block];
  WidePiece<T> wide_y;
  const auto finish = [&](int64_t chain, double sum, bool inside, float uniform) {
    if (!metropolis(work.memory, chain, work.new_energy[chain], factor * sum, work.numbers.temperature, inside,
                    uniform))
      return;
    std::copy_n(work.y + chain * d, d, work.x + chain * d);
    std::copy_n(work.new_score + chain * d, d, work.score + chain * d);
  };
  for (int64_t m; n > 0; first += m, n -= m) {
    m = std::min(n, together);
    fill<A, true>(work.numbers.test_key, work.numbers.first_chain + static_cast<uint64_t>(first), m, u);
    const Compute* y = nullptr;
    bool inside = true;
    if (d > block) std::fill_n(sums, block, 0.0);
    for (int64_t i = 0, k; i < m * d; i += k) {  // once, but for a chain longer than a block
      k = std::min(block, m * d - i);
      y = wide_y.read(work.y + first * d + i, k);
      terms(first * d + i, k, y, piece);
      inside = inside && all_inside(y, k, lo, hi);
      if (d <= block) continue;
      for (int64_t j = 0; j < k; ++j) sums[j] += static_cast<double>(piece[j]);
    }
    if (d > block) {
      finish(first, sum_of_lanes(sums, block, block, sums), inside, u[0]);
      continue;
    }
    for (int64_t c = 0; c < m; ++c) {
      const double sum = d == 0 ? 0.0 : sum_of_lanes(piece + c * d, d, lanes, sums);
      finish(first + c, sum, inside || all_inside(y + c * d, d, lo, hi), u[c]);
    }
  }
}

template <class A, class T>
void mala_test(const TestWork<T>& work, int64_t first, int64_t n) {
  using Compute = typename ComputeType<T>::type;
  WidePiece<T> wide_x, wide_score, wide_new_score;
  const Compute half_step = static_cast<Compute>(work.numbers.step_size) * Compute(0.5);
  test_chains<A>(work, first, n, 0.5, [&](int64_t place, int64_t m, const Compute* y, Compute* out) {
    const Compute* const x = wide_x.read(work.x + place, m);
    const Compute* const score = wide_score.read(work.score + place, m);
    const Compute* const new_score = wide_new_score.read(work.new_score + place, m);
    for (int64_t i = 0; i < m; ++i) out[i] = mala_term(half_step, x[i], y[i], score[i], new_score[i]);
  });
}

template <class A, class T>
void hmc_test(const TestWork<T>& work, int64_t first, int64_t n) {
  using Compute = typename ComputeType<T>::type;
  WidePiece<T> wide_new_score;
  alignas(64) float z[block];
  const Momentum<Compute>& momentum = work.momentum;
  ScaledBlock<Compute> kick(work.numbers.kick, momentum.weights, momentum.period);
  ScaledBlock<Compute> noise_std(work.numbers.noise_std, momentum.roots, momentum.period);
  ScaledBlock<Compute> half_mass(0.5, momentum.masses, momentum.period);
  test_chains<A>(work, first, n, 1.0, [&](int64_t place, int64_t m, const Compute*, Compute* out) {
    const Compute* const new_score = wide_new_score.read(work.new_score + place, m);
    fill<A, false>(work.numbers.key, work.numbers.offset + static_cast<uint64_t>(place), m, z);
    kick.move_to(place, m);
    noise_std.move_to(place, m);
    half_mass.move_to(place, m);
    const Compute* const v = work.v + place;
    for (int64_t i = 0; i < m; ++i) {
      out[i] = hmc_term(kick.at[i], noise_std.at[i], half_mass.at[i], v[i], new_score[i], static_cast<Compute>(z[i]));
    }
  });
}

}  // namespace
}  // namespace fastlangevin
