#include "amx.h"
#include "arithmetic_avx512.h"
#include "convnet_bfloat16_avx512.h"

namespace fastlangevin {
namespace {

// Sixteen rows at a time as a tile, whose words are copied beside each other. Windows whose runs are not whole tiles,
// those of images, are multiplied as without AMX.
struct AmxBFloat16Convnet : Avx512BFloat16Convnet {
  using Base = Avx512BFloat16Convnet;
  using Registers = Tiles;
  static constexpr int rows = tile_side;
  static constexpr bool has_tiles = true;

  static FL_INLINE void multiply(int64_t n, const Runs& runs, const word* const* in, const word* weights,
                                 const float* start, float* sums) {
    if (runs.run % tile_side != 0) {
      for (int64_t m = 0; m < n; m += Base::rows) {
        fastlangevin::multiply<Base>(std::min<int64_t>(Base::rows, n - m), runs, in + m, weights, start,
                                     sums + m * max_tile);
      }
    } else if (runs.columns == 4 * tile_side) {
      multiply_tiles<4>(n, runs, in, weights, start, sums);
    } else if (runs.columns == 2 * tile_side) {
      multiply_tiles<2>(n, runs, in, weights, start, sums);
    } else {
      multiply_tiles<1>(n, runs, in, weights, start, sums);
    }
  }

 private:
  // Sums are the first tile registers.
  template <int columns>
  static void multiply_tiles(int64_t n, const Runs& runs, const word* const* in, const word* weights,
                             const float* start, float* sums) {
    constexpr int in_tile = columns, weight_tile = in_tile + 1;
    alignas(64) word copied[tile_side * tile_side] = {};
    each<columns>([&](auto c) { Tiles::load<c>(start + c * tile_side, 0); });
    const int64_t pitch = runs.tile * static_cast<int64_t>(sizeof(word));
    for (int64_t r = 0; r < runs.n_runs; ++r) {
      const word* w = weights + runs.weights_at(r);
      const int64_t at = runs.in_at(r);
      for (int64_t k = 0; k < runs.run; k += tile_side, w += tile_side * runs.tile) {
        for (int64_t m = 0; m < n; ++m) {
          _mm512_store_si512(copied + m * tile_side, _mm512_loadu_si512(in[m] + at + k));
        }
        Tiles::load<in_tile>(copied, tile_pitch);
        each<columns>([&](auto c) {
          constexpr int b = weight_tile + c % (8 - weight_tile);
          Tiles::load<b>(w + c * tile_side, pitch);
          Tiles::multiply_add<c, in_tile, b>();
        });
      }
    }
    each<columns>([&](auto c) { Tiles::store<c>(sums + c * tile_side, sizeof(float) * max_tile); });
  }
};

}  // namespace

const ConvnetKernels convnet_amx_bf16 = make_convnet_kernels<Avx512Arithmetic, AmxBFloat16Convnet>();

}  // namespace fastlangevin
