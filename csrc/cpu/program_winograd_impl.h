// Convolutions of 3×3 windows and step 1 in 16 products for 36, and of 2×2 windows in 9 for 16: Winograd's minimal
// filtering F(2×2, 3×3) and F(2×2, 2×2) (Lavin and Gray, arXiv:1509.09308).
//
// Along an axis, two outputs a dilation apart read four inputs, d. With the three weights, g,
//
//     out[0] = d0 g0 + d1 g1 + d2 g2 = m0 + m1 + m2    m0 = (d0 - d2) g0    m1 = (d1 + d2) (g0 + g1 + g2) / 2
//     out[1] = d1 g0 + d2 g1 + d3 g2 = m1 - m2 - m3    m3 = (d1 - d3) g2    m2 = (d2 - d1) (g0 - g1 + g2) / 2
//
// and of two weights, with three inputs,
//
//     out[0] = d0 g0 + d1 g1 = m0 + m1    m0 = (d0 - d1) g0    m1 = d1 (g0 + g1)
//     out[1] = d1 g0 + d2 g1 = m1 + m2    m2 = (d2 - d1) g1
//
// In two dimensions a tile of 2×2 outputs has 4×4 or 3×3 places, each with a sum over all channels. Such a sum is a
// product of a row of transformed inputs, one a tile, with weights that were transformed when they were packed. A few
// tiles go through all places together, those of a y at a time, in the L1 cache, for a group of output channels whose
// weights stay in the L2 cache. They lie in this order: (group, place y, tile of output channels, place x, input
// channel, output channel), y = 1, 2, 0, 3 or 1, 0, 2: first those that both outputs need.
#pragma once

#include "program_product_impl.h"
#include "vectors.h"

namespace fastlangevin {
namespace {

constexpr int64_t max_winograd_rows = 14;                      // tiles that are computed together
constexpr int64_t winograd_channels = 128;                     // of transformed inputs that lie together
constexpr int64_t winograd_pitch = winograd_channels + panel;  // from row to row

// The first outputs of tiles along an axis, whose second ones are a dilation further.
struct WinogradCursor {
  int64_t begin = 0, residue = 0;

  // To the next tile; false after the last, when it is the first again.
  FL_INLINE bool advance(const Axis& axis) {
    ++begin;
    if (++residue == axis.dilation) residue = 0, begin += axis.dilation;
    if (begin < axis.count) return true;
    begin = residue = 0;
    return false;
  }
};

FL_INLINE int64_t winograd_tiles(const Axis& axis) {
  const int64_t both = 2 * axis.dilation;
  return axis.count / both * axis.dilation + std::min(axis.dilation, axis.count % both);
}

// sums[m] = start + m * start_pitch, plus the products of n channels of row m, for the first `vectors` vectors of
// weights that are `tile` apart. Rows have a pitch that the compiler knows: there are more of them than registers for
// addresses.
template <class V, int rows, int vectors>
__attribute__((noinline)) void multiply_winograd(int64_t n, const float* in, const float* weights, int64_t tile,
                                                 const float* start, int64_t start_pitch, float* sums) {
  using f32 = typename V::f32;
  f32 sum[rows][vectors];
  FL_UNROLL
  for (int m = 0; m < rows; ++m) {
    FL_UNROLL
    for (int v = 0; v < vectors; ++v) sum[m][v] = load_any<V>(start + m * start_pitch + v * V::width);
  }
  for (int64_t k = 0; k < n; ++k, ++in, weights += tile) {
    f32 w[vectors];
    FL_UNROLL
    for (int v = 0; v < vectors; ++v) w[v] = load_any<V>(weights + v * V::width);
    FL_UNROLL
    for (int m = 0; m < rows; ++m) {
      const f32 a = V::broadcast(in[m * winograd_pitch]);
      FL_UNROLL
      for (int v = 0; v < vectors; ++v) sum[m][v] = V::fma(a, w[v], sum[m][v]);
    }
  }
  FL_UNROLL
  for (int m = 0; m < rows; ++m) {
    FL_UNROLL
    for (int v = 0; v < vectors; ++v) store<V>(sums + m * max_tile + v * V::width, sum[m][v]);
  }
}

template <class V, int window>
class Winograd {
 public:
  Winograd(const ProductCode& code, const Samples& samples)
      : code_(code),
        samples_(samples),
        zeros_(samples.extra),
        inputs_(zeros_ + (code.in_channels + panel - 1) / panel * panel),
        sums_(inputs_ + (code.in_channels + winograd_channels - 1) / winograd_channels * inputs_pitch),
        shared_(sums_ + places * max_winograd_rows * max_tile) {
    std::fill(zeros_, inputs_, 0.0f);
  }

  void run() {
    const float* weights = samples_.shared + code_.weights;
    const int64_t padded = (code_.out_channels + panel - 1) / panel * panel;
    for (begin_ = 0; begin_ < padded; begin_ = end_) {
      end_ = std::min(padded, begin_ + code_.winograd_width);
      run_group(weights);
      weights += places * places * code_.in_channels * (end_ - begin_);
    }
  }

 private:
  using A = ProductArithmetic<V>;
  using f32 = typename V::f32;

  static constexpr int places = window + 1;
  static constexpr int64_t n_together = max_winograd_rows / A::rows * A::rows;
  static constexpr int64_t inputs_pitch = places * max_winograd_rows * winograd_pitch;  // of winograd_channels each
  alignas(64) static constexpr float no_start[max_tile] = {};

  struct Row {
    const float* in[places][places];
    float* out;
    int64_t n_y, n_x;  // outputs inside the image
  };

  // The output channels from begin_ to end_ of all tiles.
  void run_group(const float* weights) {
    int64_t sample = 0, left = samples_.n * winograd_tiles(code_.y) * winograd_tiles(code_.x);
    WinogradCursor y, x;
    for (; left > 0; left -= n_) {
      n_ = std::min(n_together, left);
      for (int64_t r = 0; r < n_; ++r) {
        set_row(rows_[r], sample, y.begin, x.begin);
        if (!x.advance(code_.x) && !y.advance(code_.y)) ++sample;
      }
      weights_ = weights;
      if constexpr (window == 3) {
        run_places<1>(), run_places<2>(), run_places<0>(), run_places<3>();
      } else {
        run_places<1>(), run_places<0>(), run_places<2>();
      }
    }
  }

  void set_row(Row& row, int64_t sample, int64_t tile_y, int64_t tile_x) const {
    const Axis &y = code_.y, &x = code_.x;
    const float* const image = samples_.at(code_.in, sample);
    int64_t at[places];
    bool exists[places];
    for (int j = 0; j < places; ++j) {
      const int64_t in_x = x.first + tile_x + j * x.dilation;
      at[j] = in_x * code_.in_x, exists[j] = in_x >= 0 && in_x < x.extent;
    }
    for (int i = 0; i < places; ++i) {
      const int64_t in_y = y.first + tile_y + i * y.dilation, line = in_y * code_.in_y;
      const bool has_line = in_y >= 0 && in_y < y.extent;
      for (int j = 0; j < places; ++j) row.in[i][j] = has_line && exists[j] ? image + line + at[j] : zeros_;
    }
    row.out = samples_.out(code_.out, sample) + (y.out_first + tile_y * y.out_step) * code_.out_y +
              (x.out_first + tile_x * x.out_step) * code_.out_x;
    row.n_y = tile_y + y.dilation < y.count ? 2 : 1, row.n_x = tile_x + x.dilation < x.count ? 2 : 1;
  }

  // All that comes from the places of one y.
  template <int place_y>
  void run_places() {
    for (int64_t c = 0; c < code_.in_channels; c += winograd_channels) {
      float* out = inputs_ + c / winograd_channels * inputs_pitch;
      const int64_t n = std::min(winograd_channels, code_.in_channels - c);
      for (int64_t r = 0; r < n_; ++r, out += winograd_pitch) transform<place_y>(rows_[r], c, n, out);
    }
    float* shared = shared_;
    for (int64_t channel = begin_; channel < end_; channel += max_tile) {
      const int64_t end = std::min(end_, channel + max_tile);
      for (int64_t tile, at = channel; at < end; at += tile) {
        tile = std::min(code_.tile, tile_of(end_ - at));
        for (int64_t place_x = 0; place_x < places; ++place_x, weights_ += code_.in_channels * tile) {
          // A place that all outputs have once begins with their bias.
          const bool has_bias = place_y == 1 && place_x == 1;
          const float* const start = has_bias ? samples_.shared + code_.start + at : no_start;
          multiply_place(place_x, tile, start, at - channel);
        }
      }
      for (int64_t r = 0; r < n_; ++r, shared += 4 * max_tile) add_sums<place_y>(rows_[r], r, channel, end, shared);
    }
  }

  // The transformed inputs at the places of one y of a row, n channels from `first` on.
  template <int place_y>
  static FL_INLINE void transform(const Row& row, int64_t first, int64_t n, float* out) {
    static constexpr int of_three[4][2] = {{0, 2}, {1, 2}, {2, 1}, {1, 3}}, of_two[3][2] = {{0, 1}, {1, 1}, {2, 1}};
    constexpr const int* which = window == 3 ? of_three[place_y] : of_two[place_y];
    constexpr int64_t pitch = max_winograd_rows * winograd_pitch;
    const float *near[places], *far[places];
    FL_UNROLL
    for (int j = 0; j < places; ++j) near[j] = row.in[which[0]][j] + first, far[j] = row.in[which[1]][j] + first;
    for (int64_t c = 0; c < n; c += V::width) {
      f32 d[places];
      FL_UNROLL
      for (int j = 0; j < places; ++j) {
        const f32 a = load_any<V>(near[j] + c);
        if constexpr (window == 2 && place_y == 1) {
          d[j] = a;
        } else {
          const f32 b = load_any<V>(far[j] + c);
          d[j] = place_y == 1 ? a + b : a - b;
        }
      }
      if constexpr (window == 3) {
        store<V>(out + c, d[0] - d[2]);
        store<V>(out + pitch + c, d[1] + d[2]);
        store<V>(out + 2 * pitch + c, d[2] - d[1]);
        store<V>(out + 3 * pitch + c, d[1] - d[3]);
      } else {
        store<V>(out + c, d[0] - d[1]);
        store<V>(out + pitch + c, d[1]);
        store<V>(out + 2 * pitch + c, d[2] - d[1]);
      }
    }
  }

  // Where a row of weights has few vectors, there are registers for the sums of more rows.
  void multiply_place(int64_t place_x, int64_t tile, const float* start, int64_t at) const {
    if constexpr (V::width == 16) {
      if (tile == 16) return multiply_columns<2 * A::rows, 1>(place_x, tile, start, at);
      if (tile == 32) return multiply_columns<2 * A::rows, 2>(place_x, tile, start, at);
    }
    multiply_columns<A::rows, A::vectors>(place_x, tile, start, at);
  }

  template <int rows, int vectors>
  FL_INLINE void multiply_columns(int64_t place_x, int64_t tile, const float* start, int64_t at) const {
    const int64_t n_blocks = (n_ + rows - 1) / rows;
    for (int64_t b = 0, first = 0, n; b < n_blocks; ++b, first += n) {
      n = n_ / n_blocks + (b < n_ % n_blocks);
      float* const sums = sums_ + (place_x * max_winograd_rows + first) * max_tile + at;
      for (int64_t c = 0; c < tile; c += vectors * V::width) {
        multiply_block<rows, vectors>(n, place_x * max_winograd_rows + first, weights_ + c, tile, start + c, sums + c);
      }
    }
  }

  template <int rows, int vectors>
  FL_INLINE void multiply_block(int64_t n_rows, int64_t row, const float* weights, int64_t tile, const float* start,
                                float* sums) const {
    if constexpr (rows > 1) {
      if (n_rows < rows) return multiply_block<rows - 1, vectors>(n_rows, row, weights, tile, start, sums);
    }
    const float* in = inputs_ + row * winograd_pitch;
    int64_t pitch = 0;
    for (int64_t left = code_.in_channels; left > 0; left -= winograd_channels, in += inputs_pitch) {
      const int64_t n = std::min(winograd_channels, left);
      multiply_winograd<V, rows, vectors>(n, in, weights, tile, start, pitch, sums);
      weights += n * tile, start = sums, pitch = max_tile;
    }
  }

  // What a row's sums at the places of one y are to the outputs of the two x.
  FL_INLINE void add_places(const float* sums, f32 (&u)[2]) const {
    constexpr int64_t pitch = max_winograd_rows * max_tile;
    f32 m[places];
    FL_UNROLL
    for (int j = 0; j < places; ++j) m[j] = load<V>(sums + j * pitch);
    if constexpr (window == 3) {
      u[0] = m[0] + m[1] + m[2], u[1] = m[1] - m[2] - m[3];
    } else {
      u[0] = m[0] + m[1], u[1] = m[1] + m[2];
    }
  }

  // Adds a row's sums at the places of one y to what outputs share, or finishes those that need no more.
  template <int place_y>
  FL_INLINE void add_sums(const Row& row, int64_t r, int64_t channel, int64_t end, float* shared) const {
    constexpr bool is_first = place_y == 0, is_second = place_y == window, is_last = is_first || is_second;
    const float* const sums = sums_ + r * max_tile;
    if (is_second && row.n_y == 1) return;
    alignas(64) float total[2 * max_tile];
    for (int64_t c = 0; c < end - channel; c += V::width) {
      f32 u[2];
      add_places(sums + c, u);
      FL_UNROLL
      for (int j = 0; j < 2; ++j) {
        float *const both = shared + j * max_tile + c, *const other = both + 2 * max_tile;
        if constexpr (place_y == 1) store<V>(both, u[j]);
        if constexpr (window == 3 && place_y == 2) {
          const f32 a = load<V>(both);
          store<V>(both, a + u[j]), store<V>(other, a - u[j]);
        }
        if constexpr (is_first || (is_second && window == 2)) {
          store<V>(total + j * max_tile + c, load<V>(both) + u[j]);
        }
        if constexpr (is_second && window == 3) store<V>(total + j * max_tile + c, load<V>(other) - u[j]);
      }
    }
    if constexpr (is_last) {
      float* const out = row.out + channel + is_second * code_.y.dilation * code_.y.out_step * code_.out_y;
      float* const to[] = {out, out + code_.x.dilation * code_.x.out_step * code_.out_x};
      store_rows<A>(row.n_x, std::min(end, code_.out_channels) - channel, total, to);
    }
  }

  const ProductCode& code_;
  const Samples& samples_;
  float *const zeros_, *const inputs_, *const sums_, *const shared_;
  int64_t begin_ = 0, end_ = 0, n_ = 0;
  const float* weights_ = nullptr;
  Row rows_[max_winograd_rows];
};

}  // namespace
}  // namespace fastlangevin
