// Transposed copies of matrices.
#pragma once

#include <algorithm>

#include "vectors.h"

namespace fastlangevin {
namespace {

// Four rows of four numbers, pitches apart, to four columns.
FL_INLINE void transpose_four(const float* in, int64_t in_pitch, float* out, int64_t out_pitch) {
  using V = PortableVectors;
  V::f32 a[4];
  FL_UNROLL
  for (int i = 0; i < 4; ++i) a[i] = load_any<V>(in + i * in_pitch);
  const V::f32 low[2] = {V::interleave_low(a[0], a[2]), V::interleave_low(a[1], a[3])};
  const V::f32 high[2] = {V::interleave_high(a[0], a[2]), V::interleave_high(a[1], a[3])};
  store_any<V>(out, V::interleave_low(low[0], low[1]));
  store_any<V>(out + out_pitch, V::interleave_high(low[0], low[1]));
  store_any<V>(out + 2 * out_pitch, V::interleave_low(high[0], high[1]));
  store_any<V>(out + 3 * out_pitch, V::interleave_high(high[0], high[1]));
}

// in (n_rows, n_columns) to out (n_columns, n_rows), rows a pitch apart; about a cache line of out after the other, so
// that pitches of a power of two evict few that are not full.
inline void transpose(const float* in, int64_t in_pitch, int64_t n_rows, int64_t n_columns, float* out,
                      int64_t out_pitch) {
  constexpr int64_t line = 16;
  const int64_t whole_rows = n_rows - n_rows % 4, whole_columns = n_columns - n_columns % 4;
  for (int64_t start = 0; start < whole_rows; start += line) {
    const int64_t end = std::min(start + line, whole_rows);
    for (int64_t c = 0; c < whole_columns; c += 4) {
      for (int64_t r = start; r < end; r += 4) {
        transpose_four(in + r * in_pitch + c, in_pitch, out + c * out_pitch + r, out_pitch);
      }
    }
  }
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t c = r < whole_rows ? whole_columns : 0; c < n_columns; ++c) {
      out[c * out_pitch + r] = in[r * in_pitch + c];
    }
  }
}

}  // namespace
}  // namespace fastlangevin
