// What becomes of the sums of a stage of a convnet, over an arithmetic A. Internal linkage, as in kernels_impl.h.
#pragma once

#include "convnet.h"
#include "products_impl.h"

namespace fastlangevin {
namespace {

// The outputs of a block, a pixel a row: at most A::rows whose sums are of the same words.
template <class A>
struct Block {
  int64_t n;
  const typename A::word* in[A::rows];
  int64_t sample[A::rows], pixel[A::rows];  // of the output
};

// What a tile of a stage works on.
template <class A>
struct Tile {
  int64_t channel, width;
  const typename A::word* weights;
  const float *start, *last;
  typename A::word* scratch;
  float* score;
  double* parts;  // of the energies, or null
};

// The sum of n products, a multiple of `panel`: of float32 numbers they are exact in float64. Lane l adds up those from
// l on, panel apart; then halves are added until one is left.
FL_INLINE double dot(const float* a, const float* b, int64_t n) {
  double lanes[panel];
  for (int64_t l = 0; l < panel; ++l) lanes[l] = static_cast<double>(a[l]) * b[l];
  for (int64_t i = panel; i < n; i += panel) {
    for (int64_t l = 0; l < panel; ++l) lanes[l] += static_cast<double>(a[i + l]) * b[i + l];
  }
  for (int64_t half = panel / 2; half > 0; half /= 2) {
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// The part of the energy that a tile of a block makes up. An activation's product with the gradient at it is that of
// its sum with the gradient at the sum.
template <class A>
void add_parts(const Tower& tower, const Stage& stage, const Tile<A>& tile, const Block<A>& block, const float* sums) {
  const typename A::f32 slope = A::broadcast(stage.slope);
  const int64_t panels = stage.out_channels / panel, a_sample = energy_parts(tower);
  alignas(64) float gradient[max_tile];
  for (int64_t m = 0; m < block.n; ++m, sums += max_tile) {
    const float* const last = tile.last + block.pixel[m] * stage.out_channels;
    for (int64_t c = 0; c < tile.width; c += A::width) {
      const typename A::f32 value = A::load(last + c);
      A::store(gradient + c, A::where_positive(A::load(sums + c), value, A::mul(slope, value)));
    }
    tile.parts[block.sample[m] * a_sample + block.pixel[m] * panels + tile.channel / panel] =
        dot(sums, gradient, tile.width);
  }
}

// In the order of the pixels and their tiles, whatever the order in which they were computed.
inline void add_energies(const Tower& tower, const EnergyArgs& energies, int64_t n) {
  const Stage& stage = tower.stages[tower.turn];
  const int64_t pixels = stage.y.count * stage.x.count, panels = stage.out_channels / panel;
  const double* part = energies.parts;
  for (int64_t i = 0; i < n; ++i) {
    double sum = energies.offset;
    for (int64_t p = 0; p < pixels; ++p, part += panels) {
      for (int64_t c = 0; c < stage.out_channels; c += tile_width(stage, c)) sum += part[c / panel];
    }
    energies.energy[i] = static_cast<float>(-sum);
  }
}

template <Finish kind, class A>
FL_INLINE void finish(const Tower& tower, const Stage& stage, const Tile<A>& tile, const Block<A>& block,
                      const float* sums) {
  const typename A::f32 slope = A::broadcast(stage.slope);
  const int64_t out_words = stage.out_channels / A::channels_a_word;
  for (int64_t m = 0; m < block.n; ++m, sums += max_tile) {
    typename A::word* const out = tile.scratch + block.sample[m] * tower.sample_words + stage.out +
                                  block.pixel[m] * out_words + tile.channel / A::channels_a_word;
    const float* const last = tile.last + block.pixel[m] * stage.out_channels;
    for (int64_t c = 0; c < tile.width; c += A::width) {
      typename A::word* const to = out + c / A::channels_a_word;
      const typename A::f32 sum = A::load(sums + c);
      const typename A::f32 sign = kind == Finish::mask ? A::widen(to) : sum;
      const typename A::f32 value = kind == Finish::turn ? A::load(last + c) : sum;
      A::narrow(to, A::where_positive(sign, value, A::mul(slope, value)));
    }
  }
}

// For all but Finish::score.
template <class A>
FL_INLINE void finish(const Tower& tower, const Stage& stage, const Tile<A>& tile, const Block<A>& block,
                      const float* sums) {
  if (stage.finish == Finish::activate) {
    finish<Finish::activate>(tower, stage, tile, block, sums);
  } else if (stage.finish == Finish::turn) {
    if (tile.parts) add_parts(tower, stage, tile, block, sums);
    finish<Finish::turn>(tower, stage, tile, block, sums);
  } else {
    finish<Finish::mask>(tower, stage, tile, block, sums);
  }
}

}  // namespace
}  // namespace fastlangevin
