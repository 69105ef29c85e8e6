// Runs native programs with noise arithmetic A and vectors V (vectors.h), with internal linkage as in kernels_impl.h.
#pragma once

#include "chain_impl.h"
#include "program_pointwise_impl.h"
#include "program_product_impl.h"
#include "program_reduce_impl.h"

namespace fastlangevin {
namespace {

template <class V>
void program_score(const Program& program, int64_t n, const float* x, float* score, float* energy, float* scratch) {
  const ProgramCode& code = *program.code;
  const Samples samples{n,
                        scratch,
                        code.sample_words,
                        program.shared,
                        program.per_sample + program.first * code.per_sample_words,
                        code.per_sample_words,
                        scratch + n * code.sample_words};
  for (int64_t i = 0; i < n; ++i) {
    std::copy(x + i * code.n_state, x + (i + 1) * code.n_state, samples.out({Space::scratch, code.state}, i));
  }
  const int64_t* at = reinterpret_cast<const int64_t*>(&code + 1);
  for (int64_t k = 0; k < code.n_instructions; ++k) {
    const Opcode opcode = static_cast<Opcode>(at[0]);
    const int64_t* const body = at + 2;
    switch (opcode) {
      case Opcode::pointwise:
        run_pointwise<V>(*reinterpret_cast<const PointwiseCode*>(body), samples);
        break;
      case Opcode::product:
        run_product<V>(*reinterpret_cast<const ProductCode*>(body), samples);
        break;
      case Opcode::multiply:
        run_multiply<V>(*reinterpret_cast<const MultiplyCode*>(body), samples);
        break;
      case Opcode::window:
        run_window<V>(*reinterpret_cast<const WindowCode*>(body), samples);
        break;
      case Opcode::reduce:
        run_reduce<V>(*reinterpret_cast<const ReduceCode*>(body), samples);
        break;
    }
    at = body + at[1];
  }
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

template <class A, class V = A>
constexpr ProgramKernels make_program_kernels() {
  return {program_score<V>, program_chain<A, V>};
}

}  // namespace
}  // namespace fastlangevin
