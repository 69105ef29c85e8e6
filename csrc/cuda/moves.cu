// velocity_move_cuda_, mala_test_cuda_, hmc_test_cuda_: contiguous states of any float dtype, on the current stream of
// their device.
#include "launch.h"
#include "move_threads.h"

namespace fastlangevin {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
__global__ void __launch_bounds__(block_size) packed_moves(const __grid_constant__ MoveWork<T> work) {
  move_packed(work, thread_index());
}

template <class T>
__global__ void __launch_bounds__(block_size) grouped_moves(const __grid_constant__ MoveWork<T> work) {
  move_group(work, thread_index());
}

static_assert(test_threads == block_size, "a block's threads are what launch() gives it");

template <bool is_trajectory, class T>
__global__ void __launch_bounds__(block_size) tests(const __grid_constant__ TestWork<T> work) {
  __shared__ TestBlock shared;
  const int64_t block = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  add_lanes<is_trajectory>(work, block, thread, shared);
  __syncthreads();
  for (int half = work.width / 2; half > 0; half /= 2) {
    add_half(work.width, half, thread, shared);
    __syncthreads();
  }
  decide<is_trajectory>(work, block, thread, shared);
  __syncthreads();
  take(work, block, thread, shared);
}

ScalarType velocity_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// The data of n contiguous elements.
template <class T>
const T* data(const Tensor& a, const char* name, ScalarType type, int64_t n) {
  STD_TORCH_CHECK(a.is_contiguous() && a.scalar_type() == type && a.numel() == n, name,
                  " must be contiguous, of as many elements as belong to the states, and of their type (velocities and "
                  "masses of float32 for 16-bit states, energies and ratios of float64, counts of int64)");
  return static_cast<const T*>(a.const_data_ptr());
}

template <class T>
T* mutable_data(const Tensor& a, const char* name, ScalarType type, int64_t n) {
  data<T>(a, name, type, n);
  return static_cast<T*>(a.mutable_data_ptr());
}

// Factors that repeat over the elements of x, or null. Sets period.
template <class T>
const T* factors(const std::optional<Tensor>& given, const char* name, const Tensor& x, int64_t& period) {
  if (!given) return nullptr;
  STD_TORCH_CHECK(given->numel() > 0 && (period == 0 || period == given->numel()), name,
                  " must have elements, as many as all that is of the masses");
  period = given->numel();
  return data<T>(*given, name, velocity_type(x), period);
}

// A number by value or in memory.
Number<double> number(double a) { return {a, nullptr}; }
Number<double> number(const Tensor& a) { return {0.0, data<double>(a, "a number", ScalarType::Double, 1)}; }
Number<int64_t> count(int64_t a) { return {a, nullptr}; }
Number<int64_t> count(const Tensor& a) { return {0, data<int64_t>(a, "seed or step", ScalarType::Long, 1)}; }

// Calls run<T>(arguments…) for the type of x.
template <class Run>
void of_type(const Tensor& x, const Run& run) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return run(float());
    case ScalarType::Double:
      return run(double());
    case ScalarType::BFloat16:
      return run(BFloat16());
    case ScalarType::Half:
      return run(Half());
    default:
      STD_TORCH_CHECK(false, "x must be float32, float64, bfloat16 or float16");
  }
}

template <class Float, class Int>
void move(const Tensor& x, const Tensor& v, const std::optional<Tensor>& score, const std::optional<Tensor>& weights,
          const std::optional<Tensor>& roots, bool draws, std::optional<Float> kick, int64_t n_kicks, Float drift,
          std::optional<Float> decay, Float noise_std, Int seed, Int step, int64_t stream, int64_t offset) {
  const int64_t n = x.numel();
  if (n == 0) return;
  STD_TORCH_CHECK(!kick || (score && (n_kicks == 1 || n_kicks == 2)), "a kick needs a score, and comes once or twice");
  of_type(x, [&](auto example) {
    using T = decltype(example);
    using Compute = typename ComputeType<T>::type;
    MoveWork<T> work{};
    work.x = mutable_data<T>(x, "x", x.scalar_type(), n);
    work.v = mutable_data<Compute>(v, "v", velocity_type(x), n);
    if (kick) {
      work.score = data<T>(*score, "score", x.scalar_type(), n);
      work.kick = number(*kick);
      work.n_kicks = n_kicks;
    }
    work.masses.weights = factors<Compute>(weights, "weights", x, work.masses.period);
    work.masses.roots = factors<Compute>(roots, "roots", x, work.masses.period);
    work.n = n;
    work.offset = static_cast<uint64_t>(offset);
    work.key = {count(seed), count(step), static_cast<uint32_t>(stream)};
    work.drift = number(drift);
    work.has_decay = decay.has_value();
    if (decay) work.decay = number(*decay);
    work.noise_std = number(noise_std);
    work.draws = draws;
    launch(is_packed(work) ? packed_moves<T> : grouped_moves<T>, work, n_threads(work), x.get_device_index());
  });
}

struct Tested {
  const Tensor &x, &energy, &score, &log_ratio, &n_accepted, &n_rejected, &y, &new_score, &new_energy;
};

// The part of a test's work that both kinds of proposals have.
template <class T>
TestWork<T> work_of(const Tested& t) {
  const ScalarType type = t.x.scalar_type();
  const int64_t all = t.x.numel(), n = t.x.size(0);
  TestWork<T> work{};
  work.x = mutable_data<T>(t.x, "x", type, all);
  work.score = mutable_data<T>(t.score, "score", type, all);
  work.memory = {mutable_data<double>(t.energy, "energy", ScalarType::Double, n),
                 mutable_data<double>(t.log_ratio, "log_ratio", ScalarType::Double, n),
                 mutable_data<int64_t>(t.n_accepted, "n_accepted", ScalarType::Long, n),
                 mutable_data<int64_t>(t.n_rejected, "n_rejected", ScalarType::Long, n)};
  work.y = data<T>(t.y, "y", type, all);
  work.new_score = data<T>(t.new_score, "new_score", type, all);
  work.new_energy = data<double>(t.new_energy, "new_energy", ScalarType::Double, n);
  work.n_chains = n;
  work.n = all / n;
  work.width = threads_of_chain(work.n);
  return work;
}

bool has_chains(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() > 0, "x must be (B, *event)");
  return x.size(0) > 0;
}

template <class Float, class Int>
void mala_test(const Tensor& x, const Tensor& energy, const Tensor& score, const Tensor& log_ratio,
               const Tensor& n_accepted, const Tensor& n_rejected, const Tensor& y, const Tensor& new_score,
               const Tensor& new_energy, Float step_size, Float temperature, double lo, double hi, Int seed, Int step,
               int64_t test_stream, int64_t first_chain) {
  if (!has_chains(x)) return;
  of_type(x, [&](auto example) {
    using T = decltype(example);
    auto work = work_of<T>({x, energy, score, log_ratio, n_accepted, n_rejected, y, new_score, new_energy});
    work.size = number(step_size);
    work.temperature = number(temperature);
    work.lo = lo, work.hi = hi;
    work.key = {count(seed), count(step), 0};
    work.test_stream = static_cast<uint32_t>(test_stream);
    work.first_chain = static_cast<uint64_t>(first_chain);
    launch(tests<false, T>, work, n_threads(work), x.get_device_index());
  });
}

template <class Float, class Int>
void hmc_test(const Tensor& x, const Tensor& energy, const Tensor& score, const Tensor& log_ratio,
              const Tensor& n_accepted, const Tensor& n_rejected, const Tensor& y, const Tensor& new_score,
              const Tensor& new_energy, const Tensor& v, const std::optional<Tensor>& masses,
              const std::optional<Tensor>& weights, const std::optional<Tensor>& roots, Float kick, Float noise_std,
              Float temperature, double lo, double hi, Int seed, Int step, int64_t stream, int64_t offset,
              int64_t test_stream, int64_t first_chain) {
  if (!has_chains(x)) return;
  of_type(x, [&](auto example) {
    using T = decltype(example);
    using Compute = typename ComputeType<T>::type;
    auto work = work_of<T>({x, energy, score, log_ratio, n_accepted, n_rejected, y, new_score, new_energy});
    work.v = data<Compute>(v, "v", velocity_type(x), x.numel());
    work.masses.masses = factors<Compute>(masses, "masses", x, work.masses.period);
    work.masses.weights = factors<Compute>(weights, "weights", x, work.masses.period);
    work.masses.roots = factors<Compute>(roots, "roots", x, work.masses.period);
    work.size = number(kick);
    work.noise_std = number(noise_std);
    work.temperature = number(temperature);
    work.lo = lo, work.hi = hi;
    work.key = {count(seed), count(step), static_cast<uint32_t>(stream)};
    work.offset = static_cast<uint64_t>(offset);
    work.test_stream = static_cast<uint32_t>(test_stream);
    work.first_chain = static_cast<uint64_t>(first_chain);
    launch(tests<true, T>, work, n_threads(work), x.get_device_index());
  });
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CUDA, m) {
  using torch::stable::Tensor;
  m.impl("velocity_move_cuda_", TORCH_BOX((&fastlangevin::move<double, int64_t>)));
  m.impl("mala_test_cuda_", TORCH_BOX((&fastlangevin::mala_test<double, int64_t>)));
  m.impl("hmc_test_cuda_", TORCH_BOX((&fastlangevin::hmc_test<double, int64_t>)));
  m.impl("velocity_move_cuda_.tensor", TORCH_BOX((&fastlangevin::move<Tensor, Tensor>)));
  m.impl("mala_test_cuda_.tensor", TORCH_BOX((&fastlangevin::mala_test<Tensor, Tensor>)));
  m.impl("hmc_test_cuda_.tensor", TORCH_BOX((&fastlangevin::hmc_test<Tensor, Tensor>)));
}
