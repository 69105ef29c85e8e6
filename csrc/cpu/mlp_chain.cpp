// mlp_chain_cpu_, mlp_transitions_cpu_: all steps of the chains of an MLP energy.
#include "transition_operator.h"

namespace fastlangevin {
namespace {

using AlignedFloats = std::unique_ptr<float, ReleaseAligned>;

AlignedFloats pack(const MlpKernels& mlp, const Tensor& weight, bool transposed) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const float* const at = floats(weight, "a weight");
  const int64_t n_out = transposed ? columns : rows, n_in = transposed ? rows : columns;
  AlignedFloats packed = aligned_floats(mlp.packed_size(n_out, n_in));
  mlp.pack(at, transposed ? 1 : columns, transposed ? columns : 1, n_out, n_in, packed.get());
  return packed;
}

const MlpKernels& kernels_for(bool bfloat16) {
  const MlpKernels* const found = bfloat16 ? mlp_kernels().bf16 : mlp_kernels().fp32;
  STD_TORCH_CHECK(found, "mlp_chain_cpu_: bfloat16 needs the amx kernels");
  return *found;
}

// An MLP as the kernels read it, and what it points to.
class PackedMlp {
 public:
  PackedMlp(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<std::optional<Tensor>>& biases,
            const std::vector<int64_t>& activations, const std::vector<double>& parameters, const Tensor& last,
            double prior, bool bfloat16);
  const MlpKernels& kernels() const { return kernels_; }
  const Mlp& get() const { return mlp_; }

 private:
  const MlpKernels& kernels_;
  Mlp mlp_{};
  std::vector<MlpLayer> layers_;
  std::vector<AlignedFloats> packed_;
};

PackedMlp::PackedMlp(const Tensor& x, const std::vector<Tensor>& weights,
                     const std::vector<std::optional<Tensor>>& biases, const std::vector<int64_t>& activations,
                     const std::vector<double>& parameters, const Tensor& last, double prior, bool bfloat16)
    : kernels_(kernels_for(bfloat16)), layers_(weights.size()) {
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
    packed_.push_back(pack(kernels_, weight, false));
    packed_.push_back(pack(kernels_, weight, true));
    MlpLayer& layer = layers_[l];
    layer = {weight.size(1),
             width,
             packed_[2 * l].get(),
             packed_[2 * l + 1].get(),
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
               double prior, bool bfloat16, const std::vector<double>& step_sizes,
               const std::vector<double>& noise_stds, bool has_noise, int64_t seed, int64_t step, int64_t offset,
               std::optional<double> grad_clip, std::optional<double> lo, std::optional<double> hi,
               int64_t noise_first) {
  const PackedMlp mlp(x, weights, biases, activations, parameters, last, prior, bfloat16);
  run_chains(mlp.kernels().chain.langevin, mlp.get(),
             chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first), x,
             x.size(0));
}

void mlp_transitions(const Tensor& x, const TransitionArgs& args, const std::vector<Tensor>& weights,
                     const std::vector<std::optional<Tensor>>& biases, const std::vector<int64_t>& activations,
                     const std::vector<double>& parameters, const Tensor& last, double prior, bool bfloat16) {
  const PackedMlp mlp(x, weights, biases, activations, parameters, last, prior, bfloat16);
  run_chains(mlp.kernels().chain.transitions, mlp.get(), args, x, x.size(0));
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  m.impl("mlp_chain_cpu_", TORCH_BOX(&fastlangevin::mlp_chain));
  m.impl("mlp_transitions_cpu_", TORCH_BOX(&fastlangevin::TransitionOperator<fastlangevin::mlp_transitions>::call));
}
