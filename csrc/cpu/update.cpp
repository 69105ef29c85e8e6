// langevin_update_cpu_: any strides, any float dtype, in parallel over torch's thread pool.
#include "../update.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "kernels.h"

namespace fastlangevin {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t grain = 1 << 14;  // elements worth a thread of their own
constexpr int64_t gathered = 1024;  // elements copied at a time where memory order is not logical order

// Walks the elements of a tensor in logical (row-major) order, whatever its strides.
class Cursor {
 public:
  Cursor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, int64_t start)
      : sizes_(sizes), strides_(strides), at_(sizes.size(), 0) {
    for (size_t d = sizes.size(); d-- > 0;) {
      at_[d] = start % sizes[d];
      start /= sizes[d];
      offset_ += at_[d] * strides[d];
    }
  }

  // visit(offset, stride, n): a run of n elements, stride apart, from offset.
  template <class F>
  void advance(int64_t n, const F& visit) {
    const size_t last = sizes_.size() - 1;
    while (n > 0) {
      const int64_t m = std::min(n, sizes_[last] - at_[last]);
      visit(offset_, strides_[last], m);
      n -= m;
      at_[last] += m;
      offset_ += m * strides_[last];
      for (size_t d = last; d > 0 && at_[d] == sizes_[d]; --d) {
        offset_ += strides_[d - 1] - at_[d] * strides_[d];
        at_[d] = 0;
        ++at_[d - 1];
      }
    }
  }

 private:
  const std::vector<int64_t>&sizes_, &strides_;
  std::vector<int64_t> at_;
  int64_t offset_ = 0;
};

// score may be null.
template <class T>
void run_dense(const UpdateArgs& args, UpdateKernel<T>* kernel, uint64_t offset, int64_t n, const T* score, T* x) {
  if (n <= grain) return kernel(args, offset, n, score, x);
  torch::stable::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    kernel(args, offset + static_cast<uint64_t>(begin), end - begin, score ? score + begin : nullptr, x + begin);
  });
}

template <class T>
void run(const UpdateArgs& args, UpdateKernel<T>* kernel, uint64_t offset, const Tensor& x, const Tensor* score) {
  T* const x_data = static_cast<T*>(x.mutable_data_ptr());
  const T* const score_data = score ? static_cast<const T*>(score->const_data_ptr()) : nullptr;
  const bool x_dense = x.is_contiguous();
  const bool score_dense = score && score->is_contiguous();
  if (x_dense && (!score || score_dense)) return run_dense(args, kernel, offset, x.numel(), score_data, x_data);
  const std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const std::vector<int64_t> x_strides(x.strides().begin(), x.strides().end());
  std::vector<int64_t> score_strides;
  if (score) score_strides.assign(score->strides().begin(), score->strides().end());

  torch::stable::parallel_for(0, x.numel(), grain, [&](int64_t begin, int64_t end) {
    T x_part[gathered], score_part[gathered];
    Cursor read_x(sizes, x_strides, begin), write_x(sizes, x_strides, begin);
    Cursor read_score(sizes, score ? score_strides : x_strides, begin);
    const auto gather = [](Cursor& cursor, int64_t n, const T* from, T* to) {
      cursor.advance(n, [&](int64_t at, int64_t stride, int64_t m) {
        for (int64_t i = 0; i < m; ++i) *to++ = from[at + i * stride];
      });
    };
    while (begin < end) {
      const int64_t n = std::min(end - begin, gathered);
      const T* s = nullptr;
      if (score_dense) {
        s = score_data + begin;
      } else if (score) {
        gather(read_score, n, score_data, score_part);
        s = score_part;
      }
      if (x_dense) {
        kernel(args, offset + static_cast<uint64_t>(begin), n, s, x_data + begin);
      } else {
        gather(read_x, n, x_data, x_part);
        kernel(args, offset + static_cast<uint64_t>(begin), n, s, x_part);
        const T* from = x_part;
        write_x.advance(n, [&](int64_t at, int64_t stride, int64_t m) {
          for (int64_t i = 0; i < m; ++i) x_data[at + i * stride] = *from++;
        });
      }
      begin += n;
    }
  });
}

constexpr double infinity = std::numeric_limits<double>::infinity();

void update(const Tensor& x, const std::optional<Tensor>& score, UpdateArgs args, int64_t offset,
            std::optional<double> grad_clip, std::optional<double> lo, std::optional<double> hi) {
  args.grad_clip = grad_clip.value_or(infinity);
  args.lo = lo.value_or(-infinity);
  args.hi = hi.value_or(infinity);
  args.has_score = score.has_value();
  args.has_limits = grad_clip || lo || hi;
  if (x.numel() == 0 || !(args.has_score || args.has_noise)) return;
  const Tensor* s = args.has_score ? &*score : nullptr;
  const uint64_t base = static_cast<uint64_t>(offset);
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return run<float>(args, kernels().update_float, base, x, s);
    case ScalarType::Double:
      return run<double>(args, kernels().update_double, base, x, s);
    case ScalarType::BFloat16:
      return run<BFloat16>(args, kernels().update_bfloat16, base, x, s);
    case ScalarType::Half:
      return run<Half>(args, kernels().update_half, base, x, s);
    default:
      STD_TORCH_CHECK(false, "langevin_update_cpu_: x must be float32, float64, bfloat16 or float16");
  }
}

void update_scalars(const Tensor& x, const std::optional<Tensor>& score, std::optional<double> step_size,
                    std::optional<double> noise_std, int64_t seed, int64_t step, int64_t stream, int64_t offset,
                    std::optional<double> grad_clip, std::optional<double> lo, std::optional<double> hi) {
  UpdateArgs args{};
  args.key = {static_cast<uint64_t>(seed), static_cast<uint32_t>(step), static_cast<uint32_t>(stream)};
  args.step_size = step_size.value_or(0.0);
  args.noise_std = noise_std.value_or(0.0);
  args.has_noise = noise_std.has_value();
  update(x, score, args, offset, grad_clip, lo, hi);
}

template <class T>
const T* data(const Tensor& a) {
  return static_cast<const T*>(a.const_data_ptr());
}

// Sets a number that is the same for all elements, or (of_chains) one for each of n chains.
void read(const std::optional<Tensor>& given, int64_t n, double& of_all, const double*& of_chains) {
  if (!given) return;
  STD_TORCH_CHECK(given->is_contiguous() && (given->numel() == 1 || given->numel() == n),
                  "langevin_update_cpu_: step_size and noise_std must hold one number, or one for each chain");
  of_all = *data<double>(*given);
  if (given->numel() != 1) of_chains = data<double>(*given);
}

void update_tensors(const Tensor& x, const std::optional<Tensor>& score, const std::optional<Tensor>& step_size,
                    const std::optional<Tensor>& noise_std, const Tensor& seed, const Tensor& step, int64_t stream,
                    int64_t offset, std::optional<double> grad_clip, std::optional<double> lo,
                    std::optional<double> hi) {
  if (x.numel() == 0) return;
  UpdateArgs args{};
  args.key = {static_cast<uint64_t>(*data<int64_t>(seed)), static_cast<uint32_t>(*data<int64_t>(step)),
              static_cast<uint32_t>(stream)};
  args.has_noise = noise_std.has_value();
  const int64_t n_chains = x.dim() ? x.size(0) : 1;
  PerChain& chains = args.per_chain;
  read(step_size, n_chains, args.step_size, chains.step_sizes);
  read(noise_std, n_chains, args.noise_std, chains.noise_stds);
  if (chains.step_sizes || chains.noise_stds) chains.size = x.numel() / n_chains;
  chains.first = static_cast<uint64_t>(offset);
  update(x, score, args, offset, grad_clip, lo, hi);
}

}  // namespace

// The arguments of fastlangevin_update, as kernels/cpu/update.py packs them: one conversion instead of twelve.
struct PackedUpdate {
  float* x;
  const float* score;           // may be null
  int64_t n;                    // contiguous float32 elements
  double step_size, noise_std;  // NaN: no noise
  uint64_t seed;
  int64_t step, stream, offset;
  double grad_clip, lo, hi;  // infinities where there is no such limit
};
static_assert(sizeof(PackedUpdate) == 12 * 8, "no padding");

// Called through ctypes by kernels/cpu/update.py.
extern "C" __attribute__((visibility("default"))) void fastlangevin_update(const char* packed) {
  PackedUpdate p;
  std::memcpy(&p, packed, sizeof p);
  UpdateArgs args{};
  args.key = {p.seed, static_cast<uint32_t>(p.step), static_cast<uint32_t>(p.stream)};
  args.step_size = p.step_size;
  args.has_noise = !std::isnan(p.noise_std);
  args.noise_std = args.has_noise ? p.noise_std : 0.0;
  args.grad_clip = p.grad_clip;
  args.lo = p.lo;
  args.hi = p.hi;
  args.has_score = p.score != nullptr;
  args.has_limits = p.grad_clip < infinity || p.lo > -infinity || p.hi < infinity;
  run_dense(args, kernels().update_float, static_cast<uint64_t>(p.offset), p.n, p.score, p.x);
}

}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  m.impl("langevin_update_cpu_", TORCH_BOX(&fastlangevin::update_scalars));
  m.impl("langevin_update_cpu_.tensor", TORCH_BOX(&fastlangevin::update_tensors));
}
