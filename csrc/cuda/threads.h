// What one thread of the CUDA kernels does. Plain C++, so that the tests run the very same code on a host.
#pragma once

#include "../small_floats.h"
#include "../update.h"
#include "layout.h"

namespace fastlangevin {

// A number by value, or where `at` is set in device memory: a captured graph reads what is there at each replay.
template <class T>
struct Number {
  T value;
  const T* at;

  FL_INLINE T get() const { return at ? *at : value; }
};

struct DeviceKey {
  Number<int64_t> seed, step;
  uint32_t stream;

  FL_INLINE NoiseKey get() const {
    return {static_cast<uint64_t>(seed.get()), static_cast<uint32_t>(step.get()), stream};
  }
};

template <class T>
struct UpdateWork {
  T* x;
  const T* score;
  int64_t n;
  uint64_t offset;  // the stream's index of the first element
  DeviceKey key;
  Number<double> step_size, noise_std;
  int64_t chain_size;  // elements of a chain; 0: step_size and noise_std are the same for all elements
  bool step_size_per_chain, noise_std_per_chain;  // in memory, one for each chain
  double grad_clip, lo, hi;                       // infinities where there is no such limit
  Layout layout;
};

struct FillWork {
  float* out;
  int64_t n;
  uint64_t offset;
  DeviceKey key;
};

// 16 bytes of elements: one access of a thread.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

// Elements that a thread of the packed kernels handles: whole groups of four, and whole packs.
template <class T>
constexpr int per_thread = Pack<T>::size < 4 ? 4 : Pack<T>::size;

template <class T>
FL_INLINE UpdateParams<typename ComputeType<T>::type> params(const UpdateWork<T>& work) {
  using Compute = typename ComputeType<T>::type;
  return {static_cast<Compute>(work.step_size.get()), static_cast<Compute>(work.noise_std.get()),
          static_cast<Compute>(work.grad_clip), static_cast<Compute>(work.lo), static_cast<Compute>(work.hi)};
}

// Sets the numbers of the chain that an element belongs to.
template <class T, class P>
FL_INLINE void read_chain(const UpdateWork<T>& work, int64_t index, P& p) {
  using Compute = typename ComputeType<T>::type;
  const int64_t chain = work.n <= INT32_MAX ? static_cast<uint32_t>(index) / static_cast<uint32_t>(work.chain_size)
                                            : index / work.chain_size;
  if (work.step_size_per_chain) p.step_size = static_cast<Compute>(work.step_size.at[chain]);
  if (work.noise_std_per_chain) p.noise_std = static_cast<Compute>(work.noise_std.at[chain]);
}

template <bool uniform>
FL_INLINE void group_deviates(const NoiseKey& key, uint64_t group, float (&z)[4]) {
  uint32_t r[4];
  noise_words<ScalarArithmetic>(key, group, r);
  if constexpr (uniform) {
    uniforms<ScalarArithmetic>(r, z);
  } else {
    normals<ScalarArithmetic>(r, z);
  }
}

template <bool has_score, bool has_noise, class T, class P>
FL_INLINE void update_element(const P& p, T& x, T score, float z) {
  using Compute = typename ComputeType<T>::type;
  const Compute s = has_score ? widen(score) : Compute(0);
  narrow(langevin_update<has_score, has_noise, true>(p, widen(x), s, static_cast<Compute>(z)), x);
}

// Thread t of the packed kernel: dense, 16-byte aligned x and score, offset a multiple of four.
template <bool has_score, bool has_noise, class T>
FL_INLINE void update_packed(const UpdateWork<T>& work, int64_t t) {
  constexpr int n_elements = per_thread<T>, n_packs = n_elements / Pack<T>::size;
  const int64_t first = t * n_elements;
  if (first >= work.n) return;
  const bool whole = first + n_elements <= work.n;
  const int count = whole ? n_elements : static_cast<int>(work.n - first);
  Pack<T> x[n_packs], score[n_packs];
  if (whole) {
    FL_UNROLL
    for (int i = 0; i < n_packs; ++i) x[i] = reinterpret_cast<const Pack<T>*>(work.x + first)[i];
    if constexpr (has_score) {
      FL_UNROLL
      for (int i = 0; i < n_packs; ++i) score[i] = reinterpret_cast<const Pack<T>*>(work.score + first)[i];
    }
  } else {
    FL_UNROLL
    for (int i = 0; i < n_elements; ++i) {
      x[i / Pack<T>::size].at[i % Pack<T>::size] = i < count ? work.x[first + i] : T{};
      if constexpr (has_score) {
        score[i / Pack<T>::size].at[i % Pack<T>::size] = i < count ? work.score[first + i] : T{};
      }
    }
  }
  const auto p = params(work);
  const NoiseKey key = work.key.get();
  FL_UNROLL
  for (int group = 0; group < n_elements / 4; ++group) {
    float z[4] = {};
    if constexpr (has_noise) group_deviates<false>(key, (work.offset + first) / 4 + group, z);
    FL_UNROLL
    for (int lane = 0; lane < 4; ++lane) {
      const int i = 4 * group + lane;
      T& element = x[i / Pack<T>::size].at[i % Pack<T>::size];
      update_element<has_score, has_noise>(p, element, score[i / Pack<T>::size].at[i % Pack<T>::size], z[lane]);
    }
  }
  if (whole) {
    FL_UNROLL
    for (int i = 0; i < n_packs; ++i) reinterpret_cast<Pack<T>*>(work.x + first)[i] = x[i];
  } else {
    FL_UNROLL
    for (int i = 0; i < n_elements; ++i) {
      if (i < count) work.x[first + i] = x[i / Pack<T>::size].at[i % Pack<T>::size];
    }
  }
}

// Thread t of the general kernel: group t, counted from the one that holds the first element.
template <bool has_score, bool has_noise, bool per_chain = false, class T>
FL_INLINE void update_group(const UpdateWork<T>& work, int64_t t) {
  const int skip = static_cast<int>(work.offset % 4);  // lanes of the first group that lie before x
  const int64_t first = 4 * t - skip;
  if (first >= work.n) return;
  auto p = params(work);
  float z[4] = {};
  if constexpr (has_noise) group_deviates<false>(work.key.get(), work.offset / 4 + static_cast<uint64_t>(t), z);
  FL_UNROLL
  for (int lane = 0; lane < 4; ++lane) {
    const int64_t index = first + lane;
    if (index < 0 || index >= work.n) continue;
    int64_t x_at = index, score_at = index;
    if (!work.layout.dense) {
      if (work.n <= INT32_MAX) {
        locate(work.layout, static_cast<uint32_t>(index), x_at, score_at);
      } else {
        locate(work.layout, static_cast<uint64_t>(index), x_at, score_at);
      }
    }
    if constexpr (per_chain) read_chain(work, index, p);
    update_element<has_score, has_noise>(p, work.x[x_at], has_score ? work.score[score_at] : T{}, z[lane]);
  }
}

// Thread t of filling: group t, counted from the one that holds the first element.
template <bool uniform>
FL_INLINE void fill_group(const FillWork& work, int64_t t) {
  const int skip = static_cast<int>(work.offset % 4);
  const int64_t first = 4 * t - skip;
  if (first >= work.n) return;
  float z[4];
  group_deviates<uniform>(work.key.get(), work.offset / 4 + static_cast<uint64_t>(t), z);
  if (skip == 0 && first + 4 <= work.n && reinterpret_cast<uintptr_t>(work.out) % 16 == 0) {
    *reinterpret_cast<Pack<float>*>(work.out + first) = {{z[0], z[1], z[2], z[3]}};
    return;
  }
  FL_UNROLL
  for (int lane = 0; lane < 4; ++lane) {
    const int64_t index = first + lane;
    if (index >= 0 && index < work.n) work.out[index] = z[lane];
  }
}

// Whether the packed kernel may be used.
template <class T>
inline bool is_packed(const UpdateWork<T>& work) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  return work.chain_size == 0 && work.layout.dense && work.offset % 4 == 0 && aligned(work.x) &&
         (!work.score || aligned(work.score));
}

// How many threads the work needs.
template <class T>
inline int64_t n_threads(const UpdateWork<T>& work) {
  if (is_packed(work)) return (work.n + per_thread<T> - 1) / per_thread<T>;
  return (work.n + static_cast<int64_t>(work.offset % 4) + 3) / 4;
}

inline int64_t n_threads(const FillWork& work) { return (work.n + static_cast<int64_t>(work.offset % 4) + 3) / 4; }

}  // namespace fastlangevin
