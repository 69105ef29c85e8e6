// Products of an MLP's weights with blocks of chains, features in rows and chains in columns, over vectors V: each sum
// runs over the features in ascending order, from the bias on, wherever its chain sits.
#pragma once

#include <algorithm>
#include <type_traits>

#include "chain.h"
#include "panels.h"
#include "vectors.h"

namespace fastlangevin {
namespace {

// Chains that are worked on together: `columns` vectors of them. A product adds up rows × columns vectors, and leaves
// registers for what is multiplied.
template <class Vector, int n_columns, class HowMultiplied>
struct MlpBlock {
  using V = Vector;
  using Products = HowMultiplied;
  static constexpr int columns = n_columns, panel = panel_rows(V::width);
  static constexpr int panels = columns == 1 ? 8 / panel : 1;  // at a time: eight sums overlap their latencies
  static constexpr int rows = panels * panel;
  static constexpr int64_t chains = columns * V::width;
  // Features whose values stay in the L1 cache while all rows are multiplied by them.
  static constexpr int64_t features = 28 * 1024 / static_cast<int64_t>(sizeof(float)) / chains;
};

// Many chains fill wide blocks, a few narrow ones. A chain's result is the same in both.
template <class V, class Products>
using WideBlock = MlpBlock<V, V::width == 8 ? 3 : 2, Products>;
template <class V, class Products>
using NarrowBlock = MlpBlock<V, 1, Products>;

// Adds the products of features first … last - 1 to sums of n_panels panels of rows. start(row, place) is the sum
// before, finish(row, place, sum) takes the sum after.
template <class B, int rows, int n_panels, class Start, class Finish>
FL_INLINE void product_panels(const float* panels, int64_t n_in, int64_t first, int64_t last, const float* in,
                              int64_t row, const Start& start, const Finish& finish) {
  using V = typename B::V;
  using f32 = typename V::f32;
  constexpr int columns = B::columns, n = rows * n_panels;
  constexpr int64_t block = B::chains;
  f32 sum[n][columns];
  FL_UNROLL
  for (int r = 0; r < n; ++r) {
    FL_UNROLL
    for (int c = 0; c < columns; ++c) sum[r][c] = start(row + r, (row + r) * block + c * V::width);
  }
#pragma GCC unroll 2
  for (int64_t i = first; i < last; ++i) {
    f32 a[columns];
    FL_UNROLL
    for (int c = 0; c < columns; ++c) a[c] = load<V>(in + i * block + c * V::width);
    FL_UNROLL
    for (int r = 0; r < n; ++r) {
      const f32 w = V::broadcast(panels[(r / rows * n_in + i) * rows + r % rows]);
      FL_UNROLL
      for (int c = 0; c < columns; ++c) sum[r][c] = V::fma(w, a[c], sum[r][c]);
    }
  }
  FL_UNROLL
  for (int r = 0; r < n; ++r) {
    FL_UNROLL
    for (int c = 0; c < columns; ++c) finish(row + r, (row + r) * block + c * V::width, sum[r][c]);
  }
}

// out = bias + weights · in without `finish`, for rows [row, n_out) that fill no whole block, features [first, last).
template <class B, class Start>
void product_of_rest(const float* panels, int64_t n_in, int64_t n_out, int64_t first, int64_t last, int64_t row,
                     const float* in, float* out, const Start& start) {
  using V = typename B::V;
  const auto finish = [&](int64_t, int64_t at, typename V::f32 sum) { store<V>(out + at, sum); };
  const auto run = [&](auto rows) {
    constexpr int n = decltype(rows)::value;
    product_panels<B, n, 1>(panels + row * n_in, n_in, first, last, in, row, start, finish);
    row += n;
  };
  if constexpr (B::panels > 1) {
    while (row + B::panel <= n_out) run(std::integral_constant<int, B::panel>{});
  }
  const int64_t left = n_out - row;
  if constexpr (B::panel > 4) {
    if (left & 4) run(std::integral_constant<int, 4>{});
  }
  if (left & 2) run(std::integral_constant<int, 2>{});
  if (left & 1) run(std::integral_constant<int, 1>{});
}

// Vectors multiplied by one weight after the other.
template <class V>
struct PanelProducts {
  struct Registers {};  // held while a thread multiplies

  static int64_t packed_size(int64_t n_out, int64_t n_in) { return n_out * n_in; }

  static void pack(const float* at, int64_t row_stride, int64_t column_stride, int64_t n_out, int64_t n_in,
                   float* packed) {
    write_panels(at, row_stride, column_stride, n_out, n_in, panel_rows(V::width), packed);
  }

  // Floats of scratch memory that `product` takes.
  template <class B>
  static int64_t scratch_size(int64_t) {
    return 0;
  }

  // finish(row, place, sum) for every vector of bias + weights · in. partial (n_out, block): scratch, which finish may
  // write to at its own place.
  template <class B, class Finish>
  static FL_INLINE void product(const float* panels, const float* bias, int64_t n_in, int64_t n_out, const float* in,
                                float* partial, float*, const Finish& finish) {
    // Some features at a time: between two parts the sums are in `partial`.
    const int64_t whole = n_out - n_out % B::rows;
    for (int64_t first = 0, last; first < n_in; first = last) {
      last = std::min(n_in, first + B::features);
      const auto start = [&](int64_t row, int64_t at) {
        return first > 0 ? load<V>(partial + at) : V::broadcast(bias ? bias[row] : 0.0f);
      };
      const auto end = [&](int64_t row, int64_t at, typename V::f32 sum) {
        if (last == n_in) {
          finish(row, at, sum);
        } else {
          store<V>(partial + at, sum);
        }
      };
      for (int64_t row = 0; row < whole; row += B::rows) {
        product_panels<B, B::panel, B::panels>(panels + row * n_in, n_in, first, last, in, row, start, end);
      }
      product_of_rest<B>(panels, n_in, n_out, first, last, whole, in, partial, start);
    }
    for (int64_t row = whole; row < n_out; ++row) {
      for (int64_t at = row * B::chains; at < (row + 1) * B::chains; at += V::width) {
        finish(row, at, load<V>(partial + at));
      }
    }
  }
};

}  // namespace
}  // namespace fastlangevin
