// Several vectors as one. What is written once for Lanes<A, count> is computed for all of them operation by operation,
// so that the latencies of one are spent on the others: a processor looks ahead by less than a deviate takes.
#pragma once

#include <utility>

#include "../noise.h"

namespace fastlangevin {
namespace {

template <class Arithmetic, int count>
struct Lanes {
  using A = Arithmetic;
  static constexpr int width = count * A::width;

  struct word {
    typename A::word at[count];
  };
  struct product {
    typename A::product at[count];
  };
  struct u32 {
    typename A::u32 at[count];
  };
  struct f32 {
    typename A::f32 at[count];
  };

  // {f(0), f(1), …}
  template <class Result, class F>
  static FL_INLINE Result each(const F& f) {
    return each<Result>(f, std::make_integer_sequence<int, count>{});
  }
  template <class Result, class F, int... i>
  static FL_INLINE Result each(const F& f, std::integer_sequence<int, i...>) {
    Result result;
    ((result.at[i] = f(i)), ...);
    return result;
  }

  static FL_INLINE word group_low(uint64_t group) {
    return each<word>([&](int i) { return A::group_low(group + static_cast<uint64_t>(i * A::width)); });
  }
  static FL_INLINE word group_high(uint64_t group) {
    return each<word>([&](int i) { return A::group_high(group + static_cast<uint64_t>(i * A::width)); });
  }
  static FL_INLINE word broadcast_word(uint32_t a) {
    return each<word>([&](int) { return A::broadcast_word(a); });
  }
  static FL_INLINE product multiply(const word& a, uint32_t b) {
    return each<product>([&](int i) { return A::multiply(a.at[i], b); });
  }
  static FL_INLINE word low(const product& p) {
    return each<word>([&](int i) { return A::low(p.at[i]); });
  }
  static FL_INLINE word high_xor(const product& p, const word& a, uint32_t b) {
    return each<word>([&](int i) { return A::high_xor(p.at[i], a.at[i], b); });
  }
  static FL_INLINE void to_pairs(const word (&c)[4], u32 (&r)[4]) {
    FL_UNROLL
    for (int i = 0; i < count; ++i) {
      const typename A::word words[4] = {c[0].at[i], c[1].at[i], c[2].at[i], c[3].at[i]};
      typename A::u32 pairs[4];
      A::to_pairs(words, pairs);
      r[0].at[i] = pairs[0], r[1].at[i] = pairs[1], r[2].at[i] = pairs[2], r[3].at[i] = pairs[3];
    }
  }

  static FL_INLINE u32 add(const u32& a, uint32_t b) {
    return each<u32>([&](int i) { return A::add(a.at[i], b); });
  }
  static FL_INLINE u32 subtract(const u32& a, const u32& b) {
    return each<u32>([&](int i) { return A::subtract(a.at[i], b.at[i]); });
  }
  static FL_INLINE u32 bit_and(const u32& a, uint32_t b) {
    return each<u32>([&](int i) { return A::bit_and(a.at[i], b); });
  }
  static FL_INLINE u32 bit_xor(const u32& a, const u32& b) {
    return each<u32>([&](int i) { return A::bit_xor(a.at[i], b.at[i]); });
  }
  template <int n>
  static FL_INLINE u32 shift_left(const u32& a) {
    return each<u32>([&](int i) { return A::template shift_left<n>(a.at[i]); });
  }
  static FL_INLINE f32 signed_to_float(const u32& a) {
    return each<f32>([&](int i) { return A::signed_to_float(a.at[i]); });
  }
  static FL_INLINE f32 middle(const u32& a) {
    return each<f32>([&](int i) { return A::middle(a.at[i]); });
  }
  static FL_INLINE f32 select_bit30(const u32& a, const f32& set, const f32& clear) {
    return each<f32>([&](int i) { return A::select_bit30(a.at[i], set.at[i], clear.at[i]); });
  }
  static FL_INLINE f32 flip_bit31(const u32& a, const f32& b) {
    return each<f32>([&](int i) { return A::flip_bit31(a.at[i], b.at[i]); });
  }

  static FL_INLINE f32 load(const float* at) {
    return each<f32>([&](int i) { return *reinterpret_cast<const typename A::f32*>(at + i * A::width); });
  }
  static FL_INLINE void store(float* at, const f32& a) {
    FL_UNROLL
    for (int i = 0; i < count; ++i) *reinterpret_cast<typename A::f32*>(at + i * A::width) = a.at[i];
  }

  static FL_INLINE f32 broadcast(float a) {
    return each<f32>([&](int) { return A::broadcast(a); });
  }
  static FL_INLINE u32 bits(const f32& a) {
    return each<u32>([&](int i) { return A::bits(a.at[i]); });
  }
  static FL_INLINE f32 from_bits(const u32& a) {
    return each<f32>([&](int i) { return A::from_bits(a.at[i]); });
  }
  static FL_INLINE f32 fma(const f32& a, const f32& b, const f32& c) {
    return each<f32>([&](int i) { return A::fma(a.at[i], b.at[i], c.at[i]); });
  }
  static FL_INLINE f32 mul(const f32& a, const f32& b) {
    return each<f32>([&](int i) { return A::mul(a.at[i], b.at[i]); });
  }
  static FL_INLINE f32 add(const f32& a, const f32& b) {
    return each<f32>([&](int i) { return A::add(a.at[i], b.at[i]); });
  }
  static FL_INLINE f32 sqrt(const f32& a) {
    return each<f32>([&](int i) { return A::sqrt(a.at[i]); });
  }
  static FL_INLINE f32 maximum(const f32& a, const f32& b) {
    return each<f32>([&](int i) { return A::maximum(a.at[i], b.at[i]); });
  }
  static FL_INLINE f32 scale(const f32& a, const f32& n, const f32& shifted) {
    return each<f32>([&](int i) { return A::scale(a.at[i], n.at[i], shifted.at[i]); });
  }

  friend FL_INLINE f32 operator+(const f32& a, const f32& b) {
    return each<f32>([&](int i) { return a.at[i] + b.at[i]; });
  }
  friend FL_INLINE f32 operator-(const f32& a, const f32& b) {
    return each<f32>([&](int i) { return a.at[i] - b.at[i]; });
  }
  friend FL_INLINE f32 operator*(const f32& a, const f32& b) {
    return each<f32>([&](int i) { return a.at[i] * b.at[i]; });
  }
  friend FL_INLINE f32 operator/(const f32& a, const f32& b) {
    return each<f32>([&](int i) { return a.at[i] / b.at[i]; });
  }
};

}  // namespace
}  // namespace fastlangevin
