// mlp_chain_cpu_, mlp_transitions_cpu_: all steps of the chains of an MLP energy.
#include "panels.h"
#include "transition_operator.h"

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

// An MLP as the kernels read it, and what it points to.
class PackedMlp {
 public:
  PackedMlp(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<std::optional<Tensor>>& biases,
            const std::vector<int64_t>& activations, const std::vector<double>& parameters, const Tensor& last,
            double prior);
  const Mlp& get() const { return mlp_; }

 private:
  Mlp mlp_{};
  std::vector<MlpLayer> layers_;
  std::vector<std::vector<float>> packed_;
};

PackedMlp::PackedMlp(const Tensor& x, const std::vector<Tensor>& weights,
                     const std::vector<std::optional<Tensor>>& biases, const std::vector<int64_t>& activations,
                     const std::vector<double>& parameters, const Tensor& last, double prior)
    : layers_(weights.size()) {
  const size_t n_layers = weights.size(), n_activations = activations.size();
  STD_TORCH_CHECK(n_layers > 0 && biases.size() == n_layers, "mlp_chain_cpu_: a bias a layer, and at least one layer");
  STD_TORCH_CHECK(
      (n_activations == n_layers || n_activations + 1 == n_layers) && parameters.size() == 2 * n_activations,
      "mlp_chain_cpu_: an activation a layer, but maybe the last, and two parameters an activation");
  mlp_.n_layers = static_cast<int64_t>(n_layers);
  mlp_.sums_exponentials = n_activations < n_layers;
  mlp_.last = floats(last, "last");
  mlp_.prior = static_cast<float>(prior);
  int64_t width = x.size(1);
  mlp_.widest = width;
  for (size_t l = 0; l < n_layers; ++l) {
    const Tensor& weight = weights[l];
    STD_TORCH_CHECK(weight.dim() == 2 && weight.size(1) == width, "mlp_chain_cpu_: weights do not follow each other");
    width = weight.size(0);
    STD_TORCH_CHECK(!biases[l] || biases[l]->numel() == width, "mlp_chain_cpu_: a bias is not of its weight's length");
    packed_.push_back(panels(weight, false));
    packed_.push_back(panels(weight, true));
    MlpLayer& layer = layers_[l];
    layer = {weight.size(1),
             width,
             packed_[2 * l].data(),
             packed_[2 * l + 1].data(),
             biases[l] ? floats(*biases[l], "a bias") : nullptr,
             ActivationKind::leaky_relu,
             {}};
    if (l < n_activations) {
      layer.activation = static_cast<ActivationKind>(activations[l]);
      STD_TORCH_CHECK(ActivationKind::leaky_relu <= layer.activation && layer.activation <= last_activation,
                      "mlp_chain_cpu_: no such activation");
      for (size_t i = 0; i < 2; ++i) layer.parameters[i] = static_cast<float>(parameters[2 * l + i]);
    }
    mlp_.widest = std::max(mlp_.widest, width);
  }
  mlp_.layers = layers_.data();
  mlp_.n_last = mlp_.sums_exponentials ? 1 : width;
  mlp_.last_per_chain = last.dim() == 2;
  STD_TORCH_CHECK(last.numel() == mlp_.n_last * (mlp_.last_per_chain ? x.size(0) : 1),
                  "mlp_chain_cpu_: last is not of the last layer's width, or not of as many chains as x");
}

void mlp_chain(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<std::optional<Tensor>>& biases,
               const std::vector<int64_t>& activations, const std::vector<double>& parameters, const Tensor& last,
               double prior, const std::vector<double>& step_sizes, const std::vector<double>& noise_stds,
               bool has_noise, int64_t seed, int64_t step, int64_t offset, std::optional<double> grad_clip,
               std::optional<double> lo, std::optional<double> hi, int64_t noise_first) {
  const PackedMlp mlp(x, weights, biases, activations, parameters, last, prior);
  run_chains(kernels().mlp_chain.langevin, mlp.get(),
             chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first), x,
             x.size(0));
}

void mlp_transitions(const Tensor& x, const TransitionArgs& args, const std::vector<Tensor>& weights,
                     const std::vector<std::optional<Tensor>>& biases, const std::vector<int64_t>& activations,
                     const std::vector<double>& parameters, const Tensor& last, double prior) {
  const PackedMlp mlp(x, weights, biases, activations, parameters, last, prior);
  run_chains(kernels().mlp_chain.transitions, mlp.get(), args, x, x.size(0));
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  m.impl("mlp_chain_cpu_", TORCH_BOX(&fastlangevin::mlp_chain));
  m.impl("mlp_transitions_cpu_", TORCH_BOX(&fastlangevin::TransitionOperator<fastlangevin::mlp_transitions>::call));
}
