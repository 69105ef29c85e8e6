// The transitions of a block of chains, whatever their energy, in the layout of chain_impl.h: features in rows, chains
// in columns.
#pragma once

#include "chain_impl.h"
#include "moves_impl.h"
#include "transitions.h"

namespace fastlangevin {
namespace {

// in is that of all elements of a batch, or of one chain, `period` numbers from element `place` on; null: ones. To
// (dimension, block), each times `factor`.
template <int64_t block>
void spread_factors(const float* in, int64_t period, int64_t place, int64_t n, int64_t dimension, float factor,
                    float* out) {
  std::fill_n(out, dimension * block, factor);
  if (!in) return;
  for (int64_t c = 0; c < n; ++c) {
    for (int64_t i = 0; i < dimension; ++i) out[i * block + c] = factor * in[(place + c * dimension + i) % period];
  }
}

template <int64_t block>
constexpr int64_t transition_scratch(int64_t dimension) {
  return (12 * dimension + 2 * sum_lanes(dimension) + 18) * block;
}

// What the transitions of a block of chains work on. Arrays are (dimension, block), but for numbers of a chain.
template <class A, int64_t block>
class Transitions {
 public:
  Transitions(const TransitionArgs& args, int64_t dimension, float* scratch)
      : args_(args), d_(dimension), size_(dimension * block) {
    const auto take = [&](auto*& array, int64_t n) {
      array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(scratch);
      std::fill_n(array, n, 0);
      scratch += n * static_cast<int64_t>(sizeof *array / sizeof *scratch);
    };
    for (float** array :
         {&x_, &score_, &y_, &new_score_, &v_, &z_, &drawn_, &weights_, &roots_, &half_masses_, &kick_, &noise_std_}) {
      take(*array, size_);
    }
    take(sums_, sum_lanes(dimension) * block);
    for (double** array : {&energy_, &proposed_, &log_ratio_}) take(*array, block);
    for (float** array : {&new_energy_, &uniform_, &log_uniform_}) take(*array, block);
    for (int64_t** array : {&n_accepted_, &n_rejected_, &accepted_}) take(*array, block);
    for (int32_t** array : {&outside_, &taken_}) take(*array, block);
    std::fill_n(uniform_, block, 0.5f);
  }

  // All transitions of the n chains from number `first` of x's on, at most block. evaluate(x, score, energy) gives the
  // scores and, unless energy is null, the energies.
  template <class Evaluate>
  void run(int64_t first, int64_t n, float* chains, const Evaluate& evaluate) {
    first_ = first, n_ = n;
    spread<block>(chains, n, d_, x_);
    if (args_.kind == TransitionKind::underdamped) {
      run_underdamped(evaluate);
    } else {
      run_tested(evaluate);
    }
    gather<block>(x_, n, d_, chains);
  }

 private:
  template <class Evaluate>
  void run_tested(const Evaluate& evaluate) {
    const bool is_hmc = args_.kind == TransitionKind::hmc;
    if (is_hmc) spread_masses();
    const ChainMemory& memory = args_.memory;
    evaluate(x_, score_, new_energy_);
    std::copy_n(new_energy_, block, energy_);
    std::copy_n(memory.n_accepted + first_, n_, n_accepted_);
    std::copy_n(memory.n_rejected + first_, n_, n_rejected_);
    for (int64_t k = 0; k < args_.n_steps; ++k) {
      draw(k);
      if (is_hmc) {
        propose_trajectory(k, evaluate);
      } else {
        propose_langevin(k, evaluate);
      }
      test(k, is_hmc ? 1.0 : 0.5);
    }
    std::copy_n(energy_, n_, memory.energy + first_);
    std::copy_n(log_ratio_, n_, memory.log_ratio + first_);
    std::copy_n(n_accepted_, n_, memory.n_accepted + first_);
    std::copy_n(n_rejected_, n_, memory.n_rejected + first_);
  }

  template <class Evaluate>
  void propose_langevin(int64_t k, const Evaluate& evaluate) {
    const UpdateParams<float> p{static_cast<float>(args_.step_sizes[k]), static_cast<float>(args_.noise_stds[k]), 0, 0,
                                0};
    std::copy_n(x_, size_, y_);
    apply<true, true, false>(p, z_, score_, y_, size_);
    evaluate(y_, new_score_, new_energy_);
    add_mala_terms(p.step_size * 0.5f);
  }

  template <class Evaluate>
  void propose_trajectory(int64_t k, const Evaluate& evaluate) {
    const double step_size = args_.step_sizes[k];
    const int64_t n = args_.n_leapfrog;
    set(args_.noise_stds[k], roots_, noise_std_);
    MoveBlock<float> b{kick_, noise_std_, static_cast<float>(step_size), 0.0f, z_, score_, size_};
    std::copy_n(x_, size_, y_);
    set(0.5 * step_size, weights_, kick_);
    move_elements(true, 1, false, b, v_, y_);
    b.score = new_score_;
    if (n > 1) set(step_size, weights_, kick_);
    for (int64_t i = 1; i < n; ++i) {
      evaluate(y_, new_score_, static_cast<float*>(nullptr));
      move_elements(false, 1, false, b, v_, y_);
    }
    if (n > 1) set(0.5 * step_size, weights_, kick_);
    evaluate(y_, new_score_, new_energy_);
    add_hmc_terms();
  }

  template <class Evaluate>
  void run_underdamped(const Evaluate& evaluate) {
    float* const velocities = args_.v + first_ * d_;
    spread<block>(velocities, n_, d_, v_);
    spread_masses();
    evaluate(x_, score_, static_cast<float*>(nullptr));
    MoveBlock<float> b{kick_, noise_std_, 0.0f, 0.0f, z_, score_, size_};
    bool is_kick_due = !args_.opens;
    for (int64_t k = 0; k < args_.n_steps; ++k) {
      const double half_step = 0.5 * args_.step_sizes[k];
      draw(k);
      set(half_step, weights_, kick_);
      set(args_.noise_stds[k], roots_, noise_std_);
      b.drift = static_cast<float>(half_step), b.decay = static_cast<float>(args_.decays[k]);
      move_elements(false, is_kick_due ? 2 : 1, true, b, v_, x_);
      evaluate(x_, score_, static_cast<float*>(nullptr));
      is_kick_due = leaves_kick(args_, k);
      if (is_kick_due) continue;
      b.drift = 0.0f;
      move_elements(false, 1, false, b, v_, x_);
    }
    gather<block>(v_, n_, d_, velocities);
  }

  void spread_masses() {
    const Momentum<float>& m = args_.momentum;
    const int64_t place = first_ * d_;
    spread_factors<block>(m.masses, m.period, place, n_, d_, 0.5f, half_masses_);
    spread_factors<block>(m.weights, m.period, place, n_, d_, 1.0f, weights_);
    spread_factors<block>(m.roots, m.period, place, n_, d_, 1.0f, roots_);
  }

  // out = value times each factor.
  __attribute__((noinline)) void set(double value, const float* factors, float* out) const {
    const auto number = static_cast<float>(value);
    for (int64_t i = 0; i < size_; ++i) out[i] = number * factors[i];
  }

  __attribute__((noinline)) void draw(int64_t k) {
    const uint64_t index = args_.offset + static_cast<uint64_t>(first_ * d_);
    fill<A, false>({args_.seed, args_.step + static_cast<uint32_t>(k), args_.stream}, index, n_ * d_, drawn_);
    spread<block>(drawn_, n_, d_, z_);
  }

  __attribute__((noinline)) void add_mala_terms(float half_step) {
    add_terms([&](int64_t i) { return mala_term(half_step, x_[i], y_[i], score_[i], new_score_[i]); });
  }

  __attribute__((noinline)) void add_hmc_terms() {
    add_terms(
        [&](int64_t i) { return hmc_term(kick_[i], noise_std_[i], half_masses_[i], v_[i], new_score_[i], z_[i]); });
  }

  // Sums term(i), i a place in the arrays, over each chain, as moves.h says, into the first row of sums_.
  template <class Term>
  FL_INLINE void add_terms(const Term& term) {
    const int64_t lanes = sum_lanes(d_);
    const int64_t once = std::min(d_, lanes);
#pragma GCC ivdep
    for (int64_t i = 0; i < once * block; ++i) sums_[i] = 0.0 + static_cast<double>(term(i));
    std::fill_n(sums_ + once * block, (lanes - once) * block, 0.0);
    for (int64_t i = lanes; i < d_; ++i) {
      double* const row = sums_ + i % lanes * block;
#pragma GCC ivdep
      for (int64_t c = 0; c < block; ++c) row[c] += static_cast<double>(term(i * block + c));
    }
    for (int64_t half = lanes / 2; half > 0; half /= 2) {
      for (int64_t i = 0; i < half * block; ++i) sums_[i] += sums_[half * block + i];
    }
  }

  // The test of the proposals y, that of `metropolis` (moves.h) for all columns: takes those that are accepted.
  __attribute__((noinline)) void test(int64_t k, double factor) {
    const float lo = static_cast<float>(args_.lo), hi = static_cast<float>(args_.hi);
    std::fill_n(outside_, block, 0);
    for (int64_t i = 0; i < d_; ++i) {
      const float* const row = y_ + i * block;
      for (int64_t c = 0; c < block; ++c) outside_[c] |= !is_inside(row[c], lo, hi);
    }
    // Selections are in loops of their own: with a division or a conversion beside them they would not be vectorised.
    const double temperature = args_.temperature;
    std::copy_n(new_energy_, block, proposed_);
    for (int64_t c = 0; c < block; ++c) {
      log_ratio_[c] = (energy_[c] - proposed_[c] - factor * sums_[c]) / temperature;
    }
    for (int64_t c = 0; c < block; ++c) log_ratio_[c] = outside_[c] ? -INFINITY : log_ratio_[c];
    fill<A, true>({args_.seed, args_.step + static_cast<uint32_t>(k), args_.test_stream},
                  args_.first_chain + static_cast<uint64_t>(first_), n_, uniform_);
    accept();
#pragma GCC ivdep
    for (int64_t c = 0; c < block; ++c) {
      const double now = energy_[c], proposed = proposed_[c];
      energy_[c] = accepted_[c] ? proposed : now;
    }
#pragma GCC ivdep
    for (int64_t c = 0; c < block; ++c) {
      n_accepted_[c] += accepted_[c];
      n_rejected_[c] = (n_rejected_[c] + 1) * (1 - accepted_[c]);
      taken_[c] = static_cast<int32_t>(accepted_[c]);
    }
    for (int64_t i = 0; i < d_; ++i) {
      const int64_t at = i * block;
      take_row(y_ + at, x_ + at);
      take_row(new_score_ + at, score_ + at);
    }
  }

  // accepted_ = log(uniform_) < log_ratio_, in float64. log_unit, whose error is far below `margin`, decides but for
  // the few that are as near as that, and for 0.
  void accept() {
    using f32 = typename A::f32;
    constexpr double margin = 1e-4;
    for (int64_t c = 0; c < block; c += A::width) {
      const f32 u = *reinterpret_cast<const f32*>(uniform_ + c);
      *reinterpret_cast<f32*>(log_uniform_ + c) = log_unit<A>(A::mul(u, A::broadcast(0x1p32f)));
    }
    int64_t n_near = 0;
    for (int64_t c = 0; c < block; ++c) {
      const double above = log_ratio_[c] - static_cast<double>(log_uniform_[c]);
      accepted_[c] = above > 0.0;
      n_near += (above > -margin) & (above < margin);
      n_near += uniform_[c] == 0.0f;
    }
    if (n_near == 0) return;
    for (int64_t c = 0; c < n_; ++c) accepted_[c] = log(static_cast<double>(uniform_[c])) < log_ratio_[c];
  }

  void take_row(const float* from, float* to) const {
#pragma GCC ivdep
    for (int64_t c = 0; c < block; ++c) to[c] = taken_[c] ? from[c] : to[c];
  }

  const TransitionArgs& args_;
  const int64_t d_, size_;
  int64_t first_ = 0, n_ = 0;
  float *x_, *score_, *y_, *new_score_, *v_, *z_, *drawn_, *weights_, *roots_, *half_masses_, *kick_, *noise_std_;
  double* sums_;  // (lanes, block)
  double *energy_, *proposed_, *log_ratio_;
  float *new_energy_, *uniform_, *log_uniform_;
  int64_t *n_accepted_, *n_rejected_, *accepted_;  // accepted: 0 or 1, like the next two
  int32_t *outside_, *taken_;
};

// Runs n chains, block of them at a time: begin(c, m) before the m chains from number c on.
template <class A, int64_t block, class Begin, class Evaluate>
FL_INLINE void run_spread_transitions(const TransitionArgs& args, int64_t dimension, int64_t first, int64_t n,
                                      float* chains, float* scratch, const Begin& begin, const Evaluate& evaluate) {
  Transitions<A, block> transitions(args, dimension, scratch);
  for (; n > 0; n -= block, first += block, chains += dimension * block) {
    const int64_t m = std::min(n, block);
    begin(first, m);
    transitions.run(first, m, chains, evaluate);
  }
}

}  // namespace
}  // namespace fastlangevin
