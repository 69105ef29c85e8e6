// The threads of the moves' CUDA kernels, run one after another on a host: test_move_threads.py calls these through
// ctypes.
#include "cuda/move_threads.h"

using namespace fastlangevin;

namespace {

// Numbers as a kernel has them by value, or in memory.
struct Numbers {
  const double* floats;
  const int64_t* key;
  bool on_device;

  Number<double> number(int i) const {
    return on_device ? Number<double>{0, floats + i} : Number<double>{floats[i], nullptr};
  }
  Number<int64_t> count(int i) const {
    return on_device ? Number<int64_t>{0, key + i} : Number<int64_t>{key[i], nullptr};
  }
};

template <class T>
void run(const MoveWork<T>& work) {
  const int64_t n = (n_threads(work) + 255) / 256 * 256;  // a launch's last block goes beyond the work
  for (int64_t t = 0; t < n; ++t) is_packed(work) ? move_packed(work, t) : move_group(work, t);
}

template <bool is_trajectory, class T>
void run(const TestWork<T>& work) {
  const auto all = [](auto part) {
    for (int thread = 0; thread < test_threads; ++thread) part(thread);
  };
  for (int64_t block = 0; block < n_threads(work) / test_threads; ++block) {
    TestBlock shared;
    all([&](int thread) { add_lanes<is_trajectory>(work, block, thread, shared); });
    for (int half = work.width / 2; half > 0; half /= 2) {
      all([&](int thread) { add_half(work.width, half, thread, shared); });
    }
    all([&](int thread) { decide<is_trajectory>(work, block, thread, shared); });
    all([&](int thread) { take(work, block, thread, shared); });
  }
}

template <class T>
Masses<typename ComputeType<T>::type> masses_of(const void* const* factors, int64_t period) {
  using Compute = typename ComputeType<T>::type;
  return {static_cast<const Compute*>(factors[0]), static_cast<const Compute*>(factors[1]),
          static_cast<const Compute*>(factors[2]), period};
}

template <class T>
bool move(void* x, void* v, const void* score, const void* const* factors, int64_t period, int64_t n,
          const Numbers& numbers, uint32_t stream, uint64_t offset, bool draws, int64_t n_kicks, bool has_decay) {
  MoveWork<T> work{};
  work.x = static_cast<T*>(x);
  work.v = static_cast<typename ComputeType<T>::type*>(v);
  work.score = static_cast<const T*>(score);
  work.masses = masses_of<T>(factors, period);
  work.n = n;
  work.offset = offset;
  work.key = {numbers.count(0), numbers.count(1), stream};
  work.kick = numbers.number(0), work.drift = numbers.number(1);
  work.decay = numbers.number(2), work.noise_std = numbers.number(3);
  work.n_kicks = n_kicks;
  work.draws = draws, work.has_decay = has_decay;
  run(work);
  return is_packed(work);
}

template <class T>
void test(void* const* states, double* const* energies, int64_t* const* counts, const void* v,
          const void* const* factors, int64_t period, int64_t n_chains, int64_t n, const Numbers& numbers,
          const double* bounds, const uint32_t* streams, uint64_t offset, uint64_t first_chain) {
  TestWork<T> work{};
  work.x = static_cast<T*>(states[0]), work.score = static_cast<T*>(states[1]);
  work.y = static_cast<const T*>(states[2]), work.new_score = static_cast<const T*>(states[3]);
  work.memory = {energies[0], energies[1], counts[0], counts[1]};
  work.new_energy = energies[2];
  work.v = static_cast<const typename ComputeType<T>::type*>(v);
  work.masses = masses_of<T>(factors, period);
  work.n_chains = n_chains, work.n = n;
  work.size = numbers.number(0), work.noise_std = numbers.number(1), work.temperature = numbers.number(2);
  work.lo = bounds[0], work.hi = bounds[1];
  work.key = {numbers.count(0), numbers.count(1), streams[0]};
  work.test_stream = streams[1];
  work.offset = offset, work.first_chain = first_chain;
  work.width = threads_of_chain(n);
  v ? run<true>(work) : run<false>(work);
}

}  // namespace

extern "C" {

bool move_on_host(int dtype, void* x, void* v, const void* score, const void* const* factors, int64_t period, int64_t n,
                  const double* floats, const int64_t* key, bool on_device, uint32_t stream, uint64_t offset,
                  bool draws, int64_t n_kicks, bool has_decay) {
  const auto function = dtype == 0 ? move<float> : dtype == 1 ? move<double> : dtype == 2 ? move<BFloat16> : move<Half>;
  return function(x, v, score, factors, period, n, {floats, key, on_device}, stream, offset, draws, n_kicks, has_decay);
}

void test_on_host(int dtype, void* const* states, double* const* energies, int64_t* const* counts, const void* v,
                  const void* const* factors, int64_t period, int64_t n_chains, int64_t n, const double* floats,
                  const int64_t* key, bool on_device, const double* bounds, const uint32_t* streams, uint64_t offset,
                  uint64_t first_chain) {
  const auto function = dtype == 0 ? test<float> : dtype == 1 ? test<double> : dtype == 2 ? test<BFloat16> : test<Half>;
  function(states, energies, counts, v, factors, period, n_chains, n, {floats, key, on_device}, bounds, streams, offset,
           first_chain);
}
}
