// Products of rows and packed weights over an arithmetic A, with internal linkage as in kernels_impl.h.
//
// Each sum is one chain of multiply-adds in the order of its runs, whatever else is computed beside it.
#pragma once

#include <algorithm>

#include "products.h"

namespace fastlangevin {
namespace {

// The part of a window that lies inside the input.
struct Clip {
  int64_t from, n;

  bool operator==(const Clip& other) const { return from == other.from && n == other.n; }
};

// ceil(a / b) for b > 0 and, at least, 0.
FL_INLINE int64_t steps_to(int64_t a, int64_t b) { return a > 0 ? (b == 1 ? a : (a + b - 1) / b) : 0; }

FL_INLINE Clip clip(const Axis& axis, int64_t i) {
  const int64_t start = axis.first + i * axis.step;
  const int64_t from = steps_to(-start, axis.dilation);
  const int64_t to = std::min(axis.window, steps_to(axis.extent - start, axis.dilation));
  return to > from ? Clip{from, to - from} : Clip{0, 0};
}

// The end of the outputs from i on whose windows are clipped as that of i.
FL_INLINE int64_t clip_end(const Axis& axis, int64_t i) {
  const Clip c = clip(axis, i);
  while (++i < axis.count && clip(axis, i) == c) {
  }
  return i;
}

// Runs say what the rows of a block share: n_runs runs of `run` words, in_at(r) from a row's first word, with weights
// weights_at(r) from the first; `tile` words of weights for each word, of which `columns` are used. Row m begins with
// the sums start + start_at(m). look_ahead(k) is called before word k of a run.
template <class A, int rows, int vectors, class Runs>
__attribute__((noinline)) void multiply_block(const Runs& runs, const typename A::word* const* in,
                                              const typename A::word* weights, const float* start, float* sums) {
  using word = typename A::word;
  typename A::f32 sum[rows][vectors];
  FL_UNROLL
  for (int m = 0; m < rows; ++m) {
    FL_UNROLL
    for (int v = 0; v < vectors; ++v) sum[m][v] = A::load(start + runs.start_at(m) + v * A::width);
  }
  const int64_t tile = runs.tile, run = runs.run;
  for (int64_t r = 0; r < runs.n_runs; ++r) {
    const word* p[rows];
    FL_UNROLL
    for (int m = 0; m < rows; ++m) p[m] = in[m] + runs.in_at(r);
    const word* w = weights + runs.weights_at(r);
    for (int64_t k = 0; k < run; ++k, w += tile) {
      runs.look_ahead(k);
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

template <class A, int vectors, int rows = A::rows, class Runs>
FL_INLINE void multiply_rows(int64_t n_rows, const Runs& runs, const typename A::word* const* in,
                             const typename A::word* weights, const float* start, float* sums) {
  if constexpr (rows > 1) {
    if (n_rows < rows) return multiply_rows<A, vectors, rows - 1>(n_rows, runs, in, weights, start, sums);
  }
  multiply_block<A, rows, vectors>(runs, in, weights, start, sums);
}

// sums[m][0, columns) = start + the products of row m's runs with the weights. sums may be start.
template <class A, int vectors = A::vectors, class Runs>
FL_INLINE void multiply(int64_t n_rows, const Runs& runs, const typename A::word* const* in,
                        const typename A::word* weights, const float* start, float* sums) {
  constexpr int64_t step = vectors * A::width;
  if constexpr (vectors > 1) {
    if (runs.columns <= step / 2) return multiply<A, vectors / 2>(n_rows, runs, in, weights, start, sums);
  }
  for (int64_t c = 0; c < runs.columns; c += step) {
    multiply_rows<A, vectors>(n_rows, runs, in, weights + c, start + c, sums + c);
  }
}

// run(block, first, n) for n rows in blocks whose numbers of rows differ by one at most.
template <class A, class Run>
FL_INLINE void each_block(int64_t n_rows, const Run& run) {
  const int64_t n_blocks = (n_rows + A::rows - 1) / A::rows;
  for (int64_t b = 0, first = 0, n; b < n_blocks; ++b, first += n) {
    n = n_rows / n_blocks + (b < n_rows % n_blocks);
    run(b, first, n);
  }
}

// Outputs whose windows are clipped alike.
struct Patch {
  int64_t y0, y1, x0, x1;
  Clip y, x;
};

// run(patch) for each patch of the outputs.
template <class Run>
FL_INLINE void each_patch(const Axis& y, const Axis& x, const Run& run) {
  for (int64_t y0 = 0, y1; y0 < y.count; y0 = y1) {
    y1 = clip_end(y, y0);
    for (int64_t x0 = 0, x1; x0 < x.count; x0 = x1) {
      x1 = clip_end(x, x0);
      run(Patch{y0, y1, x0, x1, clip(y, y0), clip(x, x0)});
    }
  }
}

}  // namespace
}  // namespace fastlangevin
