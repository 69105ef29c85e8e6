// langevin_update_cuda_: any strides, any float dtype, on the current stream of x's device.
#include <limits>

#include "launch.h"

namespace fastlangevin {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <bool has_score, bool has_noise, class T>
__global__ void __launch_bounds__(block_size) packed(const __grid_constant__ UpdateWork<T> work) {
  update_packed<has_score, has_noise>(work, thread_index());
}

template <bool has_score, bool has_noise, bool per_chain, class T>
__global__ void __launch_bounds__(block_size) grouped(const __grid_constant__ UpdateWork<T> work) {
  update_group<has_score, has_noise, per_chain>(work, thread_index());
}

template <bool has_score, bool has_noise, class T>
void launch_update(const UpdateWork<T>& work, int32_t device) {
  const auto kernel = is_packed(work)   ? packed<has_score, has_noise, T>
                      : work.chain_size ? grouped<has_score, has_noise, true, T>
                                        : grouped<has_score, has_noise, false, T>;
  launch(kernel, work, n_threads(work), device);
}

// The arguments that are the same for every dtype.
struct Arguments {
  DeviceKey key;
  uint64_t offset;
  Number<double> step_size, noise_std;
  bool step_size_per_chain, noise_std_per_chain, has_noise;
  std::optional<double> grad_clip, lo, hi;
};

int64_t n_chains(const Tensor& x) { return x.dim() ? x.size(0) : 1; }

// Whether a number is given for each of n chains.
bool is_per_chain(const std::optional<Tensor>& given, int64_t n) {
  if (!given || given->numel() == 1) return false;
  STD_TORCH_CHECK(given->is_contiguous() && given->numel() == n,
                  "langevin_update_cuda_: step_size and noise_std must hold one number, or one for each chain");
  return true;
}

template <class T>
void run(const Tensor& x, const std::optional<Tensor>& score, const Arguments& a) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  UpdateWork<T> work{};
  work.x = static_cast<T*>(x.mutable_data_ptr());
  work.score = score ? static_cast<const T*>(score->const_data_ptr()) : nullptr;
  work.n = x.numel();
  work.offset = a.offset;
  work.key = a.key;
  work.step_size = a.step_size, work.noise_std = a.noise_std;
  work.step_size_per_chain = a.step_size_per_chain, work.noise_std_per_chain = a.noise_std_per_chain;
  if (a.step_size_per_chain || a.noise_std_per_chain) work.chain_size = x.numel() / n_chains(x);
  work.grad_clip = a.grad_clip.value_or(infinity);
  work.lo = a.lo.value_or(-infinity), work.hi = a.hi.value_or(infinity);
  const bool fits = make_layout(static_cast<int>(x.dim()), x.sizes().data(), x.strides().data(),
                                score ? score->strides().data() : x.strides().data(), work.layout);
  STD_TORCH_CHECK(fits, "langevin_update_cuda_: x must have at most ", Layout::max_dimensions, " dimensions");
  const int32_t device = x.get_device_index();
  if (score && a.has_noise) {
    launch_update<true, true>(work, device);
  } else if (score) {
    launch_update<true, false>(work, device);
  } else {
    launch_update<false, true>(work, device);
  }
}

void update(const Tensor& x, const std::optional<Tensor>& score, const Arguments& a) {
  if (x.numel() == 0 || !(score || a.has_noise)) return;
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return run<float>(x, score, a);
    case ScalarType::Double:
      return run<double>(x, score, a);
    case ScalarType::BFloat16:
      return run<BFloat16>(x, score, a);
    case ScalarType::Half:
      return run<Half>(x, score, a);
    default:
      STD_TORCH_CHECK(false, "langevin_update_cuda_: x must be float32, float64, bfloat16 or float16");
  }
}

void update_scalars(const Tensor& x, const std::optional<Tensor>& score, std::optional<double> step_size,
                    std::optional<double> noise_std, int64_t seed, int64_t step, int64_t stream, int64_t offset,
                    std::optional<double> grad_clip, std::optional<double> lo, std::optional<double> hi) {
  update(x, score,
         {{{seed, nullptr}, {step, nullptr}, static_cast<uint32_t>(stream)},
          static_cast<uint64_t>(offset),
          {step_size.value_or(0.0), nullptr},
          {noise_std.value_or(0.0), nullptr},
          false,
          false,
          noise_std.has_value(),
          grad_clip,
          lo,
          hi});
}

void update_tensors(const Tensor& x, const std::optional<Tensor>& score, const std::optional<Tensor>& step_size,
                    const std::optional<Tensor>& noise_std, const Tensor& seed, const Tensor& step, int64_t stream,
                    int64_t offset, std::optional<double> grad_clip, std::optional<double> lo,
                    std::optional<double> hi) {
  update(x, score,
         {{from_device(seed), from_device(step), static_cast<uint32_t>(stream)},
          static_cast<uint64_t>(offset),
          from_device(step_size),
          from_device(noise_std),
          is_per_chain(step_size, n_chains(x)),
          is_per_chain(noise_std, n_chains(x)),
          noise_std.has_value(),
          grad_clip,
          lo,
          hi});
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CUDA, m) {
  m.impl("langevin_update_cuda_", TORCH_BOX(&fastlangevin::update_scalars));
  m.impl("langevin_update_cuda_.tensor", TORCH_BOX(&fastlangevin::update_tensors));
}
