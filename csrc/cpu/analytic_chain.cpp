// mixture_chain_cpu_, double_well_chain_cpu_: all steps of the chains of energies in closed form.
#include "chain_operator.h"

namespace fastlangevin {
namespace {

void mixture_chain(const Tensor& x, const Tensor& constants, const Tensor& means, const Tensor& precisions,
                   const std::vector<double>& step_sizes, const std::vector<double>& noise_stds, bool has_noise,
                   int64_t seed, int64_t step, int64_t offset, std::optional<double> grad_clip,
                   std::optional<double> lo, std::optional<double> hi, int64_t noise_first) {
  const int64_t n = constants.numel(), dimension = x.size(1);
  STD_TORCH_CHECK(means.numel() == n * dimension && precisions.numel() == n * dimension,
                  "mixture_chain_cpu_: means and precisions must be (components, dimension)");
  const Mixture mixture{n, dimension, floats(constants, "constants"), floats(means, "means"),
                        floats(precisions, "precisions")};
  run_chains(kernels().mixture_chain, mixture,
             chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first), x,
             x.size(0));
}

void double_well_chain(const Tensor& x, double barrier, double width, const std::vector<double>& step_sizes,
                       const std::vector<double>& noise_stds, bool has_noise, int64_t seed, int64_t step,
                       int64_t offset, std::optional<double> grad_clip, std::optional<double> lo,
                       std::optional<double> hi, int64_t noise_first) {
  run_chains(kernels().double_well_chain, DoubleWell{static_cast<float>(barrier), static_cast<float>(width)},
             chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first), x,
             x.numel());
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  m.impl("mixture_chain_cpu_", TORCH_BOX(&fastlangevin::mixture_chain));
  m.impl("double_well_chain_cpu_", TORCH_BOX(&fastlangevin::double_well_chain));
}
