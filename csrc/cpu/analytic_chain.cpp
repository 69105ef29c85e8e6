// mixture_chain_cpu_, double_well_chain_cpu_, and …_transitions_cpu_: all steps of the chains of energies in closed
// form.
#include "transition_operator.h"

namespace fastlangevin {
namespace {

Mixture make_mixture(const Tensor& x, const Tensor& constants, const Tensor& means, const Tensor& precisions) {
  const int64_t n = constants.numel(), dimension = x.size(1);
  STD_TORCH_CHECK(means.numel() == n * dimension && precisions.numel() == n * dimension,
                  "means and precisions must be (components, dimension)");
  return {n, dimension, floats(constants, "constants"), floats(means, "means"), floats(precisions, "precisions")};
}

DoubleWell make_double_well(const Tensor& x, double barrier, double width) {
  return {static_cast<float>(barrier), static_cast<float>(width), x.size(1)};
}

void mixture_chain(const Tensor& x, const Tensor& constants, const Tensor& means, const Tensor& precisions,
                   const std::vector<double>& step_sizes, const std::vector<double>& noise_stds, bool has_noise,
                   int64_t seed, int64_t step, int64_t offset, std::optional<double> grad_clip,
                   std::optional<double> lo, std::optional<double> hi, int64_t noise_first) {
  run_chains(kernels().mixture_chain.langevin, make_mixture(x, constants, means, precisions),
             chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first), x,
             x.size(0));
}

void double_well_chain(const Tensor& x, double barrier, double width, const std::vector<double>& step_sizes,
                       const std::vector<double>& noise_stds, bool has_noise, int64_t seed, int64_t step,
                       int64_t offset, std::optional<double> grad_clip, std::optional<double> lo,
                       std::optional<double> hi, int64_t noise_first) {
  run_chains(kernels().double_well_chain.langevin, make_double_well(x, barrier, width),
             chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first), x,
             x.numel());
}

void mixture_transitions(const Tensor& x, const TransitionArgs& args, const Tensor& constants, const Tensor& means,
                         const Tensor& precisions) {
  run_chains(kernels().mixture_chain.transitions, make_mixture(x, constants, means, precisions), args, x, x.size(0));
}

void double_well_transitions(const Tensor& x, const TransitionArgs& args, double barrier, double width) {
  run_chains(kernels().double_well_chain.transitions, make_double_well(x, barrier, width), args, x, x.size(0));
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  m.impl("mixture_chain_cpu_", TORCH_BOX(&fastlangevin::mixture_chain));
  m.impl("double_well_chain_cpu_", TORCH_BOX(&fastlangevin::double_well_chain));
  m.impl("mixture_transitions_cpu_",
         TORCH_BOX(&fastlangevin::TransitionOperator<fastlangevin::mixture_transitions>::call));
  m.impl("double_well_transitions_cpu_",
         TORCH_BOX(&fastlangevin::TransitionOperator<fastlangevin::double_well_transitions>::call));
}
