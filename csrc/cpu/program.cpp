// program_score_cpu, program_energy_and_score_cpu, program_chain_cpu_ and program_transitions_cpu_: scores, also with
// energies, and all steps of chains, by a native program.
#include "program.h"

#include <tuple>

#include "row_transitions.h"
#include "transition_operator.h"

namespace fastlangevin {
namespace {

constexpr int64_t cached_words = 1 << 17;  // scratch memory of the samples computed together

// The tensors of a program, checked against its code.
Program make_program(const Tensor& code, const Tensor& shared, const Tensor& per_sample, int64_t n_samples) {
  STD_TORCH_CHECK(code.is_contiguous() && code.scalar_type() == torch::headeronly::ScalarType::Long &&
                      code.numel() * sizeof(int64_t) >= sizeof(ProgramCode),
                  "code must be contiguous int64");
  const auto* const program = static_cast<const ProgramCode*>(code.const_data_ptr());
  STD_TORCH_CHECK(program->vector_tail == vector_tail && (program->lanes == 1 || program->lanes == program_lanes),
                  "the code was not written for these kernels");
  STD_TORCH_CHECK(shared.numel() >= program->shared_words + vector_tail, "shared is too short for the code");
  const int64_t n_rows = (n_samples + program->lanes - 1) / program->lanes;
  STD_TORCH_CHECK(per_sample.numel() >= n_rows * program->per_sample_words + vector_tail,
                  "per_sample is too short for the code and the batch");
  return {program, floats(shared, "shared"), floats(per_sample, "per_sample"), 0};
}

bool is_in_lanes(const Program& program) { return program.code->lanes > 1; }

// run(first, n, scratch) for blocks of samples, spread over torch's threads. state_words: of scratch memory a sample,
// besides the program's.
template <class Run>
void each_block(const Program& program, int64_t n_samples, int64_t state_words, const Run& run) {
  const ProgramCode& code = *program.code;
  const int64_t words = code.sample_words + state_words;
  torch::stable::parallel_for(0, n_samples, 1, [&](int64_t begin, int64_t end) {
    const int64_t most = std::max(code.samples_at_once, cached_words / words);
    const int64_t n_blocks = (end - begin + most - 1) / most, widest = (end - begin + n_blocks - 1) / n_blocks;
    const auto scratch = aligned_floats(widest * words + code.extra_words + 2 * vector_tail);
    for (int64_t i = begin; i < end; i += widest) run(i, std::min(widest, end - i), scratch.get());
  });
}

void check_state(const Tensor& x, const Program& program) {
  floats(x, "x");
  STD_TORCH_CHECK(x.numel() == x.size(0) * program.code->n_state, "x is not of the states that the code is for");
}

// The scores, and to `energy`, unless it is null, the energies.
Tensor evaluate(const Program& program, const Tensor& x, float* energy) {
  Tensor out = torch::stable::empty_like(x);
  const float* const from = floats(x, "x");
  float* const to = static_cast<float*>(out.mutable_data_ptr());
  const int64_t size = program.code->n_state;
  if (is_in_lanes(program)) {
    const int64_t n = x.size(0), n_blocks = (n + program_lanes - 1) / program_lanes;
    torch::stable::parallel_for(0, n_blocks, 1, [&](int64_t begin, int64_t end) {
      const auto scratch = aligned_floats(program.code->sample_words + program.code->extra_words + vector_tail);
      const int64_t first = begin * program_lanes, m = std::min(n, end * program_lanes) - first;
      program_kernels().lane_score(program, first, m, from + first * size, to + first * size,
                                   energy ? energy + first : nullptr, scratch.get());
    });
    return out;
  }
  each_block(program, x.size(0), 0, [&](int64_t first, int64_t n, float* scratch) {
    Program part = program;
    part.first = first;
    program_kernels().score(part, n, from + first * size, to + first * size, energy ? energy + first : nullptr,
                            scratch);
  });
  return out;
}

Tensor score(const Tensor& x, const Tensor& code, const Tensor& shared, const Tensor& per_sample) {
  const Program program = make_program(code, shared, per_sample, x.size(0));
  check_state(x, program);
  return evaluate(program, x, nullptr);
}

std::tuple<Tensor, Tensor> energy_and_score(const Tensor& x, const Tensor& code, const Tensor& shared,
                                            const Tensor& per_sample) {
  const Program program = make_program(code, shared, per_sample, x.size(0));
  check_state(x, program);
  STD_TORCH_CHECK(program.code->energy >= 0, "the code computes no energies");
  Tensor energy = torch::stable::new_empty(x, {x.size(0)});
  return {energy, evaluate(program, x, static_cast<float*>(energy.mutable_data_ptr()))};
}

void chain(const Tensor& x, const Tensor& code, const Tensor& shared, const Tensor& per_sample,
           const std::vector<double>& step_sizes, const std::vector<double>& noise_stds, bool has_noise, int64_t seed,
           int64_t step, int64_t offset, std::optional<double> grad_clip, std::optional<double> lo,
           std::optional<double> hi, int64_t noise_first) {
  const int64_t n_samples = x.size(0);
  const Program program = make_program(code, shared, per_sample, n_samples);
  check_state(x, program);
  const ChainArgs args =
      chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first);
  if (is_in_lanes(program)) return run_chains(program_kernels().lane_chain.langevin, program, args, x, n_samples);
  float* const states = static_cast<float*>(x.mutable_data_ptr());
  const int64_t size = program.code->n_state;
  each_block(program, n_samples, 2 * size, [&](int64_t first, int64_t n, float* scratch) {
    Program part = program;
    part.first = first;
    program_kernels().chain(part, args, args.offset + static_cast<uint64_t>(first * size), n, states + first * size,
                            scratch);
  });
}

void transitions(const Tensor& x, const TransitionArgs& args, const Tensor& code, const Tensor& shared,
                 const Tensor& per_sample) {
  const Program program = make_program(code, shared, per_sample, x.size(0));
  check_state(x, program);
  STD_TORCH_CHECK(args.kind == TransitionKind::underdamped || program.code->energy >= 0,
                  "the code computes no energies");
  if (is_in_lanes(program)) {
    return run_chains(program_kernels().lane_chain.transitions, program, args, x, x.size(0));
  }
  const RowTransitions chains(args, static_cast<float*>(x.mutable_data_ptr()), x.size(0), program.code->n_state);
  each_block(program, x.size(0), 0, [&](int64_t first, int64_t n, float* scratch) {
    Program part = program;
    part.first = first;
    chains.run(first, n, [&](const float* states, float* score, float* energy) {
      program_kernels().score(part, n, states, score, energy, scratch);
    });
  });
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  m.impl("program_score_cpu", TORCH_BOX(&fastlangevin::score));
  m.impl("program_energy_and_score_cpu", TORCH_BOX(&fastlangevin::energy_and_score));
  m.impl("program_chain_cpu_", TORCH_BOX(&fastlangevin::chain));
  m.impl("program_transitions_cpu_", TORCH_BOX(&fastlangevin::TransitionOperator<fastlangevin::transitions>::call));
}
