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
  const float* next;

  FL_INLINE int64_t in_at(int64_t) const { return 0; }
  FL_INLINE int64_t weights_at(int64_t) const { return 0; }
  FL_INLINE void look_ahead(int64_t k) const { __builtin_prefetch(next + k * panel, 0, 2); }
};

// The places (place_y, 0 … 2), `length` words each, from the tile's inputs in the rows place_y (near) and 1 (middle).
// Not inlined, so that registers hold the addresses.
template <class A, bool is_middle>
__attribute__((noinline)) void transform(const float* const* near, const float* const* middle, int64_t length,
                                         float* const* out) {
  const float *const near0 = near[0], *const near1 = near[1], *const near2 = near[2];
  const float *const middle0 = middle[0], *const middle1 = middle[1], *const middle2 = middle[2];
  float *const out0 = out[0], *const out1 = out[1], *const out2 = out[2];
  for (int64_t c = 0; c < length; c += A::width) {
    typename A::f32 d0 = A::load(near0 + c), d1 = A::load(near1 + c), d2 = A::load(near2 + c);
    if constexpr (!is_middle) {
      d0 = d0 - A::load(middle0 + c), d1 = d1 - A::load(middle1 + c), d2 = d2 - A::load(middle2 + c);
    }
    A::store(out0 + c, d0 - d1);
    A::store(out1 + c, d1);
    A::store(out2 + c, d2 - d1);
  }
}

// A corner's products are added to two sums in memory.
template <class A>
struct WinogradBlock : Block<A> {
  const float *beside[A::rows] = {}, *above[A::rows] = {};

  FL_INLINE typename A::f32 start(int64_t m, int64_t c) const { return A::load(beside[m] + c) + A::load(above[m] + c); }
};

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
    const int64_t n = n_samples * shape_.tiles_y * shape_.tiles_x;
    for (int64_t first = 0; first < n; first += n_) {
      n_ = std::min(shape_.rows, n - first);
      for (int64_t r = 0; r < n_; ++r) rows_[r] = row(first + r);
      run_rows();
    }
  }

 private:
  enum Shared { left, right, vertical };  // places beside the middle, with it, and above or below it

  struct Row {
    int64_t sample, tile_y, tile_x;
    int64_t first_y, first_x;  // of the tile's inputs, which may be outside the image
    bool is_inside;            // in x: all of them are
    int64_t in;                // where the first input would lie, in words of the scratch memory
    int64_t pixel;             // of the first output
  };

  Row row(int64_t number) const {
    const Axis &y = stage_.y, &x = stage_.x;
    const int64_t tile = number / shape_.tiles_x, tile_x = number % shape_.tiles_x;
    const int64_t sample = tile / shape_.tiles_y, tile_y = tile % shape_.tiles_y;
    const int64_t first_y = y.first + 2 * tile_y * y.step, first_x = x.first + 2 * tile_x * x.step;
    const bool is_inside = first_x >= 0 && first_x + 3 * x.step <= x.extent;
    const int64_t in =
        sample * tower_.sample_words + stage_.in + (first_y * stage_.in_width + first_x) * stage_.in_words;
    const int64_t pixel =
        (y.out_first + 2 * tile_y * y.out_step) * stage_.out_width + x.out_first + 2 * tile_x * x.out_step;
    return {sample, tile_y, tile_x, first_y, first_x, is_inside, in, pixel};
  }

  struct ChannelTile : Tile<A> {
    int64_t index, depth;
    const float* next;

    // A block comes with a part of the weights that are needed next; from the last part on, it is always that.
    WinogradRuns runs(int64_t block) const {
      const int64_t part = std::min(block, this->width / panel - 1);
      return {1, depth, this->width, this->width, next + part * depth * panel};
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
                                  packed_ + tower_.last + channel, scratch_, parts_},
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

  // The transformed inputs at the places (place_y, 0 … 2). The phases' inputs in x lie side by side: where none is
  // outside the image, they are transformed in one go.
  template <bool is_middle>
  void transform_inputs(int64_t place_y) const {
    const int64_t words = stage_.in_words, step_y = stage_.y.step, step_x = stage_.x.step;
    const int64_t from_row = stage_.in_width * words, from_x = step_x * words;
    for (int64_t r = 0; r < n_; ++r) {
      const Row& row = rows_[r];
      float* out[] = {input(0, r), input(1, r), input(2, r)};
      const int64_t n_x = row.is_inside ? 1 : step_x, length = row.is_inside ? from_x : words;
      for (int64_t phase_y = 0; phase_y < step_y; ++phase_y) {
        const int64_t near_y = phase_y + place_y * step_y, middle_y = phase_y + step_y;
        const int64_t near_row = row.in + near_y * from_row, middle_row = row.in + middle_y * from_row;
        const bool has_near = is_within(row.first_y + near_y, stage_.y.extent);
        const bool has_middle = is_within(row.first_y + middle_y, stage_.y.extent);
        for (int64_t phase_x = 0; phase_x < n_x; ++phase_x) {
          const float *near[3], *middle[3];
          FL_UNROLL
          for (int i = 0; i < 3; ++i) {
            const int64_t x = phase_x + i * step_x;
            const bool has_x = row.is_inside || is_within(row.first_x + x, stage_.x.extent);
            near[i] = has_near && has_x ? scratch_ + near_row + x * words : packed_;
            middle[i] = has_middle && has_x ? scratch_ + middle_row + x * words : packed_;
          }
          transform<A, is_middle>(near, middle, length, out);
          for (float*& to : out) to += length;
        }
      }
    }
  }

  static FL_INLINE bool is_within(int64_t i, int64_t extent) {
    return static_cast<uint64_t>(i) < static_cast<uint64_t>(extent);
  }

  // A place of which several outputs are sums, for all rows.
  void share(const ChannelTile& tile, int64_t place_x, const float* start, int64_t start_pitch, Shared shared) const {
    each_block<A>(n_, [&](int64_t block, int64_t first, int64_t n) {
      const float* in[A::rows];
      for (int64_t m = 0; m < n; ++m) in[m] = input(place_x, first + m);
      multiply<A>(n, tile.runs(block), in, tile.weights,
                  StoredSums<A>{start + first * start_pitch, start_pitch, sums(shared, tile.index, first)});
    });
  }

  // The outputs (place_y / 2, place_x / 2) of the tiles, but for those outside the image.
  void finish_outputs(const ChannelTile& tile, int64_t place_y, int64_t place_x) const {
    const int64_t y = place_y / 2, x = place_x / 2;
    int64_t rows[max_winograd_rows], n_rows = 0;
    for (int64_t r = 0; r < n_; ++r) {
      rows[n_rows] = r;
      n_rows += 2 * rows_[r].tile_y + y < stage_.y.count && 2 * rows_[r].tile_x + x < stage_.x.count;
    }
    const int64_t corner = y * stage_.y.out_step * stage_.out_width + x * stage_.x.out_step;
    const float *const inputs = input(place_x, 0), *const beside = sums(x == 0 ? left : right, tile.index, 0);
    const float* const above = sums(vertical, tile.index, 0);
    alignas(64) float stored[A::rows * max_tile];
    WinogradBlock<A> outputs{tile.block(stage_, stored)};
    each_block<A>(n_rows, [&](int64_t block, int64_t first, int64_t n) {
      outputs.n = n;
      for (int64_t m = 0; m < n; ++m) {
        const int64_t r = rows[first + m], sample = rows_[r].sample, pixel = rows_[r].pixel + corner;
        outputs.in[m] = inputs + r * shape_.pitch;
        outputs.out[m] = tile.out(tower_, stage_, sample, pixel);
        outputs.last[m] = tile.last + pixel * stage_.out_channels;
        outputs.sample[m] = sample, outputs.pixel[m] = pixel;
        outputs.beside[m] = beside + r * max_tile, outputs.above[m] = above + r * max_tile;
      }
      multiply<A>(n, tile.runs(block), outputs.in, tile.weights, outputs);
      if (outputs.sums) add_parts(tower_, stage_, tile, outputs);
    });
  }

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
