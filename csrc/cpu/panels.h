// The order of a product's weights: panels of several rows, column by column, so that the kernel reads them in one run.
#pragma once

#include <cstdint>

namespace fastlangevin {

// Rows of a whole panel where vectors have `width` lanes: as many as the registers hold sums for.
constexpr int panel_rows(int width) { return width == 16 ? 8 : 4; }

// Writes the n_out × n_in weights at[i * row_stride + j * column_stride] in panels of `rows`, a power of two; what rows
// are left at the end, in panels of half, a quarter, …
inline void write_panels(const float* at, int64_t row_stride, int64_t column_stride, int64_t n_out, int64_t n_in,
                         int rows, float* panels) {
  for (int64_t first = 0; first < n_out; first += rows) {
    while (rows > n_out - first) rows /= 2;
    for (int64_t j = 0; j < n_in; ++j) {
      for (int r = 0; r < rows; ++r) *panels++ = at[(first + r) * row_stride + j * column_stride];
    }
  }
}

}  // namespace fastlangevin
