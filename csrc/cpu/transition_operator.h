// What the operators of whole chains of other transitions than Langevin steps share: their arguments.
#pragma once

#include "chain_operator.h"

namespace fastlangevin {

// n contiguous numbers, or null.
template <class T>
T* numbers(const std::optional<Tensor>& a, const char* name, torch::headeronly::ScalarType type, int64_t n) {
  if (!a) return nullptr;
  STD_TORCH_CHECK(a->is_contiguous() && a->scalar_type() == type && a->numel() == n, name,
                  " must be contiguous, of the type that it must have, and of ", n, " elements");
  return static_cast<T*>(const_cast<void*>(a->const_data_ptr()));
}

// The operator of run(x, args, energy…).
template <auto run, class Signature = decltype(run)>
struct TransitionOperator;

template <auto run, class... Energy>
struct TransitionOperator<run, void (*)(const Tensor&, const TransitionArgs&, Energy...)> {
  static void call(const Tensor& x, Energy... energy, const std::optional<Tensor>& energies,
                   const std::optional<Tensor>& log_ratio, const std::optional<Tensor>& n_accepted,
                   const std::optional<Tensor>& n_rejected, const std::optional<Tensor>& v, int64_t kind,
                   const std::vector<double>& step_sizes, const std::vector<double>& noise_stds,
                   const std::vector<double>& decays, int64_t n_leapfrog, double temperature,
                   const std::optional<Tensor>& masses, const std::optional<Tensor>& weights,
                   const std::optional<Tensor>& roots, double lo, double hi, int64_t seed, int64_t step, int64_t stream,
                   int64_t offset, int64_t test_stream, int64_t first_chain, bool opens, bool closes) {
    using torch::headeronly::ScalarType;
    constexpr ScalarType f32 = ScalarType::Float, f64 = ScalarType::Double, i64 = ScalarType::Long;
    const int64_t n = x.size(0), period = weights ? weights->numel() : 0;
    TransitionArgs args{};
    args.kind = static_cast<TransitionKind>(kind);
    STD_TORCH_CHECK(TransitionKind::mala <= args.kind && args.kind <= last_transition, "no such transition");
    const bool is_tested = args.kind != TransitionKind::underdamped;
    STD_TORCH_CHECK(is_tested ? energies && log_ratio && n_accepted && n_rejected : v.has_value(),
                    "memory must be given: of Metropolis tests, or velocities");
    args.step_sizes = step_sizes.data(), args.noise_stds = noise_stds.data(), args.decays = decays.data();
    args.n_steps = static_cast<int64_t>(step_sizes.size());
    STD_TORCH_CHECK(noise_stds.size() == step_sizes.size() && (is_tested || decays.size() == step_sizes.size()),
                    "step_sizes, noise_stds and decays must be of one length");
    STD_TORCH_CHECK(n_leapfrog > 0, "n_leapfrog must be positive");
    args.n_leapfrog = n_leapfrog;
    args.temperature = temperature, args.lo = lo, args.hi = hi;
    STD_TORCH_CHECK(!weights || x.numel() == 0 || (period > 0 && x.numel() % period == 0),
                    "masses must repeat over the elements of x");
    args.momentum = {numbers<const float>(masses, "masses", f32, period),
                     numbers<const float>(weights, "weights", f32, period),
                     numbers<const float>(roots, "roots", f32, period), period};
    args.seed = static_cast<uint64_t>(seed);
    args.step = static_cast<uint32_t>(step), args.stream = static_cast<uint32_t>(stream);
    args.test_stream = static_cast<uint32_t>(test_stream);
    args.offset = static_cast<uint64_t>(offset), args.first_chain = static_cast<uint64_t>(first_chain);
    args.opens = opens, args.closes = closes;
    args.memory = {numbers<double>(energies, "energies", f64, n), numbers<double>(log_ratio, "log_ratio", f64, n),
                   numbers<int64_t>(n_accepted, "n_accepted", i64, n),
                   numbers<int64_t>(n_rejected, "n_rejected", i64, n)};
    args.v = numbers<float>(v, "v", f32, x.numel());
    run(x, args, energy...);
  }
};

}  // namespace fastlangevin
