// AMX, the processor's unit for products of tiles of bfloat16 numbers with float32 sums.
//
// A product of tiles adds up the 16 even and the 16 odd products of a row and a column, each in float32 in ascending
// order, then the two sums, and that to the element, wherever it lies. Subnormal numbers count as 0.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "../noise.h"
#if defined(FL_EMULATE_AMX)
#include FL_EMULATE_AMX  // class Tiles for processors without AMX (tests/kernels/cpu/amx_emulated.h)
#endif

namespace fastlangevin {
namespace {

constexpr int tile_side = 16;  // rows of a tile; and words a row, each float32 or two bfloat16 numbers
constexpr int tile_words = tile_side * tile_side;
constexpr int64_t tile_pitch = 4 * tile_side;  // bytes from row to row where rows follow each other

#if !defined(FL_EMULATE_AMX)

// The eight tile registers, of 16 rows and 64 bytes a row, while this lives.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int i = 0; i < 8; ++i) shape.row_bytes[i] = 64, shape.rows[i] = tile_side;
    asm volatile("ldtilecfg %0" ::"m"(shape));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles&) = delete;

  // pitch: bytes from row to row.
  template <int t>
  static FL_INLINE void load(const void* from, int64_t pitch) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(pitch), "i"(t) : "memory");
  }
  template <int t>
  static FL_INLINE void store(void* to, int64_t pitch) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(pitch), "i"(t) : "memory");
  }
  template <int t>
  static FL_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(t));
  }
  // sums += a · b: row i of a holds factors 0, 1, …, 31, row k of b the factors 2k and 2k + 1 of 16 columns.
  template <int sums, int a, int b>
  static FL_INLINE void multiply_add() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(a), "i"(b));
  }
};

#endif

// Words of the numbers of low and, in the upper halves, of high, rounded to bfloat16.
FL_INLINE void store_pairs(void* to, __m512 low, __m512 high) {
  const __m512i side_by_side = (__m512i)_mm512_cvtne2ps_pbh(high, low);
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i order = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16)), 16));
  _mm512_store_si512(to, _mm512_permutexvar_epi16(order, side_by_side));
}

template <class F, int... i>
FL_INLINE void each(const F& f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>{}), ...);
}

// f(0), …, f(n - 1), of constants.
template <int n, class F>
FL_INLINE void each(const F& f) {
  each(f, std::make_integer_sequence<int, n>{});
}

}  // namespace
}  // namespace fastlangevin
