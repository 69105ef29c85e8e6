// What one thread of the moves' CUDA kernels does, as in threads.h; of a Metropolis test what it does between two
// points at which all threads of its block wait for one another.
#pragma once

#include "../moves.h"
#include "threads.h"

namespace fastlangevin {

// m, 1 / m and 1 / sqrt(m) of a state's elements, `period` of each, which repeat; null where all masses are 1.
template <class T>
struct Masses {
  const T *masses, *weights, *roots;
  int64_t period;
};

template <class T>
struct MoveWork {
  using Compute = typename ComputeType<T>::type;
  T* x;
  Compute* v;
  const T* score;  // null if n_kicks is 0
  Masses<Compute> masses;
  int64_t n;
  uint64_t offset;  // the stream's index of the first element
  DeviceKey key;
  Number<double> kick, drift, decay, noise_std;
  int64_t n_kicks;  // 0, 1 or 2
  bool draws, has_decay;
};

template <class T>
FL_INLINE MoveParams<typename ComputeType<T>::type> params(const MoveWork<T>& work) {
  using Compute = typename ComputeType<T>::type;
  return {static_cast<Compute>(work.kick.get()), static_cast<Compute>(work.drift.get()),
          static_cast<Compute>(work.decay.get()), static_cast<Compute>(work.noise_std.get())};
}

// The place of element `index` of n among factors that repeat.
FL_INLINE int64_t repeating(int64_t index, int64_t n, int64_t period) {
  return n <= INT32_MAX ? static_cast<uint32_t>(index) % static_cast<uint32_t>(period) : index % period;
}

template <class T>
FL_INLINE T scaled(T number, const T* factors, int64_t at) {
  return factors ? number * factors[at] : number;
}

template <class T, class Compute>
FL_INLINE void move_element(const MoveWork<T>& work, MoveParams<Compute> p, int64_t index, T score, float z, T& x,
                            Compute& v) {
  if (work.masses.period) {
    const int64_t at = repeating(index, work.n, work.masses.period);
    p.kick = scaled(p.kick, work.masses.weights, at);
    p.noise_std = scaled(p.noise_std, work.masses.roots, at);
  }
  Compute wide = widen(x);
  velocity_move(p, work.draws, work.n_kicks, work.has_decay, static_cast<Compute>(widen(score)),
                static_cast<Compute>(z), wide, v);
  narrow(wide, x);
}

// The first `count` of n elements, 16 bytes at a time if that is all of them.
template <int n, class T>
FL_INLINE void read(const T* from, int count, T (&to)[n]) {
  if (count == n) {
    FL_UNROLL
    for (int i = 0; i < n / Pack<T>::size; ++i) {
      const Pack<T> pack = reinterpret_cast<const Pack<T>*>(from)[i];
      FL_UNROLL
      for (int j = 0; j < Pack<T>::size; ++j) to[i * Pack<T>::size + j] = pack.at[j];
    }
  } else {
    FL_UNROLL
    for (int i = 0; i < n; ++i) to[i] = i < count ? from[i] : T{};
  }
}

template <int n, class T>
FL_INLINE void write(const T (&from)[n], int count, T* to) {
  if (count == n) {
    FL_UNROLL
    for (int i = 0; i < n / Pack<T>::size; ++i) {
      Pack<T> pack;
      FL_UNROLL
      for (int j = 0; j < Pack<T>::size; ++j) pack.at[j] = from[i * Pack<T>::size + j];
      reinterpret_cast<Pack<T>*>(to)[i] = pack;
    }
  } else {
    FL_UNROLL
    for (int i = 0; i < n; ++i) {
      if (i < count) to[i] = from[i];
    }
  }
}

// Thread t of the packed kernel: 16-byte aligned x, v and score, offset a multiple of four.
template <class T>
FL_INLINE void move_packed(const MoveWork<T>& work, int64_t t) {
  constexpr int n_elements = per_thread<T>;
  const int64_t first = t * n_elements;
  if (first >= work.n) return;
  const int count = first + n_elements <= work.n ? n_elements : static_cast<int>(work.n - first);
  T x[n_elements], score[n_elements] = {};
  typename ComputeType<T>::type v[n_elements] = {};
  read(work.x + first, count, x);
  if (!work.draws) read(work.v + first, count, v);
  if (work.score) read(work.score + first, count, score);
  const auto p = params(work);
  const NoiseKey key = work.key.get();
  FL_UNROLL
  for (int group = 0; group < n_elements / 4; ++group) {
    float z[4] = {};
    if (work.draws || work.has_decay) group_deviates<false>(key, (work.offset + first) / 4 + group, z);
    FL_UNROLL
    for (int lane = 0; lane < 4; ++lane) {
      const int i = 4 * group + lane;
      move_element(work, p, first + i, score[i], z[lane], x[i], v[i]);
    }
  }
  write(x, count, work.x + first);
  write(v, count, work.v + first);
}

// Thread t of the general kernel: group t, counted from the one that holds the first element.
template <class T>
FL_INLINE void move_group(const MoveWork<T>& work, int64_t t) {
  const int skip = static_cast<int>(work.offset % 4);  // lanes of the first group that lie before x
  const int64_t first = 4 * t - skip;
  if (first >= work.n) return;
  const auto p = params(work);
  float z[4] = {};
  if (work.draws || work.has_decay) {
    group_deviates<false>(work.key.get(), work.offset / 4 + static_cast<uint64_t>(t), z);
  }
  FL_UNROLL
  for (int lane = 0; lane < 4; ++lane) {
    const int64_t index = first + lane;
    if (index < 0 || index >= work.n) continue;
    move_element(work, p, index, work.score ? work.score[index] : T{}, z[lane], work.x[index], work.v[index]);
  }
}

template <class T>
inline bool is_packed(const MoveWork<T>& work) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  return work.offset % 4 == 0 && aligned(work.x) && aligned(work.v) && aligned(work.score);
}

template <class T>
inline int64_t n_threads(const MoveWork<T>& work) {
  if (is_packed(work)) return (work.n + per_thread<T> - 1) / per_thread<T>;
  return (work.n + static_cast<int64_t>(work.offset % 4) + 3) / 4;
}

// The Metropolis test of chains of n elements. A chain has `width` consecutive threads of a block, and each of them
// lanes_per_thread lanes of the sum: so many apart that halves of the lanes are first added within threads.
template <class T>
struct TestWork {
  using Compute = typename ComputeType<T>::type;
  T *x, *score;
  ChainMemory memory;
  const T *y, *new_score;
  const double* new_energy;
  const Compute* v;  // null for Langevin proposals
  Masses<Compute> masses;
  int64_t n_chains, n;
  Number<double> size;  // a Langevin proposal's step size, a trajectory's kick
  Number<double> noise_std, temperature;
  double lo, hi;
  DeviceKey key;  // of the velocities; tests differ in the stream
  uint64_t offset;
  uint32_t test_stream;
  uint64_t first_chain;
  int width;
};

constexpr int test_threads = 256, lanes_per_thread = 4;
static_assert(test_threads * lanes_per_thread == most_lanes, "a long chain has all threads of a block");

inline int threads_of_chain(int64_t n) {
  return static_cast<int>((sum_lanes(n) + lanes_per_thread - 1) / lanes_per_thread);
}

template <class T>
inline int64_t n_threads(const TestWork<T>& work) {
  const int64_t together = test_threads / work.width;
  return (work.n_chains + together - 1) / together * test_threads;
}

// What the threads of a block share: of each one its part of the sum, and whether its part of the proposal is inside of
// the bounds; in the end of a chain's first thread whether it is accepted.
struct TestBlock {
  double sums[test_threads];
  bool flags[test_threads];
};

template <class T>
FL_INLINE int64_t chain_of(const TestWork<T>& work, int64_t block, int thread) {
  return block * (test_threads / work.width) + thread / work.width;
}

// The stream's deviate of one element.
template <bool uniform>
FL_INLINE float deviate(const NoiseKey& key, uint64_t element) {
  const bool odd = element & 1, later = element & 2;
  uint32_t r[4];
  noise_words<ScalarArithmetic>(key, element / 4, r);
  const uint32_t a = later ? r[2] : r[0], b = later ? r[3] : r[1];
  if constexpr (uniform) {
    const uint32_t words[4] = {odd ? b : a};
    float u[4];
    uniforms<ScalarArithmetic>(words, u);
    return u[0];
  } else {
    float even, next;
    box_muller<ScalarArithmetic>(a, b, even, next);
    return odd ? next : even;
  }
}

// The term of element i of a chain.
template <bool is_trajectory, class T, class Compute>
FL_INLINE Compute term(const TestWork<T>& work, const NoiseKey& key, Compute size, Compute noise_std, int64_t index,
                       Compute y) {
  const Compute new_score = widen(work.new_score[index]);
  if constexpr (is_trajectory) {
    Compute half_mass = Compute(0.5);
    if (work.masses.period) {
      const int64_t at = repeating(index, work.n_chains * work.n, work.masses.period);
      half_mass = scaled(half_mass, work.masses.masses, at);
      size = scaled(size, work.masses.weights, at);
      noise_std = scaled(noise_std, work.masses.roots, at);
    }
    const Compute z = static_cast<Compute>(deviate<false>(key, work.offset + static_cast<uint64_t>(index)));
    return hmc_term(size, noise_std, half_mass, work.v[index], new_score, z);
  } else {
    const Compute x = widen(work.x[index]), score = widen(work.score[index]);
    return mala_term(size * Compute(0.5), x, y, score, new_score);
  }
}

// First a thread adds up its lanes,
template <bool is_trajectory, class T>
FL_INLINE void add_lanes(const TestWork<T>& work, int64_t block, int thread, TestBlock& shared) {
  using Compute = typename ComputeType<T>::type;
  const int64_t chain = chain_of(work, block, thread);
  double sums[lanes_per_thread] = {};
  bool inside = true;
  if (chain < work.n_chains) {
    const Compute size = static_cast<Compute>(work.size.get()), noise_std = static_cast<Compute>(work.noise_std.get());
    const NoiseKey key = work.key.get();
    T low, high;  // limits in the type of the states
    narrow(static_cast<Compute>(work.lo), low);
    narrow(static_cast<Compute>(work.hi), high);
    const Compute lo = widen(low), hi = widen(high);
    for (int64_t row = thread % work.width; row < work.n; row += lanes_per_thread * work.width) {
      FL_UNROLL
      for (int lane = 0; lane < lanes_per_thread; ++lane) {
        const int64_t element = row + lane * work.width;
        if (element >= work.n) continue;
        const int64_t index = chain * work.n + element;
        const Compute y = widen(work.y[index]);
        inside = inside && is_inside(y, lo, hi);
        sums[lane] += static_cast<double>(term<is_trajectory>(work, key, size, noise_std, index, y));
      }
    }
  }
  shared.sums[thread] = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  shared.flags[thread] = inside;
}

// then the threads of each chain add halves, for half = width / 2, width / 4, … 1,
FL_INLINE void add_half(int width, int half, int thread, TestBlock& shared) {
  if (thread % width >= half) return;
  shared.sums[thread] += shared.sums[thread + half];
  shared.flags[thread] = shared.flags[thread] && shared.flags[thread + half];
}

// then the first one tests the chain,
template <bool is_trajectory, class T>
FL_INLINE void decide(const TestWork<T>& work, int64_t block, int thread, TestBlock& shared) {
  const int64_t chain = chain_of(work, block, thread);
  if (thread % work.width != 0 || chain >= work.n_chains) return;
  const double sum = shared.sums[thread], factor = is_trajectory ? 1.0 : 0.5;
  NoiseKey key = work.key.get();
  key.stream = work.test_stream;
  const float u = deviate<true>(key, work.first_chain + static_cast<uint64_t>(chain));
  shared.flags[thread] = metropolis(work.memory, chain, work.new_energy[chain], factor * sum, work.temperature.get(),
                                    shared.flags[thread], u);
}

// and all copy a proposal that is accepted.
template <class T>
FL_INLINE void take(const TestWork<T>& work, int64_t block, int thread, const TestBlock& shared) {
  const int64_t chain = chain_of(work, block, thread);
  const int place = thread % work.width;
  if (chain >= work.n_chains || !shared.flags[thread - place]) return;
  for (int64_t element = place; element < work.n; element += work.width) {
    const int64_t index = chain * work.n + element;
    work.x[index] = work.y[index];
    work.score[index] = work.new_score[index];
  }
}

}  // namespace fastlangevin
