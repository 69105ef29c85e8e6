// mlp_chain_cpu_: all steps of the chains of an MLP energy.
#include "chain_operator.h"
#include "panels.h"

namespace fastlangevin {
namespace {

std::vector<float> panels(const Tensor& weight, bool transposed) {
  const int64_t n_out = weight.size(0), n_in = weight.size(1);
  const float* const at = floats(weight, "a weight");
  std::vector<float> result(static_cast<size_t>(n_out * n_in));
  if (transposed) {
    write_panels(at, 1, n_in, n_in, n_out, kernels().panel_rows, result.data());
  } else {
    write_panels(at, n_in, 1, n_out, n_in, kernels().panel_rows, result.data());
  }
  return result;
}

void mlp_chain(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<std::optional<Tensor>>& biases,
               const std::vector<int64_t>& activations, const std::vector<double>& parameters, const Tensor& last,
               double prior, const std::vector<double>& step_sizes, const std::vector<double>& noise_stds,
               bool has_noise, int64_t seed, int64_t step, int64_t offset, std::optional<double> grad_clip,
               std::optional<double> lo, std::optional<double> hi, int64_t noise_first) {
  const size_t n_layers = weights.size();
  STD_TORCH_CHECK(1 <= n_layers && n_layers <= most_hidden_layers, "mlp_chain_cpu_: 1 to 4 hidden layers");
  STD_TORCH_CHECK(biases.size() == n_layers && activations.size() == n_layers && parameters.size() == 2 * n_layers,
                  "mlp_chain_cpu_: a bias, an activation and two parameters a layer");
  Mlp mlp{};
  mlp.n_layers = static_cast<int64_t>(n_layers);
  mlp.last = floats(last, "last");
  mlp.prior = static_cast<float>(prior);
  std::vector<std::vector<float>> packed;
  int64_t width = x.size(1);
  mlp.widest = width;
  for (size_t l = 0; l < n_layers; ++l) {
    const Tensor& weight = weights[l];
    STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == width, "mlp_chain_cpu_: weights do not follow each other");
    width = weight.size(0);
    STD_TORCH_CHECK(!biases[l] || biases[l]->numel() == width, "mlp_chain_cpu_: a bias is not of its weight's length");
    const auto kind = static_cast<ActivationKind>(activations[l]);
    STD_TORCH_CHECK(ActivationKind::leaky_relu <= kind && kind <= last_activation,
                    "mlp_chain_cpu_: no such activation");
    packed.push_back(panels(weight, false));
    packed.push_back(panels(weight, true));
    mlp.layers[l] = {weight.size(1),
                     width,
                     packed[2 * l].data(),
                     packed[2 * l + 1].data(),
                     biases[l] ? floats(*biases[l], "a bias") : nullptr,
                     kind,
                     {static_cast<float>(parameters[2 * l]), static_cast<float>(parameters[2 * l + 1])}};
    mlp.widest = std::max(mlp.widest, width);
  }
  STD_TORCH_CHECK(last.numel() == width, "mlp_chain_cpu_: last is not of the last layer's width");
  run_chains(kernels().mlp_chain, mlp,
             chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first), x,
             x.size(0));
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) { m.impl("mlp_chain_cpu_", TORCH_BOX(&fastlangevin::mlp_chain)); }
