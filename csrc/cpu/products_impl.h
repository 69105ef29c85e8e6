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
// weights_at(r) from the first; `tile` words of weights for each word, of which `columns` are used. look_ahead(k) is
// called before word k of a run. Ends say what the sums begin with, start(m, c) being that of row m's columns from c
// on, and take them: finish(c, sum) those of all rows' columns from c on.
template <class A, int rows, int vectors, class Runs, class Ends>
__attribute__((noinline)) void multiply_block(const Runs& runs, const typename A::word* const* in,
                                              const typename A::word* weights, const Ends& ends, int64_t column) {
  using word = typename A::word;
  typename A::f32 sum[rows][vectors];
  FL_UNROLL
  for (int m = 0; m < rows; ++m) {
    FL_UNROLL
    for (int v = 0; v < vectors; ++v) sum[m][v] = ends.start(m, column + v * A::width);
  }
  const word* p[rows];
  FL_UNROLL
  for (int m = 0; m < rows; ++m) p[m] = in[m];
  const int64_t tile = runs.tile, run = runs.run;
  for (int64_t r = 0; r < runs.n_runs; ++r) {
    const word* w = weights + runs.weights_at(r) + column;
    const int64_t begin = runs.in_at(r), end = begin + run;
    for (int64_t k = begin; k < end; ++k, w += tile) {
      runs.look_ahead(k - begin);
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
  ends.finish(column, sum);
}

template <class A, int vectors, int rows = A::rows, class Runs, class Ends>
FL_INLINE void multiply_rows(int64_t n_rows, const Runs& runs, const typename A::word* const* in,
                             const typename A::word* weights, const Ends& ends, int64_t column) {
  if constexpr (rows > 1) {
    if (n_rows < rows) return multiply_rows<A, vectors, rows - 1>(n_rows, runs, in, weights, ends, column);
  }
  multiply_block<A, rows, vectors>(runs, in, weights, ends, column);
}

// As multiply_block, in all columns.
template <class A, int vectors = A::vectors, class Runs, class Ends>
FL_INLINE void multiply(int64_t n_rows, const Runs& runs, const typename A::word* const* in,
                        const typename A::word* weights, const Ends& ends) {
  constexpr int64_t step = vectors * A::width;
  if constexpr (vectors > 1) {
    if (runs.columns <= step / 2) return multiply<A, vectors / 2>(n_rows, runs, in, weights, ends);
  }
  for (int64_t c = 0; c < runs.columns; c += step) multiply_rows<A, vectors>(n_rows, runs, in, weights, ends, c);
}

// Ends of sums that begin with numbers in memory, rows start_pitch apart, and go to memory, rows max_tile apart, which
// may be the same.
template <class A>
struct StoredSums {
  const float* from;
  int64_t start_pitch;
  float* to;

  FL_INLINE typename A::f32 start(int64_t m, int64_t c) const { return A::load(from + m * start_pitch + c); }

  template <int rows, int vectors>
  FL_INLINE void finish(int64_t column, const typename A::f32 (&sum)[rows][vectors]) const {
    float* const first = to + column;
    FL_UNROLL
    for (int m = 0; m < rows; ++m) {
      FL_UNROLL
      for (int v = 0; v < vectors; ++v) A::store(first + m * max_tile + v * A::width, sum[m][v]);
    }
  }
};

// sums[m][0, columns) = start + the products of row m's runs with the weights.
template <class A, class Runs>
FL_INLINE void multiply(int64_t n_rows, const Runs& runs, const typename A::word* const* in,
                        const typename A::word* weights, const float* start, float* sums) {
  multiply<A>(n_rows, runs, in, weights, StoredSums<A>{start, 0, sums});
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
