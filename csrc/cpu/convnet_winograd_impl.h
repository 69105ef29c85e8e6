// The kernel of convnet_winograd.h over an arithmetic A of float32. Internal linkage, as in kernels_impl.h.
//
// An output is the sum of four places: the middle one, which all outputs of the tile share, one beside it and one above
// or below it, which two share, and a corner of its own. The first two are one sum and the third another, in memory;
// the corner's products are added to both in registers.
#pragma once

#include <algorithm>

#include "convnet_finish_impl.h"
#include "convnet_winograd.h"
#include "products_impl.h"

namespace fastlangevin {
namespace {

// One run of words. While it is multiplied, weights that are needed next come into the L2 cache, a line for each word.
struct WinogradRuns {
  int64_t n_runs, run, tile, columns;
  int64_t start_pitch;
  const float* next;

  FL_INLINE int64_t in_at(int64_t) const { return 0; }
  FL_INLINE int64_t weights_at(int64_t) const { return 0; }
  FL_INLINE int64_t start_at(int64_t m) const { return m * start_pitch; }
  FL_INLINE void look_ahead(int64_t k) const { __builtin_prefetch(next + k * panel, 0, 2); }
};

// The places (place_y, 0 … 2), `length` words each, from the tile's inputs in the rows place_y (near) and 1 (middle).
template <class A, bool is_middle>
FL_INLINE void transform(const float* const* near, const float* const* middle, int64_t length, float* const* out) {
  for (int64_t c = 0; c < length; c += A::width) {
    typename A::f32 d[3];
    FL_UNROLL
    for (int i = 0; i < 3; ++i) {
      d[i] = A::load(near[i] + c);
      if constexpr (!is_middle) d[i] = d[i] - A::load(middle[i] + c);
    }
    A::store(out[0] + c, d[0] - d[1]);
    A::store(out[1] + c, d[1]);
    A::store(out[2] + c, d[2] - d[1]);
  }
}

// A stage's rows, a few at a time.
template <class A>
class WinogradRows {
 public:
  WinogradRows(const Tower& tower, const Stage& stage, const float* packed, float* scratch, float* work, double* parts)
      : tower_(tower),
        stage_(stage),
        shape_(winograd_shape(stage)),
        packed_(packed),
        scratch_(scratch),
        parts_(parts),
        inputs_(work),
        sums_(work + 3 * shape_.rows * shape_.pitch) {}

  void run(int64_t n_samples) {
    const int64_t a_sample = shape_.tiles_y * shape_.tiles_x, n = n_samples * a_sample;
    for (int64_t first = 0; first < n; first += n_) {
      n_ = std::min(shape_.rows, n - first);
      for (int64_t r = 0; r < n_; ++r) {
        const int64_t at = (first + r) % a_sample;
        rows_[r] = {(first + r) / a_sample, at / shape_.tiles_x, at % shape_.tiles_x};
      }
      run_rows();
    }
  }

 private:
  enum Shared { left, right, vertical };  // places beside the middle, with it, and above or below it

  struct Row {
    int64_t sample, tile_y, tile_x;
  };

  struct ChannelTile : Tile<A> {
    int64_t index, depth;
    const float* next;

    // A block comes with a part of the weights that are needed next; from the last part on, it is always that.
    WinogradRuns runs(int64_t block, int64_t start_pitch) const {
      const int64_t part = std::min(block, this->width / panel - 1);
      return {1, depth, this->width, this->width, start_pitch, next + part * depth * panel};
    }
  };

  float* input(int64_t place_x, int64_t row) const { return inputs_ + (place_x * shape_.rows + row) * shape_.pitch; }

  float* sums(Shared shared, int64_t channel_tile, int64_t row) const {
    return sums_ + ((shared * shape_.channel_tiles + channel_tile) * shape_.rows + row) * max_tile;
  }

  void run_rows() {
    const float* const begin = packed_ + stage_.weights;
    const float* weights = begin;
    for (const int64_t place_y : winograd_order) {
      if (place_y == 1) {
        transform_inputs<true>(place_y);
      } else {
        transform_inputs<false>(place_y);
      }
      for (const int64_t place_x : winograd_order) {
        int64_t index = 0;
        for (int64_t channel = 0, width; channel < stage_.out_channels; channel += width, ++index) {
          width = tile_width(stage_, channel);
          const int64_t words = shape_.depth * width;
          const bool is_last = place_y == 2 && place_x == 2 && channel + width == stage_.out_channels;
          const ChannelTile tile{{channel, width, weights, packed_ + stage_.start + channel,
                                  packed_ + tower_.last + channel, scratch_, nullptr, parts_},
                                 index,
                                 shape_.depth,
                                 is_last ? begin : weights + words};
          run_place(tile, place_y, place_x);
          weights += words;
        }
      }
    }
  }

  void run_place(const ChannelTile& tile, int64_t place_y, int64_t place_x) {
    if (place_y != 1 && place_x != 1) {
      finish_outputs(tile, place_y, place_x);
    } else if (place_y != 1) {
      share(tile, place_x, packed_, 0, vertical);  // zeros
    } else if (place_x == 1) {
      share(tile, place_x, tile.start, 0, right);
    } else {
      share(tile, place_x, sums(right, tile.index, 0), max_tile, place_x == 0 ? left : right);
    }
  }

  // The transformed inputs at the places (place_y, 0 … 2).
  template <bool is_middle>
  void transform_inputs(int64_t place_y) const {
    const Axis &axis_y = stage_.y, &axis_x = stage_.x;
    const int64_t words = stage_.in_words;
    for (int64_t r = 0; r < n_; ++r) {
      const float* const image = scratch_ + rows_[r].sample * tower_.sample_words + stage_.in;
      const int64_t first_y = axis_y.first + 2 * rows_[r].tile_y * axis_y.step;
      const int64_t first_x = axis_x.first + 2 * rows_[r].tile_x * axis_x.step;
      // The phases' inputs lie side by side: where none is outside the image, they are transformed in one go.
      const bool is_inside = first_x >= 0 && first_x + 3 * axis_x.step <= axis_x.extent;
      const int64_t n_x = is_inside ? 1 : axis_x.step, length = words * (is_inside ? axis_x.step : 1);
      float* out[] = {input(0, r), input(1, r), input(2, r)};
      for (int64_t phase_y = 0; phase_y < axis_y.step; ++phase_y) {
        for (int64_t phase_x = 0; phase_x < n_x; ++phase_x) {
          const float *near[3], *middle[3];
          for (int64_t i = 0; i < 3; ++i) {
            const int64_t x = first_x + phase_x + i * axis_x.step;
            const auto pixel = [&](int64_t place) {
              const int64_t y = first_y + phase_y + place * axis_y.step;
              const bool exists = y >= 0 && y < axis_y.extent && (is_inside || (x >= 0 && x < axis_x.extent));
              return exists ? image + (y * stage_.in_width + x) * words : packed_;
            };
            near[i] = pixel(place_y), middle[i] = pixel(1);
          }
          transform<A, is_middle>(near, middle, length, out);
          for (float*& to : out) to += length;
        }
      }
    }
  }

  // A place of which several outputs are sums, for all rows.
  void share(const ChannelTile& tile, int64_t place_x, const float* start, int64_t start_pitch, Shared shared) const {
    each_block<A>(n_, [&](int64_t block, int64_t first, int64_t n) {
      const float* in[A::rows];
      for (int64_t m = 0; m < n; ++m) in[m] = input(place_x, first + m);
      multiply<A>(n, tile.runs(block, start_pitch), in, tile.weights, start + first * start_pitch,
                  sums(shared, tile.index, first));
    });
  }

  // The outputs (place_y / 2, place_x / 2) of the tiles, but for those outside the image.
  void finish_outputs(const ChannelTile& tile, int64_t place_y, int64_t place_x) const {
    int64_t rows[max_winograd_rows], n_rows = 0;
    for (int64_t r = 0; r < n_; ++r) {
      if (out_y(r, place_y) < stage_.y.count && out_x(r, place_x) < stage_.x.count) rows[n_rows++] = r;
    }
    alignas(64) float total[A::rows * max_tile];
    each_block<A>(n_rows, [&](int64_t block, int64_t first, int64_t n) {
      Block<A> outputs;
      outputs.n = n;
      for (int64_t m = 0; m < n; ++m) {
        const int64_t r = rows[first + m];
        const int64_t y = stage_.y.out_first + out_y(r, place_y) * stage_.y.out_step;
        const int64_t x = stage_.x.out_first + out_x(r, place_x) * stage_.x.out_step;
        outputs.in[m] = input(place_x, r);
        outputs.sample[m] = rows_[r].sample;
        outputs.pixel[m] = y * stage_.out_width + x;
        const float* const beside = sums(place_x == 0 ? left : right, tile.index, r);
        const float* const above = sums(vertical, tile.index, r);
        for (int64_t c = 0; c < tile.width; c += A::width) {
          A::store(total + m * max_tile + c, A::load(beside + c) + A::load(above + c));
        }
      }
      multiply<A>(n, tile.runs(block, max_tile), outputs.in, tile.weights, total, total);
      finish<A>(tower_, stage_, tile, outputs, total);
    });
  }

  int64_t out_y(int64_t row, int64_t place_y) const { return 2 * rows_[row].tile_y + place_y / 2; }
  int64_t out_x(int64_t row, int64_t place_x) const { return 2 * rows_[row].tile_x + place_x / 2; }

  const Tower& tower_;
  const Stage& stage_;
  const WinogradShape shape_;
  const float* const packed_;
  float* const scratch_;
  double* const parts_;
  float *const inputs_, *const sums_;
  int64_t n_ = 0;
  Row rows_[max_winograd_rows];
};

}  // namespace
}  // namespace fastlangevin
