// Four lanes of the noise stream's arithmetic, for ARM64. A Philox word is one register, a product two.
#pragma once

#include <arm_neon.h>

#include "../noise.h"

namespace fastlangevin {
namespace {

struct NeonArithmetic {
  static constexpr int width = 4;
  // Not arm_neon.h's own types, which not every compiler compares and selects lane by lane.
  using u32 = uint32_t __attribute__((vector_size(16), may_alias));
  using f32 = float __attribute__((vector_size(16), may_alias));
  using word = u32;
  struct product {
    uint32x4_t first, second;  // two 64-bit products each
  };

  static FL_INLINE product groups(uint64_t group) {
    const uint64x2_t first = vaddq_u64(vdupq_n_u64(group), vcombine_u64(vcreate_u64(0), vcreate_u64(1)));
    return {vreinterpretq_u32_u64(first), vreinterpretq_u32_u64(vaddq_u64(first, vdupq_n_u64(2)))};
  }
  static FL_INLINE word group_low(uint64_t group) { return low(groups(group)); }
  static FL_INLINE word group_high(uint64_t group) { return high(groups(group)); }
  static FL_INLINE word broadcast_word(uint32_t a) { return vdupq_n_u32(a); }
  static FL_INLINE product multiply(word a, uint32_t b) {
    const uint32x4_t c = vdupq_n_u32(b);
    return {vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), vget_low_u32(c))),
            vreinterpretq_u32_u64(vmull_high_u32(a, c))};
  }
  static FL_INLINE word low(product p) { return vuzp1q_u32(p.first, p.second); }
  static FL_INLINE word high(product p) { return vuzp2q_u32(p.first, p.second); }
  static FL_INLINE word high_xor(product p, word a, uint32_t b) {
    return veorq_u32(veorq_u32(a, vdupq_n_u32(b)), high(p));
  }
  // Lane k of all four is group k: `store` brings the deviates into order.
  static FL_INLINE void to_pairs(const word (&c)[4], u32 (&r)[4]) {
    r[0] = c[0], r[1] = c[1], r[2] = c[2], r[3] = c[3];
  }

  static FL_INLINE u32 add(u32 a, uint32_t b) { return vaddq_u32(a, vdupq_n_u32(b)); }
  static FL_INLINE u32 subtract(u32 a, u32 b) { return vsubq_u32(a, b); }
  static FL_INLINE u32 bit_and(u32 a, uint32_t b) { return vandq_u32(a, vdupq_n_u32(b)); }
  static FL_INLINE u32 bit_xor(u32 a, u32 b) { return veorq_u32(a, b); }
  template <int n>
  static FL_INLINE u32 shift_left(u32 a) {
    return vshlq_n_u32(a, n);
  }
  template <int n>
  static FL_INLINE u32 shift_right(u32 a) {
    return vshrq_n_u32(a, n);
  }
  static FL_INLINE f32 signed_to_float(u32 a) { return vcvtq_f32_s32(vreinterpretq_s32_u32(a)); }
  static FL_INLINE f32 middle(u32 a) {
    return vcvtq_f32_u32(vorrq_u32(vbicq_u32(a, vdupq_n_u32(0xff)), vdupq_n_u32(0x80)));
  }
  static FL_INLINE f32 select_bit30(u32 a, f32 set, f32 clear) {
    return vbslq_f32(vtstq_u32(a, vdupq_n_u32(0x40000000)), set, clear);
  }
  static FL_INLINE f32 flip_bit31(u32 a, f32 b) { return from_bits(veorq_u32(bits(b), bit_and(a, 0x80000000u))); }

  static FL_INLINE f32 broadcast(float a) { return vdupq_n_f32(a); }
  static FL_INLINE u32 bits(f32 a) { return vreinterpretq_u32_f32(a); }
  static FL_INLINE f32 from_bits(u32 a) { return vreinterpretq_f32_u32(a); }
  static FL_INLINE f32 fma(f32 a, f32 b, f32 c) { return vfmaq_f32(c, a, b); }
  static FL_INLINE f32 mul(f32 a, f32 b) { return vmulq_f32(a, b); }
  static FL_INLINE f32 add(f32 a, f32 b) { return vaddq_f32(a, b); }
  static FL_INLINE f32 sqrt(f32 a) { return vsqrtq_f32(a); }
  static FL_INLINE f32 maximum(f32 a, f32 b) { return a > b ? a : b; }
  // a · 2^n, n = shifted - (1.5 · 2^23 + 127): the low bits of shifted are the exponent field of 2^n.
  static FL_INLINE f32 scale(f32 a, f32, f32 shifted) { return a * from_bits(shift_left<23>(bits(shifted))); }
  static FL_INLINE f32 clamp(f32 a, f32 lo, f32 hi) { return vminq_f32(hi, vmaxq_f32(lo, a)); }

  static FL_INLINE void store(float* out, const f32 (&z)[4]) {
    const float32x4x4_t deviates = {{z[0], z[1], z[2], z[3]}};
    vst4q_f32(out, deviates);
  }
};

}  // namespace
}  // namespace fastlangevin
