// The convnet's kernel over an arithmetic A. Internal linkage throughout, as in kernels_impl.h.
//
// Each output is one chain of multiply-adds in the order of its window, whatever else is computed beside it: a sample's
// score does not depend on its batch.
#pragma once

#include <algorithm>

#include "convnet.h"
#include "small_floats.h"

namespace fastlangevin {
namespace {

// The part of a window that lies inside the input.
struct Clip {
  int64_t from, n;

  bool operator==(const Clip& other) const { return from == other.from && n == other.n; }
};

FL_INLINE Clip clip(const Axis& axis, int64_t i) {
  const int64_t start = axis.first + i * axis.step;
  const int64_t from = std::max<int64_t>(0, -start), to = std::min(axis.window, axis.extent - start);
  return to > from ? Clip{from, to - from} : Clip{0, 0};
}

// The end of the outputs from i on whose windows are clipped as that of i.
FL_INLINE int64_t clip_end(const Axis& axis, int64_t i) {
  const Clip c = clip(axis, i);
  while (++i < axis.count && clip(axis, i) == c) {
  }
  return i;
}

// What the rows of a block share: n_runs runs of `run` words, run_pitch apart in the input.
struct Runs {
  int64_t n_runs, run, run_pitch, weights_pitch, tile;
};

template <class A>
struct Rows {
  const typename A::word* in[A::rows];
  int64_t sample[A::rows], y[A::rows], x[A::rows];
};

template <class A, int rows, int vectors>
__attribute__((noinline)) void multiply_block(const Runs& runs, const typename A::word* const* in,
                                              const typename A::word* weights, const float* start, float* sums) {
  using word = typename A::word;
  typename A::f32 sum[rows][vectors];
  FL_UNROLL
  for (int m = 0; m < rows; ++m) {
    FL_UNROLL
    for (int v = 0; v < vectors; ++v) sum[m][v] = A::load(start + v * A::width);
  }
  const int64_t tile = runs.tile, run = runs.run;
  for (int64_t r = 0; r < runs.n_runs; ++r) {
    const word* p[rows];
    FL_UNROLL
    for (int m = 0; m < rows; ++m) p[m] = in[m] + r * runs.run_pitch;
    const word* w = weights + r * runs.weights_pitch;
    for (int64_t k = 0; k < run; ++k, w += tile) {
      typename A::words b[vectors];
      FL_UNROLL
      for (int v = 0; v < vectors; ++v) b[v] = A::load_words(w + v * A::width);
      FL_UNROLL
      for (int m = 0; m < rows; ++m) {
        const typename A::words a = A::broadcast_word(p[m] + k);
        FL_UNROLL
        for (int v = 0; v < vectors; ++v) sum[m][v] = A::multiply_add(a, b[v], sum[m][v]);
      }
    }
  }
  FL_UNROLL
  for (int m = 0; m < rows; ++m) {
    FL_UNROLL
    for (int v = 0; v < vectors; ++v) A::store(sums + m * max_tile + v * A::width, sum[m][v]);
  }
}

template <class A, int vectors, int rows = A::rows>
FL_INLINE void multiply_rows(int64_t n_rows, const Runs& runs, const typename A::word* const* in,
                             const typename A::word* weights, const float* start, float* sums) {
  if constexpr (rows > 1) {
    if (n_rows < rows) return multiply_rows<A, vectors, rows - 1>(n_rows, runs, in, weights, start, sums);
  }
  multiply_block<A, rows, vectors>(runs, in, weights, start, sums);
}

// sums[m][0, tile) = start + the products of row m's runs with the weights.
template <class A>
void multiply(int64_t n_rows, const Runs& runs, const typename A::word* const* in, const typename A::word* weights,
              const float* start, float* sums) {
  constexpr int64_t widest = A::vectors * A::width;
  for (int64_t c = 0; c < runs.tile; c += widest) {
    if (A::vectors == 1 || runs.tile - c >= widest) {
      multiply_rows<A, A::vectors>(n_rows, runs, in, weights + c, start + c, sums + c);
    } else if (runs.tile - c == 2 * A::width) {
      multiply_rows<A, 2>(n_rows, runs, in, weights + c, start + c, sums + c);
    } else {
      multiply_rows<A, 1>(n_rows, runs, in, weights + c, start + c, sums + c);
    }
  }
}

template <class A>
FL_INLINE void finish_row(const Stage& stage, int64_t tile, const float* sums, const float* last,
                          typename A::word* out) {
  const typename A::f32 slope = A::broadcast(stage.slope);
  const auto scaled = [&](typename A::f32 sign_of, typename A::f32 value) {
    return A::where_positive(sign_of, value, A::mul(slope, value));
  };
  for (int64_t c = 0; c < tile; c += A::width) {
    const typename A::f32 sum = A::load(sums + c);
    typename A::word* const to = out + c / A::channels_a_word;
    if (stage.finish == Finish::activate) {
      A::narrow(to, scaled(sum, sum));
    } else if (stage.finish == Finish::turn) {
      A::narrow(to, scaled(sum, A::load(last + c)));
    } else {
      A::narrow(to, scaled(A::widen(to), sum));
    }
  }
}

FL_INLINE void scatter_row(const Tower& tower, int64_t y, int64_t x, const Column* column, int64_t n, const float* sums,
                           float* image) {
  float* const origin = image + y * tower.width + x;
  for (int64_t c = 0; c < n; ++c) {
    const bool inside = static_cast<uint64_t>(y + column[c].y) < static_cast<uint64_t>(tower.height) &&
                        static_cast<uint64_t>(x + column[c].x) < static_cast<uint64_t>(tower.width);
    if (inside) origin[column[c].offset] += sums[c];
  }
}

// One tile of output channels of n samples.
template <class A>
void run_tile(const Tower& tower, const Stage& stage, int64_t channel, int64_t tile, const typename A::word* weights,
              const float* start, const float* last, int64_t n, typename A::word* scratch, float* score) {
  alignas(64) float sums[A::rows * max_tile];
  Rows<A> rows;
  const int64_t out_words = stage.out_channels / A::channels_a_word;
  const int64_t image_size = tower.channels * tower.height * tower.width;
  for (int64_t y0 = 0, y1; y0 < stage.y.count; y0 = y1) {
    y1 = clip_end(stage.y, y0);
    const Clip clip_y = clip(stage.y, y0);
    for (int64_t x0 = 0, x1; x0 < stage.x.count; x0 = x1) {
      x1 = clip_end(stage.x, x0);
      const Clip clip_x = clip(stage.x, x0);
      const Runs runs{clip_y.n, clip_x.n * stage.in_words, stage.in_width * stage.in_words,
                      stage.x.window * stage.in_words * tile, tile};
      const typename A::word* const w =
          weights + (clip_y.from * stage.x.window + clip_x.from) * stage.in_words * tile;
      const int64_t total = (y1 - y0) * (x1 - x0) * n, n_blocks = (total + A::rows - 1) / A::rows;
      int64_t y = y0, x = x0, sample = 0;
      for (int64_t block = 0; block < n_blocks; ++block) {
        const int64_t n_rows = (block + 1) * total / n_blocks - block * total / n_blocks;
        for (int64_t m = 0; m < n_rows; ++m) {
          const int64_t in_y = stage.y.first + y * stage.y.step + clip_y.from;
          const int64_t in_x = stage.x.first + x * stage.x.step + clip_x.from;
          rows.in[m] =
              scratch + sample * tower.sample_words + stage.in + (in_y * stage.in_width + in_x) * stage.in_words;
          rows.sample[m] = sample;
          rows.y[m] = stage.y.out_first + y * stage.y.out_step;
          rows.x[m] = stage.x.out_first + x * stage.x.out_step;
          if (++sample == n) {
            sample = 0;
            if (++x == x1) x = x0, ++y;
          }
        }
        multiply<A>(n_rows, runs, rows.in, w, start, sums);
        for (int64_t m = 0; m < n_rows; ++m) {
          const float* const row_sums = sums + m * max_tile;
          if (stage.finish == Finish::scatter) {
            scatter_row(tower, rows.y[m], rows.x[m], tower.columns + channel, std::min(tile, tower.n_columns - channel),
                        row_sums, score + rows.sample[m] * image_size);
          } else {
            const int64_t pixel = rows.y[m] * stage.out_width + rows.x[m];
            finish_row<A>(stage, tile, row_sums, last + pixel * stage.out_channels,
                          scratch + rows.sample[m] * tower.sample_words + stage.out + pixel * out_words +
                              channel / A::channels_a_word);
          }
        }
      }
    }
  }
}

template <class A>
void convnet(const Tower& tower, const void* packed, const float* x, int64_t n, void* memory, float* score) {
  using word = typename A::word;
  const word* const words = static_cast<const word*>(packed);
  const float* const floats = static_cast<const float*>(packed);
  word* const scratch = static_cast<word*>(memory);
  const int64_t area = tower.height * tower.width;
  for (int64_t i = 0; i < n; ++i) {
    A::load_image(x + i * tower.channels * area, tower.channels, area, scratch + i * tower.sample_words);
  }
  std::fill(score, score + n * tower.channels * area, 0.0f);
  for (int64_t s = 0; s < tower.n_stages; ++s) {
    const Stage& stage = tower.stages[s];
    const word* weights = words + stage.weights;
    for (int64_t channel = 0, tile; channel < stage.out_channels; channel += tile) {
      tile = tile_width(stage.out_channels - channel);
      run_tile<A>(tower, stage, channel, tile, weights, floats + stage.start + channel, floats + tower.last + channel,
                  n, scratch, score);
      weights += stage.y.window * stage.x.window * stage.in_words * tile;
    }
  }
}

// What the float32 arithmetics share.
struct Float32Words {
  using word = float;
  static constexpr int64_t channels_a_word = 1;

  static FL_INLINE void load_image(const float* x, int64_t channels, int64_t area, float* out) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < area; ++i) out[i * channels + c] = x[c * area + i];
    }
  }
};

}  // namespace
}  // namespace fastlangevin
