// The steps of a block of chains, whatever their energy.
#pragma once

#include "../update.h"
#include "chain.h"
#include "kernels_impl.h"
#include "transpose_impl.h"
#include "vectors.h"

namespace fastlangevin {
namespace {

// x, score and z hold n elements in one order of the caller's choice. draw(key) fills z, evaluate() fills score from x.
template <class Draw, class Evaluate>
FL_INLINE void run_steps(const ChainArgs& args, int64_t n, float* x, float* score, const float* z, const Draw& draw,
                         const Evaluate& evaluate) {
  const bool noise_first = args.noise_first != NoiseFirst::no, has_noise = args.has_noise || noise_first;
  UpdateArgs noise_alone{}, move{};
  noise_alone.has_noise = true;
  noise_alone.has_limits = args.noise_first == NoiseFirst::clamp;
  move.has_score = true;
  move.has_noise = has_noise && !noise_first;
  move.has_limits = args.has_clip || args.has_bounds;
  for (int64_t k = 0; k < args.n_steps; ++k) {
    const UpdateParams<float> p{static_cast<float>(args.step_sizes[k]), static_cast<float>(args.noise_stds[k]),
                                static_cast<float>(args.grad_clip), static_cast<float>(args.lo),
                                static_cast<float>(args.hi)};
    if (has_noise) draw(NoiseKey{args.seed, args.step + static_cast<uint32_t>(k), 0});
    if (noise_first) apply<float>(noise_alone, p, z, score, x, n);
    evaluate();
    apply<float>(move, p, z, score, x, n);
  }
}

// in (n, dimension) to out (dimension, block): each element beside its like of the other chains.
template <int64_t block>
FL_INLINE void spread(const float* in, int64_t n, int64_t dimension, float* out) {
  if (dimension == 2) {
    for (int64_t c = 0; c < n; ++c) out[c] = in[2 * c], out[block + c] = in[2 * c + 1];
    return;
  }
  transpose(in, dimension, n, dimension, out, block);
}

template <int64_t block>
FL_INLINE void gather(const float* in, int64_t n, int64_t dimension, float* out) {
  transpose(in, block, dimension, n, out, dimension);
}

constexpr int64_t spread_arrays = 4;  // of run_spread's scratch, each of dimension * block floats

// Runs n chains, block of them at a time, with x as (dimension, block): begin(c, m) before the m chains from number c
// on, evaluate(x, score) at each step. The unused chains of a block that is not full are zeros or what has been there.
template <class A, int64_t block, class Begin, class Evaluate>
FL_INLINE void run_spread(const ChainArgs& args, int64_t dimension, int64_t first, int64_t n, float* chains,
                          float* scratch, const Begin& begin, const Evaluate& evaluate) {
  const int64_t size = dimension * block;
  float *const x = scratch, *const score = x + size, *const z = score + size, *const drawn = z + size;
  std::fill(x, x + size, 0.0f);
  std::fill(z, z + size, 0.0f);
  for (; n > 0; n -= block, first += block, chains += size) {
    const int64_t m = std::min(n, block);
    const uint64_t index = args.offset + static_cast<uint64_t>(first * dimension);
    begin(first, m);
    spread<block>(chains, m, dimension, x);
    const auto draw = [&](const NoiseKey& key) {
      fill<A, false>(key, index, m * dimension, drawn);
      spread<block>(drawn, m, dimension, z);
    };
    run_steps(args, size, x, score, z, draw, [&] { evaluate(x, score); });
    gather<block>(x, m, dimension, chains);
  }
}

}  // namespace
}  // namespace fastlangevin
