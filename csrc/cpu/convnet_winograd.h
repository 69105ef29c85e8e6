// Stages whose windows are twice as long as their steps, in 9 products for 16: Winograd's minimal filtering
// F(2×2, 2×2) (Lavin and Gray, arXiv:1509.09308), of float32.
//
// Along an axis, the outputs i and i + 1, i even, read three inputs of each phase, that is each remainder of the
// input's place modulo the step. With these, d, and the phase's two weights, g,
//
//     out[i] = d0 g0 + d1 g1 = m0 + m1    m0 = (d0 - d1) g0    m1 = d1 (g0 + g1)
//     out[i + 1] = d1 g0 + d2 g1 = m1 + m2                     m2 = (d2 - d1) g1
//
// In two dimensions a tile of 2×2 outputs has 3×3 places, each with a sum over all channels and phases. Such a sum is a
// product of a row of transformed inputs, one a tile, with weights that are transformed when they are packed.
// An output depends on no input outside its window.
#pragma once

#include <cstdint>

#include "convnet.h"

namespace fastlangevin {

constexpr int64_t winograd_places = 9;
constexpr int64_t winograd_order[] = {1, 0, 2};  // of the places along an axis, in time and in the packed weights
constexpr int64_t max_winograd_rows = 126;       // whole blocks of every arithmetic, as its thirds are

struct WinogradShape {
  int64_t tiles_y, tiles_x;
  int64_t depth, pitch;  // words of a row, and from row to row
  int64_t rows;          // computed together
  int64_t channel_tiles;
};

FL_INLINE WinogradShape winograd_shape(const Stage& stage) {
  WinogradShape shape{};
  shape.tiles_y = (stage.y.count + 1) / 2, shape.tiles_x = (stage.x.count + 1) / 2;
  shape.depth = stage.y.step * stage.x.step * stage.in_words;
  shape.pitch = shape.depth + panel;  // no power of two: the rows of a block lie in different sets of the cache
  const int64_t third = max_winograd_rows / 3;
  // At most about 1 MB of memory, and of short rows, whose weights are few, a fifth of that.
  shape.rows = shape.depth <= 128 ? third : shape.depth <= 512 ? 3 * third : shape.depth <= 1024 ? 2 * third : third;
  for (int64_t channel = 0; channel < stage.out_channels; channel += tile_width(stage, channel)) ++shape.channel_tiles;
  return shape;
}

// Scratch memory: of three places the transformed inputs, and three sums a tile and output channel.
FL_INLINE int64_t winograd_work_words(const WinogradShape& shape) {
  return 3 * shape.rows * (shape.pitch + shape.channel_tiles * max_tile);
}

}  // namespace fastlangevin
