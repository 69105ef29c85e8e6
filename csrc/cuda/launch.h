// Launches a function of (work, thread index) over as many threads as the work has, on the current stream of a device.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "threads.h"

namespace fastlangevin {

constexpr int block_size = 256;

inline void check(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, "fastlangevin: ", what, " failed: ", cudaGetErrorString(error));
}

template <class Work>
void launch(void (*kernel)(Work), const Work& work, int64_t n_threads, int32_t device) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  // The runtime linked in here has a current device of its own besides torch's.
  check(cudaSetDevice(device), "choosing the device");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  const int64_t n_blocks = (n_threads + block_size - 1) / block_size;
  STD_TORCH_CHECK(n_blocks <= INT32_MAX, "fastlangevin: too many elements for one launch");
  kernel<<<static_cast<unsigned>(n_blocks), block_size, 0, static_cast<cudaStream_t>(stream)>>>(work);
  check(cudaGetLastError(), "launching a kernel");
}

__device__ __forceinline__ int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

inline Number<int64_t> from_device(const torch::stable::Tensor& a) {
  return {0, static_cast<const int64_t*>(a.const_data_ptr())};
}

inline Number<double> from_device(const std::optional<torch::stable::Tensor>& a) {
  return {0.0, a ? static_cast<const double*>(a->const_data_ptr()) : nullptr};
}

}  // namespace fastlangevin
