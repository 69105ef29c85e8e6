// Sums over windows of pixels as products of rows and packed weights: what convnets and native programs share.
#pragma once

#include <cstdint>

#include "../noise.h"

namespace fastlangevin {

constexpr int64_t panel = 16;     // packed weights are padded with zeros to whole panels of output channels
constexpr int64_t max_tile = 64;  // output channels whose weights lie together

// Along one axis: output i reads the inputs first + i * step + t * dilation for t in [0, window), those outside
// [0, extent) being zero, and lies at out_first + i * out_step.
struct Axis {
  int64_t count, first, step, window, extent, out_first, out_step, dilation = 1;
};

// The width of the tile that begins where `left` output channels are left, padded to whole panels.
FL_INLINE int64_t tile_of(int64_t left) { return left >= max_tile ? max_tile : left >= 32 ? 32 : 16; }

}  // namespace fastlangevin
