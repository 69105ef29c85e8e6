// Whole chains whose states lie in rows, (B, d), of transitions other than Langevin steps. They call the kernels of
// single moves, so that they have the bits of chains that run step by step.
#pragma once

#include <algorithm>
#include <memory>

#include "kernels.h"

namespace fastlangevin {

class RowTransitions {
 public:
  // x: (n_chains, d), in place.
  RowTransitions(const TransitionArgs& args, float* x, int64_t n_chains, int64_t d)
      : args_(args), d_(d), x_(x), score_(new float[n_chains * d]) {
    if (args.kind == TransitionKind::underdamped) return;
    y_.reset(new float[n_chains * d]);
    new_score_.reset(new float[n_chains * d]);
    energy_.reset(new float[n_chains]);
    new_energy_.reset(new double[n_chains]);
    if (args.kind == TransitionKind::hmc) v_.reset(new float[n_chains * d]);
  }

  // All transitions of the n chains from number `first` on; several threads may run others. evaluate(x, score, energy)
  // gives the scores of n states and, unless energy is null, their energies.
  template <class Evaluate>
  void run(int64_t first, int64_t n, const Evaluate& evaluate) const {
    if (args_.n_steps == 0) return;
    if (args_.kind == TransitionKind::underdamped) {
      run_underdamped(first * d_, n * d_, evaluate);
    } else {
      run_tested(first, n, evaluate);
    }
  }

 private:
  template <class Evaluate>
  void run_tested(int64_t first, int64_t n, const Evaluate& evaluate) const {
    const int64_t place = first * d_, size = n * d_;
    const bool is_hmc = args_.kind == TransitionKind::hmc;
    const MoveKernels<float>& moves = kernels().moves_float;
    const auto evaluate_proposals = [&](float* energy) { evaluate(&y_[place], &new_score_[place], energy); };
    evaluate(x_ + place, &score_[place], &energy_[first]);
    std::copy_n(&energy_[first], n, args_.memory.energy + first);
    for (int64_t k = 0; k < args_.n_steps; ++k) {
      std::copy_n(x_ + place, size, &y_[place]);
      if (is_hmc) {
        move_along_trajectory(k, place, size, evaluate_proposals);
      } else {
        propose_langevin(k, place, size);
      }
      evaluate_proposals(&energy_[first]);
      std::copy_n(&energy_[first], n, &new_energy_[first]);
      (is_hmc ? moves.hmc_test : moves.mala_test)(test_of(k), first, n);
    }
  }

  void propose_langevin(int64_t k, int64_t place, int64_t size) const {
    UpdateArgs update{};
    update.key = key(k, args_.stream);
    update.step_size = args_.step_sizes[k], update.noise_std = args_.noise_stds[k];
    update.has_score = update.has_noise = true;
    kernels().update_float(update, args_.offset + static_cast<uint64_t>(place), size, &score_[place], &y_[place]);
  }

  // But for the last kick, which is part of the test.
  template <class Evaluate>
  void move_along_trajectory(int64_t k, int64_t place, int64_t size, const Evaluate& evaluate_proposals) const {
    MoveWork<float> work{numbers(k, 0.5), y_.get(), v_.get(), score_.get(), args_.momentum};
    work.numbers.drift = args_.step_sizes[k];
    work.numbers.n_kicks = 1;
    work.numbers.draws = true;
    kernels().moves_float.move(work, place, size);
    work.numbers.kick = args_.step_sizes[k];
    work.numbers.draws = false;
    work.score = new_score_.get();
    for (int64_t i = 1; i < args_.n_leapfrog; ++i) {
      evaluate_proposals(nullptr);
      kernels().moves_float.move(work, place, size);
    }
  }

  template <class Evaluate>
  void run_underdamped(int64_t place, int64_t size, const Evaluate& evaluate) const {
    const auto evaluate_states = [&] { evaluate(x_ + place, &score_[place], static_cast<float*>(nullptr)); };
    MoveWork<float> work{{}, x_, args_.v, score_.get(), args_.momentum};
    evaluate_states();
    bool is_kick_due = !args_.opens;
    for (int64_t k = 0; k < args_.n_steps; ++k) {
      work.numbers = numbers(k, 0.5);
      work.numbers.drift = work.numbers.kick;
      work.numbers.has_decay = true, work.numbers.decay = args_.decays[k];
      work.numbers.n_kicks = is_kick_due ? 2 : 1;
      kernels().moves_float.move(work, place, size);
      is_kick_due = leaves_kick(args_, k);
      if (k + 1 == args_.n_steps && is_kick_due) return;
      evaluate_states();
      if (is_kick_due) continue;
      work.numbers.n_kicks = 1;
      work.numbers.drift = 0.0;
      work.numbers.has_decay = false;
      kernels().moves_float.move(work, place, size);
    }
  }

  NoiseKey key(int64_t k, uint32_t stream) const { return {args_.seed, args_.step + static_cast<uint32_t>(k), stream}; }

  // Of step k, with a kick for `part` of it.
  MoveNumbers numbers(int64_t k, double part) const {
    MoveNumbers result{};
    result.kick = part * args_.step_sizes[k];
    result.noise_std = args_.noise_stds[k];
    result.key = key(k, args_.stream);
    result.offset = args_.offset;
    return result;
  }

  TestWork<float> test_of(int64_t k) const {
    TestWork<float> work{};
    work.numbers.temperature = args_.temperature;
    work.numbers.lo = args_.lo, work.numbers.hi = args_.hi;
    work.numbers.test_key = key(k, args_.test_stream);
    work.numbers.first_chain = args_.first_chain;
    work.numbers.step_size = args_.step_sizes[k];
    work.numbers.kick = 0.5 * args_.step_sizes[k], work.numbers.noise_std = args_.noise_stds[k];
    work.numbers.key = key(k, args_.stream);
    work.numbers.offset = args_.offset;
    work.d = d_;
    work.x = x_, work.score = score_.get();
    work.memory = args_.memory;
    work.y = y_.get(), work.new_score = new_score_.get(), work.new_energy = new_energy_.get();
    work.v = v_.get(), work.momentum = args_.momentum;
    return work;
  }

  const TransitionArgs& args_;
  const int64_t d_;
  float* const x_;
  const std::unique_ptr<float[]> score_;
  std::unique_ptr<float[]> y_, new_score_, v_, energy_;
  std::unique_ptr<double[]> new_energy_;
};

}  // namespace fastlangevin
