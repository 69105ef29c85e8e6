// The stages of a convnet whose outputs are the image's channels, which are few, over an arithmetic A. Internal
// linkage, as in kernels_impl.h.
//
// The lanes of a vector are words of the input, not channels of the output. Each lane of a sum adds up every
// A::width-th word of a window; then the lanes are added, those of four sums together. The order does not depend on
// what else is computed beside it.
#pragma once

#include <algorithm>

#include "convnet.h"
#include "products_impl.h"

namespace fastlangevin {
namespace {

constexpr int score_rows = 8;          // outputs of a block
constexpr int64_t score_channels = 3;  // of them computed together, at most

// What the rows of a block share: n_runs runs of `run` words, in_pitch apart in the input and weights_pitch in the
// weights, those of an output channel channel_pitch after those of the one before.
struct ScoreRuns {
  int64_t n_runs, run, in_pitch, weights_pitch, channel_pitch;
};

template <class A>
struct ScoreBlock {
  int64_t n;
  const typename A::word* in[score_rows];
  float* out[score_rows];  // of the first channel
};

// out[m][first + c * area] = row m's products with the weights of channel c.
template <class A, int rows, int channels>
__attribute__((noinline)) void multiply_channels(const ScoreRuns& runs, const typename A::word* const* in,
                                                 const typename A::word* weights, float* const* out, int64_t first,
                                                 int64_t area) {
  using word = typename A::word;
  typename A::f32 sum[channels][rows];
  const word* p[rows];
  FL_UNROLL
  for (int m = 0; m < rows; ++m) {
    p[m] = in[m];
    FL_UNROLL
    for (int c = 0; c < channels; ++c) sum[c][m] = A::broadcast(0.0f);
  }
  for (int64_t r = 0; r < runs.n_runs; ++r) {
    const word* w = weights + r * runs.weights_pitch;
    const int64_t begin = r * runs.in_pitch, end = begin + runs.run;
    for (int64_t k = begin; k < end; k += A::width, w += A::width) {
      typename A::words b[channels];
      FL_UNROLL
      for (int c = 0; c < channels; ++c) b[c] = A::load_words(w + c * runs.channel_pitch);
      FL_UNROLL
      for (int m = 0; m < rows; ++m) {
        const typename A::words a = A::load_words(p[m] + k);
        FL_UNROLL
        for (int c = 0; c < channels; ++c) sum[c][m] = A::multiply_add(a, b[c], sum[c][m]);
      }
    }
  }
  float sums[channels][rows];
  FL_UNROLL
  for (int c = 0; c < channels; ++c) {
    FL_UNROLL
    for (int m = 0; m < rows; m += 4)
      A::store_sums(sums[c] + m, sum[c][m], sum[c][m + 1], sum[c][m + 2], sum[c][m + 3]);
  }
  FL_UNROLL
  for (int m = 0; m < rows; ++m) {
    FL_UNROLL
    for (int c = 0; c < channels; ++c) out[m][first + c * area] = sums[c][m];
  }
}

// Of a block's rows, as many at a time as there are registers for their sums.
template <class A, int channels>
FL_INLINE void score_outputs(const ScoreBlock<A>& block, const ScoreRuns& runs, const typename A::word* weights,
                             int64_t first, int64_t area) {
  constexpr int rows = channels * score_rows <= A::rows * A::vectors ? score_rows : score_rows / 2;
  for (int64_t m = 0; m < block.n; m += rows) {
    multiply_channels<A, rows, channels>(runs, block.in + m, weights, block.out + m, first, area);
  }
}

// What is left of a block is filled with its first output, which is then computed several times.
template <class A>
FL_INLINE void score_block(const Tower& tower, ScoreBlock<A>& block, const ScoreRuns& runs,
                           const typename A::word* weights) {
  for (int64_t m = block.n; m < score_rows; ++m) block.in[m] = block.in[0], block.out[m] = block.out[0];
  const int64_t area = tower.height * tower.width;
  for (int64_t c = 0, n; c < tower.channels; c += n) {
    const int64_t left = tower.channels - c;
    n = left == 4 ? 2 : std::min(left, score_channels);
    const typename A::word* const from = weights + c * runs.channel_pitch;
    if (n == 3) {
      score_outputs<A, 3>(block, runs, from, c * area, area);
    } else if (n == 2) {
      score_outputs<A, 2>(block, runs, from, c * area, area);
    } else {
      score_outputs<A, 1>(block, runs, from, c * area, area);
    }
  }
  block.n = 0;
}

// The outputs in the order sample, y, x, so that inputs are read again while they lie in the nearest cache.
template <class A>
FL_INLINE void score_patch(const Tower& tower, const Stage& stage, const Patch& patch, const typename A::word* weights,
                           const typename A::word* scratch, int64_t n_samples, float* score) {
  const int64_t in_step = stage.x.step * stage.in_words, window = stage.x.window * stage.in_words;
  const ScoreRuns runs{patch.y.n, patch.x.n * stage.in_words, stage.in_width * stage.in_words, window,
                       stage.y.window * window};
  const typename A::word* const clipped = weights + patch.y.from * window + patch.x.from * stage.in_words;
  ScoreBlock<A> block{};
  for (int64_t sample = 0; sample < n_samples; ++sample) {
    for (int64_t y = patch.y0; y < patch.y1; ++y) {
      const int64_t in_y = stage.y.first + y * stage.y.step + patch.y.from;
      const int64_t in_x = stage.x.first + patch.x0 * stage.x.step + patch.x.from;
      const int64_t out_y = stage.y.out_first + y * stage.y.out_step;
      const int64_t out_x = stage.x.out_first + patch.x0 * stage.x.out_step;
      const typename A::word* in =
          scratch + sample * tower.sample_words + stage.in + (in_y * stage.in_width + in_x) * stage.in_words;
      float* out = score + sample * tower.channels * tower.height * tower.width + out_y * stage.out_width + out_x;
      for (int64_t x = patch.x0; x < patch.x1; ++x, in += in_step, out += stage.x.out_step) {
        block.in[block.n] = in, block.out[block.n] = out;
        if (++block.n == score_rows) score_block<A>(tower, block, runs, clipped);
      }
    }
  }
  if (block.n > 0) score_block<A>(tower, block, runs, clipped);
}

// `weights`: (channel, window y, window x, input word).
template <class A>
void run_score(const Tower& tower, const Stage& stage, const typename A::word* weights, const typename A::word* scratch,
               int64_t n_samples, float* score) {
  each_patch(stage.y, stage.x,
             [&](const Patch& patch) { score_patch<A>(tower, stage, patch, weights, scratch, n_samples, score); });
}

}  // namespace
}  // namespace fastlangevin
