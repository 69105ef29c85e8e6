// Runs native programs with noise arithmetic A and vectors V (vectors.h), with internal linkage as in kernels_impl.h.
#pragma once

#include "chain_impl.h"
#include "program_lanes_impl.h"
#include "program_pointwise_impl.h"
#include "program_product_impl.h"
#include "program_reduce_impl.h"
#include "program_winograd_impl.h"
#include "transitions_impl.h"

namespace fastlangevin {
namespace {

template <class V>
void run_instructions(const ProgramCode& code, const Samples& samples) {
  const int64_t* at = reinterpret_cast<const int64_t*>(&code + 1);
  for (int64_t k = 0; k < code.n_instructions; ++k) {
    const Opcode opcode = static_cast<Opcode>(at[0]);
    const int64_t* const body = at + 2;
    switch (opcode) {
      case Opcode::pointwise:
        run_pointwise<V>(*reinterpret_cast<const PointwiseCode*>(body), samples);
        break;
      case Opcode::product: {
        const auto& product = *reinterpret_cast<const ProductCode*>(body);
        if (product.winograd_width > 0 && product.y.window == 3) {
          Winograd<V, 3>(product, samples).run();
        } else if (product.winograd_width > 0) {
          Winograd<V, 2>(product, samples).run();
        } else {
          run_product<V>(product, samples);
        }
        break;
      }
      case Opcode::multiply:
        run_multiply<V>(*reinterpret_cast<const MultiplyCode*>(body), samples);
        break;
      case Opcode::window:
        run_window<V>(*reinterpret_cast<const WindowCode*>(body), samples);
        break;
      case Opcode::reduce:
        run_reduce<V>(*reinterpret_cast<const ReduceCode*>(body), samples);
        break;
      case Opcode::lane_product:
        run_lane_product<V>(*reinterpret_cast<const LaneProductCode*>(body), samples);
        break;
    }
    at = body + at[1];
  }
}

// n samples from number `first` of the constants' on.
FL_INLINE Samples samples_of(const Program& program, int64_t first, int64_t n, float* scratch) {
  const ProgramCode& code = *program.code;
  return {n,
          scratch,
          code.sample_words,
          program.shared,
          program.per_sample + first * code.per_sample_words,
          code.per_sample_words,
          scratch + n * code.sample_words};
}

template <class V>
void program_score(const Program& program, int64_t n, const float* x, float* score, float* energy, float* scratch) {
  const ProgramCode& code = *program.code;
  const Samples samples = samples_of(program, program.first, n, scratch);
  for (int64_t i = 0; i < n; ++i) {
    std::copy(x + i * code.n_state, x + (i + 1) * code.n_state, samples.out({Space::scratch, code.state}, i));
  }
  run_instructions<V>(code, samples);
  for (int64_t i = 0; i < n; ++i) {
    const float* const from = samples.out({Space::scratch, code.score}, i);
    std::copy(from, from + code.n_state, score + i * code.n_state);
  }
  if (energy) {
    for (int64_t i = 0; i < n; ++i) energy[i] = *samples.out({Space::scratch, code.energy}, i);
  }
}

template <class A, class V>
void program_chain(const Program& program, const ChainArgs& args, uint64_t first_element, int64_t n, float* x,
                   float* scratch) {
  const int64_t size = n * program.code->n_state;
  float *const score = scratch, *const z = score + size;
  float* const buffers = scratch + (2 * size + vector_tail - 1) / vector_tail * vector_tail;
  run_steps(
      args, size, x, score, z, [&](const NoiseKey& key) { fill<A, false>(key, first_element, size, z); },
      [&] { program_score<V>(program, n, x, score, nullptr, buffers); });
}

// A block of program_lanes states x (n_state, program_lanes), the constants from number `first` of the states on.
template <class V>
void score_in_lanes(const Program& program, int64_t first, const float* x, float* score, float* energy,
                    float* scratch) {
  const ProgramCode& code = *program.code;
  const int64_t size = code.n_state * program_lanes;
  std::copy_n(x, size, scratch + code.state);
  run_instructions<V>(code, samples_of(program, first / program_lanes, 1, scratch));
  std::copy_n(scratch + code.score, size, score);
  if (energy) std::copy_n(scratch + code.energy, program_lanes, energy);
}

template <class V>
void lane_score(const Program& program, int64_t first, int64_t n, const float* x, float* score, float* energy,
                float* scratch) {
  const ProgramCode& code = *program.code;
  for (; n > 0; n -= program_lanes, first += program_lanes) {
    const int64_t m = std::min(n, program_lanes);
    std::fill_n(scratch + code.state, code.n_state * program_lanes, 0.0f);
    spread<program_lanes>(x, m, code.n_state, scratch + code.state);
    run_instructions<V>(code, samples_of(program, first / program_lanes, 1, scratch));
    gather<program_lanes>(scratch + code.score, m, code.n_state, score);
    if (energy) std::copy_n(scratch + code.energy, m, energy), energy += m;
    x += m * code.n_state, score += m * code.n_state;
  }
}

FL_INLINE int64_t lane_buffers(const Program& program) {
  return program.code->sample_words + program.code->extra_words;
}

inline int64_t lane_chain_scratch(const Program& program) {
  return spread_arrays * program.code->n_state * program_lanes + lane_buffers(program);
}

inline int64_t lane_transitions_scratch(const Program& program) {
  return transition_scratch<program_lanes>(program.code->n_state) + lane_buffers(program);
}

template <class A, class V>
void lane_chain(const Program& program, const ChainArgs& args, int64_t first, int64_t n, float* chains,
                float* scratch) {
  const int64_t d = program.code->n_state;
  float* const buffers = scratch + spread_arrays * d * program_lanes;
  int64_t now = first;
  run_spread<A, program_lanes>(
      args, d, first, n, chains, scratch, [&](int64_t at, int64_t) { now = at; },
      [&](const float* x, float* score) { score_in_lanes<V>(program, now, x, score, nullptr, buffers); });
}

template <class A, class V>
void lane_transitions(const Program& program, const TransitionArgs& args, int64_t first, int64_t n, float* chains,
                      float* scratch) {
  const int64_t d = program.code->n_state;
  float* const buffers = scratch + transition_scratch<program_lanes>(d);
  int64_t now = first;
  run_spread_transitions<A, program_lanes>(
      args, d, first, n, chains, scratch, [&](int64_t at, int64_t) { now = at; },
      [&](const float* x, float* score, float* energy) { score_in_lanes<V>(program, now, x, score, energy, buffers); });
}

template <class A, class V = A>
constexpr ProgramKernels make_program_kernels() {
  return {program_score<V>,
          program_chain<A, V>,
          lane_score<V>,
          {{program_lanes, lane_chain_scratch, lane_chain<A, V>},
           {program_lanes, lane_transitions_scratch, lane_transitions<A, V>}}};
}

}  // namespace
}  // namespace fastlangevin
