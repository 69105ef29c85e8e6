// noise_cuda_: fills a contiguous float32 tensor with normals or uniforms of the stream.
#include "launch.h"

namespace fastlangevin {
namespace {

using torch::stable::Tensor;

template <bool uniform>
__global__ void __launch_bounds__(block_size) filled(const __grid_constant__ FillWork work) {
  fill_group<uniform>(work, thread_index());
}

void noise(const Tensor& out, Number<int64_t> seed, Number<int64_t> step, int64_t stream, int64_t offset,
           bool uniform) {
  STD_TORCH_CHECK(out.is_contiguous() && out.scalar_type() == torch::headeronly::ScalarType::Float,
                  "noise_cuda_: out must be contiguous float32");
  if (out.numel() == 0) return;
  const FillWork work{static_cast<float*>(out.mutable_data_ptr()),
                      out.numel(),
                      static_cast<uint64_t>(offset),
                      {seed, step, static_cast<uint32_t>(stream)}};
  launch(uniform ? filled<true> : filled<false>, work, n_threads(work), out.get_device_index());
}

void noise_scalars(const Tensor& out, int64_t seed, int64_t step, int64_t stream, int64_t offset, bool uniform) {
  noise(out, {seed, nullptr}, {step, nullptr}, stream, offset, uniform);
}

void noise_tensors(const Tensor& out, const Tensor& seed, const Tensor& step, int64_t stream, int64_t offset,
                   bool uniform) {
  noise(out, from_device(seed), from_device(step), stream, offset, uniform);
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CUDA, m) {
  m.impl("noise_cuda_", TORCH_BOX(&fastlangevin::noise_scalars));
  m.impl("noise_cuda_.tensor", TORCH_BOX(&fastlangevin::noise_tensors));
}
