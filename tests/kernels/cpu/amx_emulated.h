// The tile registers of csrc/cpu/amx.h, number by number.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace fastlangevin {
namespace {

class Tiles {
 public:
  template <int t>
  static void load(const void* from, int64_t pitch) {
    for (int i = 0; i < 16; ++i) std::memcpy(tiles[t][i], static_cast<const char*>(from) + i * pitch, 64);
  }
  template <int t>
  static void store(void* to, int64_t pitch) {
    for (int i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + i * pitch, tiles[t][i], 64);
  }
  template <int t>
  static void zero() {
    std::memset(tiles[t], 0, sizeof tiles[t]);
  }
  template <int sums, int a, int b>
  static void multiply_add() {
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 16; ++j) {
        float halves[2] = {0, 0};
        for (int k = 0; k < 16; ++k) {
          for (int h = 0; h < 2; ++h) {
            halves[h] = flushed(fmaf(part(tiles[a][i][k], h), part(tiles[b][k][j], h), halves[h]));
          }
        }
        float sum;
        std::memcpy(&sum, &tiles[sums][i][j], sizeof sum);
        sum = flushed(flushed(sum) + flushed(halves[0] + halves[1]));
        std::memcpy(&tiles[sums][i][j], &sum, sizeof sum);
      }
    }
  }

 private:
  static float flushed(float a) { return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0f, a) : a; }
  static float part(uint32_t word, int half) {
    const uint32_t bits = half == 0 ? word << 16 : word & 0xffff0000u;
    float a;
    std::memcpy(&a, &bits, sizeof a);
    return flushed(a);
  }

  static inline thread_local uint32_t tiles[8][16][16];
};

}  // namespace
}  // namespace fastlangevin
