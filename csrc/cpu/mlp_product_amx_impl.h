// Products of an MLP's weights with blocks of chains in bfloat16 by AMX: a tile of weights, 16 features by 32, times
// one of 32 features by 16 chains. A sum does not depend on where its chain sits.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../small_floats.h"
#include "amx.h"
#include "mlp_product_impl.h"

namespace fastlangevin {
namespace {

template <class V>
struct TileProducts {
  using Registers = Tiles;

  static_assert(V::width == tile_side, "a vector is a row of a tile");
  static constexpr int64_t depth = 2 * tile_side;  // features that a tile adds up

  static int64_t packed_size(int64_t n_out, int64_t n_in) {
    return tiles_of(n_out, tile_side) * tiles_of(n_in, depth) * tile_words;
  }

  // In the order: 16 features of the output, 32 of the input.
  static void pack(const float* at, int64_t row_stride, int64_t column_stride, int64_t n_out, int64_t n_in,
                   float* packed) {
    const auto weight = [&](int64_t i, int64_t j) -> uint32_t {
      return i < n_out && j < n_in ? narrow_bfloat16(at[i * row_stride + j * column_stride]).bits : 0;
    };
    uint32_t* to = reinterpret_cast<uint32_t*>(packed);
    for (int64_t row = 0; row < n_out; row += tile_side) {
      for (int64_t column = 0; column < n_in; column += depth) {
        for (int64_t i = row; i < row + tile_side; ++i) {
          for (int64_t j = column; j < column + depth; j += 2) *to++ = weight(i, j) | weight(i, j + 1) << 16;
        }
      }
    }
  }

  template <class B>
  static int64_t scratch_size(int64_t widest) {
    return tiles_of(widest, depth) * B::columns * tile_words;
  }

  template <class B, class Finish>
  static FL_INLINE void product(const float* weights, const float* bias, int64_t n_in, int64_t n_out, const float* in,
                                float*, float* work, const Finish& finish) {
    const int64_t n_deep = tiles_of(n_in, depth), n_tiles = tiles_of(n_out, tile_side);
    round_block<B>(in, n_in, work);
    int64_t tile = 0;
    const auto run = [&](auto n) {
      constexpr int rows = decltype(n)::value;
      alignas(64) float sums[rows * B::columns * tile_words];
      multiply<B::columns, rows>(weights + tile * n_deep * tile_words, work, n_deep, sums);
      const int64_t first = tile * tile_side, end = std::min(n_out, first + rows * tile_side);
      for (int64_t row = first; row < end; ++row) {
        const typename V::f32 b = V::broadcast(bias ? bias[row] : 0.0f);
        FL_UNROLL
        for (int c = 0; c < B::columns; ++c) {
          const int64_t at = ((row - first) * B::columns + c) * tile_side;
          finish(row, row * B::chains + c * tile_side, load<V>(sums + at) + b);
        }
      }
      tile += rows;
    };
    while (tile + 2 <= n_tiles) run(std::integral_constant<int, 2>{});
    if (tile < n_tiles) run(std::integral_constant<int, 1>{});
  }

 private:
  static int64_t tiles_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

  // In the order: 32 features, 16 chains.
  template <class B>
  static void round_block(const float* in, int64_t n_in, float* to) {
    const typename V::f32 zero = V::broadcast(0.0f);
    for (int64_t k = 0; k < tiles_of(n_in, depth) * depth; k += 2) {
      FL_UNROLL
      for (int c = 0; c < B::columns; ++c) {
        const float* const from = in + k * B::chains + c * tile_side;
        const typename V::f32 low = k < n_in ? load<V>(from) : zero;
        const typename V::f32 high = k + 1 < n_in ? load<V>(from + B::chains) : zero;
        store_pairs(to + ((k / depth * B::columns + c) * tile_side + k % depth / 2) * tile_side, low, high);
      }
    }
  }

  // sums (16 · rows, 16 · columns) = weights · in.
  template <int columns, int rows>
  static FL_INLINE void multiply(const float* weights, const float* in, int64_t n_deep, float* sums) {
    constexpr int in_tile = rows * columns, weight_tile = in_tile + columns;
    each<rows * columns>([](auto i) { Tiles::zero<i>(); });
    for (int64_t k = 0; k < n_deep; ++k) {
      each<columns>([&](auto c) { Tiles::load<in_tile + c>(in + (k * columns + c) * tile_words, tile_pitch); });
      each<rows>([&](auto r) {
        Tiles::load<weight_tile + r>(weights + (r * n_deep + k) * tile_words, tile_pitch);
        each<columns>([&](auto c) { Tiles::multiply_add<r * columns + c, weight_tile + r, in_tile + c>(); });
      });
    }
    each<rows>([&](auto r) {
      each<columns>([&](auto c) {
        float* const to = sums + r * columns * tile_words + c * tile_side;
        Tiles::store<r * columns + c>(to, columns * tile_pitch);
      });
    });
  }
};

}  // namespace
}  // namespace fastlangevin
