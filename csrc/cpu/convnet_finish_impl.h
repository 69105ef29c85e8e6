// What becomes of the sums of a stage of a convnet, over an arithmetic A. Internal linkage, as in kernels_impl.h.
#pragma once

#include <type_traits>

#include "convnet.h"
#include "products_impl.h"

namespace fastlangevin {
namespace {

// The outputs of a block of a tile, a pixel a row: at most A::rows whose sums are of the same words. What the sums
// begin with and what becomes of them, in all stages but those of Finish::score.
template <class A>
struct Block {
  using f32 = typename A::f32;
  using word = typename A::word;

  Finish kind;
  float slope;
  const float* starts;
  float* sums;  // of Finish::turn: null, or where they go besides, rows max_tile apart
  int64_t n = 0;
  const word* in[A::rows] = {};
  word* out[A::rows] = {};
  const float* last[A::rows] = {};                    // of Finish::turn
  int64_t sample[A::rows] = {}, pixel[A::rows] = {};  // of the output

  FL_INLINE f32 start(int64_t, int64_t c) const { return A::load(starts + c); }

  template <int rows, int vectors>
  FL_INLINE void finish(int64_t column, const f32 (&sum)[rows][vectors]) const {
    each_kind([&](auto as) {
      const f32 slopes = A::broadcast(slope);
      FL_UNROLL
      for (int m = 0; m < rows; ++m) {
        const Row row = at(m, column);
        FL_UNROLL
        for (int v = 0; v < vectors; ++v) put<as>(row, v * A::width, sum[m][v], slopes);
      }
    });
  }

  // Likewise, of sums that are in memory, rows max_tile apart.
  FL_INLINE void finish_stored(int64_t width, const float* stored) const {
    each_kind([&](auto as) {
      const f32 slopes = A::broadcast(slope);
      for (int64_t m = 0; m < n; ++m, stored += max_tile) {
        const Row row = at(m, 0);
        for (int64_t c = 0; c < width; c += A::width) put<as>(row, c, A::load(stored + c), slopes);
      }
    });
  }

 private:
  template <class Run>
  FL_INLINE void each_kind(const Run& run) const {
    if (kind == Finish::activate) {
      run(std::integral_constant<Finish, Finish::activate>());
    } else if (kind == Finish::mask) {
      run(std::integral_constant<Finish, Finish::mask>());
    } else {
      run(std::integral_constant<Finish, Finish::turn>());
    }
  }

  struct Row {
    word* out;
    const float* last;
    float* sums;
  };

  FL_INLINE Row at(int64_t m, int64_t c) const {
    return {out[m] + c / A::channels_a_word, last[m] + c, sums ? sums + m * max_tile + c : nullptr};
  }

  template <Finish as>
  static FL_INLINE void put(const Row& row, int64_t c, f32 sum, f32 slopes) {
    word* const to = row.out + c / A::channels_a_word;
    const f32 sign = as == Finish::mask ? A::widen(to) : sum;
    const f32 value = as == Finish::turn ? A::load(row.last + c) : sum;
    if (as == Finish::turn && row.sums) A::store(row.sums + c, sum);
    A::narrow(to, A::where_positive(sign, value, A::mul(slopes, value)));
  }
};

// What a tile of a stage works on.
template <class A>
struct Tile {
  int64_t channel, width;
  const typename A::word* weights;
  const float *start, *last;
  typename A::word* scratch;
  double* parts;  // of the energies, or null

  // sums: used if parts are wanted.
  FL_INLINE Block<A> block(const Stage& stage, float* sums) const {
    return {stage.finish, stage.slope, start, parts && stage.finish == Finish::turn ? sums : nullptr};
  }

  FL_INLINE typename A::word* out(const Tower& tower, const Stage& stage, int64_t sample, int64_t pixel) const {
    return scratch + sample * tower.sample_words + stage.out +
           (pixel * stage.out_channels + channel) / A::channels_a_word;
  }
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
void add_parts(const Tower& tower, const Stage& stage, const Tile<A>& tile, const Block<A>& block) {
  const typename A::f32 slope = A::broadcast(stage.slope);
  const int64_t panels = stage.out_channels / panel, a_sample = energy_parts(tower);
  alignas(64) float gradient[max_tile];
  const float* sums = block.sums;
  for (int64_t m = 0; m < block.n; ++m, sums += max_tile) {
    for (int64_t c = 0; c < tile.width; c += A::width) {
      const typename A::f32 value = A::load(block.last[m] + c);
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

}  // namespace
}  // namespace fastlangevin
