// Products in programs in lanes: weights times vectors of samples.
#pragma once

#include "program_places_impl.h"

namespace fastlangevin {
namespace {

// Adds up `rows` output channels from `start` on for all samples. weights: of these channels, n_in times `tile`.
template <class V, int rows>
void lane_rows(const float* in, int64_t n_in, const float* weights, int64_t tile, const float* start, float* out) {
  constexpr int columns = 2;  // vectors of samples at a time: 8 rows fill 16 registers
  static_assert(program_lanes % (columns * V::width) == 0);
  for (int64_t c = 0; c < program_lanes; c += columns * V::width) {
    typename V::f32 sum[rows][columns];
    FL_UNROLL
    for (int r = 0; r < rows; ++r) {
      FL_UNROLL
      for (int v = 0; v < columns; ++v) sum[r][v] = V::broadcast(start[r]);
    }
    const float *a = in + c, *w = weights;
    for (int64_t i = 0; i < n_in; ++i, a += program_lanes, w += tile) {
      typename V::f32 b[columns];
      FL_UNROLL
      for (int v = 0; v < columns; ++v) b[v] = load_any<V>(a + v * V::width);
      FL_UNROLL
      for (int r = 0; r < rows; ++r) {
        const typename V::f32 weight = V::broadcast(w[r]);
        FL_UNROLL
        for (int v = 0; v < columns; ++v) sum[r][v] = V::fma(weight, b[v], sum[r][v]);
      }
    }
    FL_UNROLL
    for (int r = 0; r < rows; ++r) {
      FL_UNROLL
      for (int v = 0; v < columns; ++v) store_any<V>(out + r * program_lanes + c + v * V::width, sum[r][v]);
    }
  }
}

template <class V, int rows>
FL_INLINE void lane_tile(int64_t n_rows, const float* in, int64_t n_in, const float* weights, int64_t tile,
                         const float* start, float* out) {
  int64_t r = 0;
  for (; r + rows <= n_rows; r += rows) {
    lane_rows<V, rows>(in, n_in, weights + r, tile, start + r, out + r * program_lanes);
  }
  if constexpr (rows > 1) {
    lane_tile<V, rows / 2>(n_rows - r, in, n_in, weights + r, tile, start + r, out + r * program_lanes);
  }
}

template <class V>
void run_lane_product(const LaneProductCode& code, const Samples& samples) {
  constexpr int rows = V::width == 16 ? 8 : 4;
  const int64_t padded = (code.out_channels + panel - 1) / panel * panel;
  for (int64_t y = 0; y < code.n_y; ++y) {
    for (int64_t x = 0; x < code.n_x; ++x) {
      const float* const in = samples.at(code.in, 0) + y * code.in_y + x * code.in_x;
      float* const out = samples.out(code.out, 0) + y * code.out_y + x * code.out_x;
      const float* weights = samples.shared + code.weights;
      for (int64_t channel = 0, tile; channel < code.out_channels;
           channel += tile, weights += code.in_channels * tile) {
        tile = std::min(code.tile, tile_of(padded - channel));
        lane_tile<V, rows>(std::min(tile, code.out_channels - channel), in, code.in_channels, weights, tile,
                           samples.shared + code.start + channel, out + channel * program_lanes);
      }
    }
  }
}

}  // namespace
}  // namespace fastlangevin
