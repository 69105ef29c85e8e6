// convnet_score_cpu: the input gradient of a tower of convolutions; convnet_energy_cpu: its energies;
// convnet_energy_and_score_cpu: both in one pass; convnet_chain_cpu_, convnet_transitions_cpu_: all steps of chains;
// convnet_pack_cpu: its weights, once for many calls.
#include "convnet.h"

#include <tuple>

#include "convnet_plan.h"
#include "row_transitions.h"
#include "transition_operator.h"

namespace fastlangevin {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t cached_words = 1 << 18;  // scratch memory of the samples computed together, at least
constexpr int64_t most_weights = 8;        // that are read for each word of it, at most

bool is_float32(const Tensor& a) { return a.is_contiguous() && a.scalar_type() == ScalarType::Float; }

bool has_shape(const Tensor& a, const std::vector<int64_t>& shape) {
  return std::equal(shape.begin(), shape.end(), a.sizes().begin(), a.sizes().end());
}

// geometry: channels, height and width of an image, then for each layer its channels and, in y and x, kernel, stride
// and padding.
ConvnetPlan make_plan(const std::vector<int64_t>& geometry, const std::vector<double>& slopes, bool bfloat16) {
  STD_TORCH_CHECK(!slopes.empty() && geometry.size() == 3 + 7 * slopes.size(),
                  "convnet: geometry must have 3 numbers and 7 a layer, and slopes one a layer");
  const ImageShape image{geometry[0], geometry[1], geometry[2]};
  int64_t height = image.height, width = image.width;
  bool good = image.channels > 0 && height > 0 && width > 0;
  std::vector<ConvLayer> layers;
  for (size_t l = 0; l < slopes.size(); ++l) {
    const int64_t* const g = geometry.data() + 3 + 7 * l;
    layers.push_back({g[0], g[1], g[2], g[3], g[4], g[5], g[6], static_cast<float>(slopes[l])});
    good = good && g[0] > 0 && g[1] > 0 && g[2] > 0 && g[3] > 0 && g[4] > 0 && g[5] >= 0 && g[6] >= 0;
    if (!good) break;
    height = height + 2 * g[5] - g[1], width = width + 2 * g[6] - g[2];
    good = height >= 0 && width >= 0 && slopes[l] >= 0;
    height = height / g[3] + 1, width = width / g[4] + 1;
  }
  STD_TORCH_CHECK(good, "convnet: geometry must have positive sizes, and slopes must not be negative");
  return ConvnetPlan(image, std::move(layers), bfloat16);
}

Tensor pack(const std::vector<Tensor>& weights, const std::vector<std::optional<Tensor>>& biases, const Tensor& last,
            const std::vector<int64_t>& geometry, const std::vector<double>& slopes, bool bfloat16) {
  const ConvnetPlan plan = make_plan(geometry, slopes, bfloat16);
  STD_TORCH_CHECK(weights.size() == slopes.size() && biases.size() == slopes.size(),
                  "convnet_pack_cpu: weights and biases must have one tensor a layer");
  std::vector<const float*> weight_data, bias_data;
  for (size_t l = 0; l < weights.size(); ++l) {
    const int64_t* const g = geometry.data() + 3 + 7 * l;
    STD_TORCH_CHECK(is_float32(weights[l]) && has_shape(weights[l], {g[0], plan.shape(l).channels, g[1], g[2]}),
                    "convnet_pack_cpu: weights must be contiguous float32 of the geometry's shape");
    STD_TORCH_CHECK(!biases[l] || (is_float32(*biases[l]) && has_shape(*biases[l], {g[0]})),
                    "convnet_pack_cpu: biases must be contiguous float32 of the geometry's shape");
    weight_data.push_back(static_cast<const float*>(weights[l].const_data_ptr()));
    bias_data.push_back(biases[l] ? static_cast<const float*>(biases[l]->const_data_ptr()) : nullptr);
  }
  const ImageShape top = plan.shape(weights.size());
  STD_TORCH_CHECK(is_float32(last) && has_shape(last, {top.channels, top.height, top.width}),
                  "convnet_pack_cpu: last must be contiguous float32 of the last layer's shape");
  Tensor packed = torch::stable::new_empty(last, {plan.packed_words()}, ScalarType::Int);
  plan.pack(weight_data, bias_data, static_cast<const float*>(last.const_data_ptr()), packed.mutable_data_ptr());
  return packed;
}

// The kernels for a plan and its packed weights, which are checked.
const ConvnetKernels& kernels_for(const ConvnetPlan& plan, const Tensor& packed, bool bfloat16) {
  STD_TORCH_CHECK(
      packed.is_contiguous() && packed.scalar_type() == ScalarType::Int && has_shape(packed, {plan.packed_words()}),
      "convnet: packed must be what convnet_pack_cpu made for the same geometry and precision");
  const ConvnetKernels* const kernels = bfloat16 ? convnet().bf16 : convnet().fp32;
  STD_TORCH_CHECK(kernels, "convnet: bfloat16 needs the avx512 kernels and a processor with AVX512_BF16");
  return *kernels;
}

// run(first, n, scratch, numbers) for groups of samples whose scratch memory stays in the cache, spread over torch's
// threads. n_numbers: of a sample.
template <class Run>
void each_group(const ConvnetPlan& plan, int64_t n_samples, int64_t n_numbers, const Run& run) {
  constexpr std::align_val_t line{64};
  const auto release = [](uint32_t* memory) { ::operator delete(memory, line); };
  const Tower& tower = plan.tower();
  torch::stable::parallel_for(0, n_samples, 1, [&](int64_t begin, int64_t end) {
    const int64_t words = tower.sample_words + n_numbers;
    const int64_t most = std::max<int64_t>(1, std::max(cached_words, plan.packed_words() / most_weights) / words);
    const int64_t n_groups = (end - begin + most - 1) / most, widest = (end - begin + n_groups - 1) / n_groups;
    const size_t bytes = sizeof(uint32_t) * static_cast<size_t>(widest * words + tower.work_words);
    const std::unique_ptr<uint32_t, decltype(release)> scratch(static_cast<uint32_t*>(::operator new(bytes, line)),
                                                               release);
    const int64_t used = widest * tower.sample_words + tower.work_words;
    float* const numbers = reinterpret_cast<float*>(scratch.get() + used);
    for (int64_t i = begin; i < end; i += widest) run(i, std::min(widest, end - i), scratch.get(), numbers);
  });
}

// What a tower is evaluated for.
struct Wanted {
  std::optional<double> offset;  // of the energies, if they are
  bool score;
};

struct Evaluated {
  Tensor energy, score;  // new tensors, if they are wanted
};

Evaluated evaluate(const Tensor& x, const Tensor& packed, const std::vector<int64_t>& geometry,
                   const std::vector<double>& slopes, bool bfloat16, const Wanted& wanted) {
  const ConvnetPlan plan = make_plan(geometry, slopes, bfloat16);
  const Tower& tower = plan.tower();
  STD_TORCH_CHECK(is_float32(x) && x.dim() == 4 && has_shape(x, {x.size(0), geometry[0], geometry[1], geometry[2]}),
                  "convnet: x must be contiguous float32 of the geometry's shape");
  const ConvnetKernels& kernels = kernels_for(plan, packed, bfloat16);
  Evaluated found;
  if (wanted.offset) found.energy = torch::stable::new_empty(x, {x.size(0)});
  if (wanted.score) found.score = torch::stable::empty_like(x);
  const float* const from = static_cast<const float*>(x.const_data_ptr());
  float* const energy = wanted.offset ? static_cast<float*>(found.energy.mutable_data_ptr()) : nullptr;
  float* const score = wanted.score ? static_cast<float*>(found.score.mutable_data_ptr()) : nullptr;
  const int64_t image = tower.channels * tower.height * tower.width;
  const int64_t n_numbers = wanted.offset ? 2 * energy_parts(tower) : 0;
  each_group(plan, x.size(0), n_numbers, [&](int64_t first, int64_t n, void* scratch, float* numbers) {
    float* const to = score ? score + first * image : nullptr;
    if (energy) {
      const EnergyArgs energies{*wanted.offset, reinterpret_cast<double*>(numbers), energy + first};
      kernels.score(tower, packed.const_data_ptr(), from + first * image, n, scratch, to, &energies);
    } else {
      kernels.score(tower, packed.const_data_ptr(), from + first * image, n, scratch, to, nullptr);
    }
  });
  return found;
}

Tensor score(const Tensor& x, const Tensor& packed, const std::vector<int64_t>& geometry,
             const std::vector<double>& slopes, bool bfloat16) {
  return evaluate(x, packed, geometry, slopes, bfloat16, {std::nullopt, true}).score;
}

Tensor energy(const Tensor& x, const Tensor& packed, const std::vector<int64_t>& geometry,
              const std::vector<double>& slopes, bool bfloat16, double offset) {
  return evaluate(x, packed, geometry, slopes, bfloat16, {offset, false}).energy;
}

std::tuple<Tensor, Tensor> energy_and_score(const Tensor& x, const Tensor& packed, const std::vector<int64_t>& geometry,
                                            const std::vector<double>& slopes, bool bfloat16, double offset) {
  const Evaluated found = evaluate(x, packed, geometry, slopes, bfloat16, {offset, true});
  return {found.energy, found.score};
}

void chain(const Tensor& x, const Tensor& packed, const std::vector<int64_t>& geometry,
           const std::vector<double>& slopes, bool bfloat16, const std::vector<double>& step_sizes,
           const std::vector<double>& noise_stds, bool has_noise, int64_t seed, int64_t step, int64_t offset,
           std::optional<double> grad_clip, std::optional<double> lo, std::optional<double> hi, int64_t noise_first) {
  const ConvnetPlan plan = make_plan(geometry, slopes, bfloat16);
  const Tower& tower = plan.tower();
  const int64_t image = tower.channels * tower.height * tower.width;
  STD_TORCH_CHECK(is_float32(x) && x.numel() == x.size(0) * image,
                  "convnet_chain_cpu_: x must be contiguous float32 of the geometry's shape");
  const ConvnetKernels& kernels = kernels_for(plan, packed, bfloat16);
  const ChainArgs args =
      chain_args(step_sizes, noise_stds, has_noise, seed, step, offset, grad_clip, lo, hi, noise_first);
  float* const states = static_cast<float*>(x.mutable_data_ptr());
  each_group(plan, x.size(0), 2 * image, [&](int64_t first, int64_t n, void* scratch, float* numbers) {
    kernels.chain(tower, packed.const_data_ptr(), args, args.offset + static_cast<uint64_t>(first * image), n,
                  states + first * image, scratch, numbers);
  });
}

void transitions(const Tensor& x, const TransitionArgs& args, const Tensor& packed,
                 const std::vector<int64_t>& geometry, const std::vector<double>& slopes, bool bfloat16,
                 double energy_offset) {
  const ConvnetPlan plan = make_plan(geometry, slopes, bfloat16);
  const Tower& tower = plan.tower();
  const int64_t image = tower.channels * tower.height * tower.width;
  STD_TORCH_CHECK(is_float32(x) && x.numel() == x.size(0) * image,
                  "convnet_transitions_cpu_: x must be contiguous float32 of the geometry's shape");
  const ConvnetKernels& kernels = kernels_for(plan, packed, bfloat16);
  const RowTransitions chains(args, static_cast<float*>(x.mutable_data_ptr()), x.size(0), image);
  each_group(plan, x.size(0), 2 * energy_parts(tower), [&](int64_t first, int64_t n, void* scratch, float* numbers) {
    chains.run(first, n, [&](const float* states, float* score, float* energy) {
      const EnergyArgs energies{energy_offset, reinterpret_cast<double*>(numbers), energy};
      kernels.score(tower, packed.const_data_ptr(), states, n, scratch, score, energy ? &energies : nullptr);
    });
  });
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  m.impl("convnet_pack_cpu", TORCH_BOX(&fastlangevin::pack));
  m.impl("convnet_score_cpu", TORCH_BOX(&fastlangevin::score));
  m.impl("convnet_energy_cpu", TORCH_BOX(&fastlangevin::energy));
  m.impl("convnet_energy_and_score_cpu", TORCH_BOX(&fastlangevin::energy_and_score));
  m.impl("convnet_chain_cpu_", TORCH_BOX(&fastlangevin::chain));
  m.impl("convnet_transitions_cpu_", TORCH_BOX(&fastlangevin::TransitionOperator<fastlangevin::transitions>::call));
}
