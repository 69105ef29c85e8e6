// The CUDA kernels' threads, run one after another on a host: test_threads.py calls these through ctypes.
#include "cuda/threads.h"

using namespace fastlangevin;

namespace {

template <class T>
void run(const UpdateWork<T>& work, bool has_noise, bool* packed) {
  *packed = is_packed(work);
  const int64_t n = (n_threads(work) + 255) / 256 * 256;  // a launch's last block goes beyond the work
  for (int64_t t = 0; t < n; ++t) {
    if (work.chain_size && work.score && has_noise) {
      update_group<true, true, true>(work, t);
    } else if (work.chain_size && work.score) {
      update_group<true, false, true>(work, t);
    } else if (work.chain_size) {
      update_group<false, true, true>(work, t);
    } else if (work.score && has_noise) {
      *packed ? update_packed<true, true>(work, t) : update_group<true, true>(work, t);
    } else if (work.score) {
      *packed ? update_packed<true, false>(work, t) : update_group<true, false>(work, t);
    } else {
      *packed ? update_packed<false, true>(work, t) : update_group<false, true>(work, t);
    }
  }
}

template <class T>
int update(void* x, const void* score, uint64_t offset, const double* numbers, const double* step_size,
           const double* noise_std, const bool* per_chain, const int64_t* key, bool on_device, uint32_t stream,
           bool has_noise, int n_dimensions, const int64_t* sizes, const int64_t* x_strides,
           const int64_t* score_strides, bool* packed) {
  UpdateWork<T> work{};
  work.x = static_cast<T*>(x);
  work.score = static_cast<const T*>(score);
  work.n = 1;
  for (int d = 0; d < n_dimensions; ++d) work.n *= sizes[d];
  work.offset = offset;
  if (on_device) {
    work.key = {{0, key}, {0, key + 1}, stream};
    work.step_size = {0, step_size}, work.noise_std = {0, noise_std};
  } else {
    work.key = {{key[0], nullptr}, {key[1], nullptr}, stream};
    work.step_size = {*step_size, nullptr}, work.noise_std = {*noise_std, nullptr};
  }
  work.step_size_per_chain = per_chain[0], work.noise_std_per_chain = per_chain[1];
  if (per_chain[0] || per_chain[1]) work.chain_size = work.n / sizes[0];
  work.grad_clip = numbers[0], work.lo = numbers[1], work.hi = numbers[2];
  if (!make_layout(n_dimensions, sizes, x_strides, score_strides, work.layout)) return 1;
  run(work, has_noise, packed);
  return 0;
}

}  // namespace

extern "C" {

int update_on_host(int dtype, void* x, const void* score, uint64_t offset, const double* numbers,
                   const double* step_size, const double* noise_std, const bool* per_chain, const int64_t* key,
                   bool on_device, uint32_t stream, bool has_noise, int n_dimensions, const int64_t* sizes,
                   const int64_t* x_strides, const int64_t* score_strides, bool* packed) {
  const auto function = dtype == 0   ? update<float>
                        : dtype == 1 ? update<double>
                        : dtype == 2 ? update<BFloat16>
                                     : update<Half>;
  return function(x, score, offset, numbers, step_size, noise_std, per_chain, key, on_device, stream, has_noise,
                  n_dimensions, sizes, x_strides, score_strides, packed);
}

void fill_on_host(float* out, int64_t n, uint64_t offset, const int64_t* key, uint32_t stream, bool uniform) {
  const FillWork work{out, n, offset, {{key[0], nullptr}, {key[1], nullptr}, stream}};
  const int64_t n_run = (n_threads(work) + 255) / 256 * 256;
  for (int64_t t = 0; t < n_run; ++t) uniform ? fill_group<true>(work, t) : fill_group<false>(work, t);
}
}
