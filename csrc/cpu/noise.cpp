// noise_cpu_: fills a contiguous float32 tensor with normals or uniforms of the stream.
#include "../noise.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "kernels.h"

namespace fastlangevin {
namespace {

using torch::stable::Tensor;

constexpr int64_t grain = 1 << 14;

void noise(const Tensor& out, int64_t seed, int64_t step, int64_t stream, int64_t offset, bool uniform) {
  STD_TORCH_CHECK(out.is_contiguous() && out.scalar_type() == torch::headeronly::ScalarType::Float,
                  "noise_cpu_: out must be contiguous float32");
  float* const data = static_cast<float*>(out.mutable_data_ptr());
  const NoiseKey key{static_cast<uint64_t>(seed), static_cast<uint32_t>(step), static_cast<uint32_t>(stream)};
  FillKernel* const fill = uniform ? kernels().uniform : kernels().normal;
  torch::stable::parallel_for(0, out.numel(), grain, [&](int64_t begin, int64_t end) {
    fill(key, static_cast<uint64_t>(offset) + static_cast<uint64_t>(begin), end - begin, data + begin);
  });
}

void noise_tensors(const Tensor& out, const Tensor& seed, const Tensor& step, int64_t stream, int64_t offset,
                   bool uniform) {
  noise(out, *static_cast<const int64_t*>(seed.const_data_ptr()), *static_cast<const int64_t*>(step.const_data_ptr()),
        stream, offset, uniform);
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  m.impl("noise_cpu_", TORCH_BOX(&fastlangevin::noise));
  m.impl("noise_cpu_.tensor", TORCH_BOX(&fastlangevin::noise_tensors));
}
