// velocity_move_cpu_, mala_test_cpu_, hmc_test_cpu_: contiguous states of any float dtype, in parallel over torch's
// thread pool: elements for the move, chains for the tests.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>

#include "kernels.h"

namespace fastlangevin {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t grain = 1 << 14;  // elements worth a thread of their own

const MoveKernels<float>& kernels_of(float) { return kernels().moves_float; }
const MoveKernels<double>& kernels_of(double) { return kernels().moves_double; }
const MoveKernels<BFloat16>& kernels_of(BFloat16) { return kernels().moves_bfloat16; }
const MoveKernels<Half>& kernels_of(Half) { return kernels().moves_half; }

// Calls run with a number of the type of x.
template <class Run>
void with_type(const Tensor& x, const Run& run) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return run(float{});
    case ScalarType::Double:
      return run(double{});
    case ScalarType::BFloat16:
      return run(BFloat16{});
    case ScalarType::Half:
      return run(Half{});
    default:
      STD_TORCH_CHECK(false, "x must be float32, float64, bfloat16 or float16");
  }
}

template <class T>
constexpr ScalarType type_of();
template <>
constexpr ScalarType type_of<float>() {
  return ScalarType::Float;
}
template <>
constexpr ScalarType type_of<double>() {
  return ScalarType::Double;
}
template <>
constexpr ScalarType type_of<BFloat16>() {
  return ScalarType::BFloat16;
}
template <>
constexpr ScalarType type_of<Half>() {
  return ScalarType::Half;
}
template <>
constexpr ScalarType type_of<int64_t>() {
  return ScalarType::Long;
}

// The data of n contiguous numbers of a type.
template <class T>
T* data(const Tensor& a, const char* name, int64_t n) {
  STD_TORCH_CHECK(a.is_contiguous() && a.numel() == n, name, " must be contiguous and have ", n, " elements");
  STD_TORCH_CHECK(a.scalar_type() == type_of<T>(), name,
                  " has another type than it must have: scores that of x, velocities and masses float64 for float64 "
                  "states, else float32, energies and ratios float64, counts int64");
  return static_cast<T*>(const_cast<void*>(a.const_data_ptr()));
}

// The masses of the n elements of a state.
template <class T>
Momentum<T> momentum(const std::optional<Tensor>& masses, const std::optional<Tensor>& weights,
                     const std::optional<Tensor>& roots, int64_t n) {
  Momentum<T> result{};
  const auto read = [&](const std::optional<Tensor>& given, const char* name) -> const T* {
    if (!given) return nullptr;
    const int64_t period = given->numel();
    STD_TORCH_CHECK(n == 0 || (period > 0 && n % period == 0), name, " must repeat over the elements of x");
    STD_TORCH_CHECK(result.period == 0 || result.period == period, name, " must be as many as the others");
    result.period = period;
    return data<T>(*given, name, period);
  };
  result.masses = read(masses, "masses");
  result.weights = read(weights, "weights");
  result.roots = read(roots, "roots");
  return result;
}

// A number by value, or in memory.
double number(double a) { return a; }
double number(const Tensor& a) { return *data<double>(a, "a number", 1); }
int64_t integer(int64_t a) { return a; }
int64_t integer(const Tensor& a) { return *data<int64_t>(a, "seed or step", 1); }

template <class Int>
NoiseKey key(const Int& seed, const Int& step, int64_t stream) {
  return {static_cast<uint64_t>(integer(seed)), static_cast<uint32_t>(integer(step)), static_cast<uint32_t>(stream)};
}

template <class Run>
void parallel(int64_t n, int64_t at_least, const Run& run) {
  if (n > at_least) return torch::stable::parallel_for(0, n, at_least, run);
  if (n > 0) run(0, n);
}

void run_move(const MoveNumbers& numbers, const Tensor& x, const Tensor& v, const std::optional<Tensor>& score,
              const std::optional<Tensor>& weights, const std::optional<Tensor>& roots) {
  const int64_t n = x.numel();
  with_type(x, [&](auto zero) {
    using T = decltype(zero);
    using Compute = typename ComputeType<T>::type;
    const MoveWork<T> work{numbers, data<T>(x, "x", n), data<Compute>(v, "v", n),
                           numbers.n_kicks > 0 ? data<T>(*score, "score", n) : nullptr,
                           momentum<Compute>(std::nullopt, weights, roots, n)};
    const auto kernel = kernels_of(zero).move;
    parallel(n, grain, [&](int64_t begin, int64_t end) { kernel(work, begin, end - begin); });
  });
}

template <class Float, class Int>
void move(const Tensor& x, const Tensor& v, const std::optional<Tensor>& score, const std::optional<Tensor>& weights,
          const std::optional<Tensor>& roots, bool draws, std::optional<Float> kick, int64_t n_kicks, Float drift,
          std::optional<Float> decay, Float noise_std, Int seed, Int step, int64_t stream, int64_t offset) {
  MoveNumbers numbers{};
  if (kick) {
    STD_TORCH_CHECK(score && (n_kicks == 1 || n_kicks == 2), "a kick needs a score, and comes once or twice");
    numbers.kick = number(*kick);
    numbers.n_kicks = n_kicks;
  }
  numbers.drift = number(drift);
  numbers.has_decay = decay.has_value();
  if (decay) numbers.decay = number(*decay);
  numbers.noise_std = number(noise_std);
  numbers.draws = draws;
  numbers.key = key(seed, step, stream);
  numbers.offset = static_cast<uint64_t>(offset);
  run_move(numbers, x, v, score, weights, roots);
}

struct Tested {
  const Tensor &x, &energy, &score, &log_ratio, &n_accepted, &n_rejected, &y, &new_score, &new_energy;
};

struct Trajectory {
  const Tensor& v;
  const std::optional<Tensor>&masses, &weights, &roots;
};

// trajectory: null for Langevin proposals.
void run_test(const TestNumbers& numbers, const Tested& t, const Trajectory* trajectory) {
  STD_TORCH_CHECK(t.x.dim() > 0, "x must be (B, *event)");
  const int64_t all = t.x.numel(), n = t.x.size(0), d = n ? all / n : 0;
  with_type(t.x, [&](auto zero) {
    using T = decltype(zero);
    using Compute = typename ComputeType<T>::type;
    TestWork<T> work{numbers,
                     d,
                     data<T>(t.x, "x", all),
                     data<T>(t.score, "score", all),
                     {data<double>(t.energy, "energy", n), data<double>(t.log_ratio, "log_ratio", n),
                      data<int64_t>(t.n_accepted, "n_accepted", n), data<int64_t>(t.n_rejected, "n_rejected", n)},
                     data<T>(t.y, "y", all),
                     data<T>(t.new_score, "new_score", all),
                     data<double>(t.new_energy, "new_energy", n),
                     nullptr,
                     {}};
    if (trajectory) {
      work.v = data<Compute>(trajectory->v, "v", all);
      work.momentum = momentum<Compute>(trajectory->masses, trajectory->weights, trajectory->roots, all);
    }
    const auto kernel = trajectory ? kernels_of(zero).hmc_test : kernels_of(zero).mala_test;
    const int64_t chains = std::max<int64_t>(1, grain / std::max<int64_t>(1, d));
    parallel(n, chains, [&](int64_t begin, int64_t end) { kernel(work, begin, end - begin); });
  });
}

template <class Float, class Int>
void mala_test(const Tensor& x, const Tensor& energy, const Tensor& score, const Tensor& log_ratio,
               const Tensor& n_accepted, const Tensor& n_rejected, const Tensor& y, const Tensor& new_score,
               const Tensor& new_energy, Float step_size, Float temperature, double lo, double hi, Int seed, Int step,
               int64_t test_stream, int64_t first_chain) {
  TestNumbers numbers{};
  numbers.step_size = number(step_size);
  numbers.temperature = number(temperature);
  numbers.lo = lo, numbers.hi = hi;
  numbers.test_key = key(seed, step, test_stream);
  numbers.first_chain = static_cast<uint64_t>(first_chain);
  run_test(numbers, {x, energy, score, log_ratio, n_accepted, n_rejected, y, new_score, new_energy}, nullptr);
}

template <class Float, class Int>
void hmc_test(const Tensor& x, const Tensor& energy, const Tensor& score, const Tensor& log_ratio,
              const Tensor& n_accepted, const Tensor& n_rejected, const Tensor& y, const Tensor& new_score,
              const Tensor& new_energy, const Tensor& v, const std::optional<Tensor>& masses,
              const std::optional<Tensor>& weights, const std::optional<Tensor>& roots, Float kick, Float noise_std,
              Float temperature, double lo, double hi, Int seed, Int step, int64_t stream, int64_t offset,
              int64_t test_stream, int64_t first_chain) {
  TestNumbers numbers{};
  numbers.temperature = number(temperature);
  numbers.lo = lo, numbers.hi = hi;
  numbers.test_key = key(seed, step, test_stream);
  numbers.first_chain = static_cast<uint64_t>(first_chain);
  numbers.kick = number(kick);
  numbers.noise_std = number(noise_std);
  numbers.key = key(seed, step, stream);
  numbers.offset = static_cast<uint64_t>(offset);
  const Trajectory trajectory{v, masses, weights, roots};
  run_test(numbers, {x, energy, score, log_ratio, n_accepted, n_rejected, y, new_score, new_energy}, &trajectory);
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) {
  using torch::stable::Tensor;
  m.impl("velocity_move_cpu_", TORCH_BOX((&fastlangevin::move<double, int64_t>)));
  m.impl("mala_test_cpu_", TORCH_BOX((&fastlangevin::mala_test<double, int64_t>)));
  m.impl("hmc_test_cpu_", TORCH_BOX((&fastlangevin::hmc_test<double, int64_t>)));
  m.impl("velocity_move_cpu_.tensor", TORCH_BOX((&fastlangevin::move<Tensor, Tensor>)));
  m.impl("mala_test_cpu_.tensor", TORCH_BOX((&fastlangevin::mala_test<Tensor, Tensor>)));
  m.impl("hmc_test_cpu_.tensor", TORCH_BOX((&fastlangevin::hmc_test<Tensor, Tensor>)));
}
