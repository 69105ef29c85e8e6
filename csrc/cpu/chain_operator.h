// What the operators of whole chains share: their numbers, and the blocks of chains spread over torch's threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "kernels.h"

namespace fastlangevin {

using torch::stable::Tensor;

inline const float* floats(const Tensor& a, const char* what) {
  STD_TORCH_CHECK(a.is_contiguous() && a.scalar_type() == torch::headeronly::ScalarType::Float, what,
                  " must be contiguous float32");
  return static_cast<const float*>(a.const_data_ptr());
}

struct ReleaseAligned {
  void operator()(float* memory) const { ::operator delete(memory, std::align_val_t{64}); }
};

// n floats, 64-byte aligned.
inline std::unique_ptr<float, ReleaseAligned> aligned_floats(int64_t n) {
  const size_t bytes = sizeof(float) * static_cast<size_t>(n);
  return std::unique_ptr<float, ReleaseAligned>(static_cast<float*>(::operator new(bytes, std::align_val_t{64})));
}

// step_sizes and noise_stds must outlive what is returned.
inline ChainArgs chain_args(const std::vector<double>& step_sizes, const std::vector<double>& noise_stds,
                            bool has_noise, int64_t seed, int64_t step, int64_t offset, std::optional<double> grad_clip,
                            std::optional<double> lo, std::optional<double> hi, int64_t noise_first) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  STD_TORCH_CHECK(step_sizes.size() == noise_stds.size(), "step_sizes and noise_stds must be of one length");
  return {step_sizes.data(),
          noise_stds.data(),
          static_cast<int64_t>(step_sizes.size()),
          static_cast<uint64_t>(seed),
          static_cast<uint32_t>(step),
          static_cast<uint64_t>(offset),
          has_noise,
          grad_clip.has_value(),
          lo || hi,
          static_cast<NoiseFirst>(noise_first),
          grad_clip.value_or(infinity),
          lo.value_or(-infinity),
          hi.value_or(infinity)};
}

// n chains of `energy`, in place.
template <class Energy, class Args>
void run_chains(const StepKernel<Energy, Args>& kernel, const Energy& energy, const Args& args, const Tensor& x,
                int64_t n) {
  floats(x, "x");
  float* const chains = static_cast<float*>(x.mutable_data_ptr());
  const int64_t width = n == 0 ? 0 : x.numel() / n;
  torch::stable::parallel_for(0, (n + kernel.block - 1) / kernel.block, 1, [&](int64_t begin, int64_t end) {
    const auto scratch = aligned_floats(kernel.scratch_size(energy));
    const int64_t first = begin * kernel.block;
    kernel.run(energy, args, first, std::min(n, end * kernel.block) - first, chains + first * width, scratch.get());
  });
}

}  // namespace fastlangevin
