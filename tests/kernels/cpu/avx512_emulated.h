// The AVX-512 intrinsics that csrc/cpu uses, lane by lane in plain C++, so that a processor without them can check the
// kernels' logic. Force-included before csrc/cpu/kernels_avx512.cpp, which is then compiled without -mavx512*.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

template <class Lane>
union Lanes512 {
  Lane lane[64 / sizeof(Lane)];
  __m512 f;
  __m512i i;
};
template <class Lane>
Lanes512<Lane> lanes(__m512i a) {
  Lanes512<Lane> b;
  b.i = a;
  return b;
}
inline Lanes512<float> lanes(__m512 a) {
  Lanes512<float> b;
  b.f = a;
  return b;
}
template <class Lane, class F>
__m512i make(const F& f) {
  Lanes512<Lane> r;
  for (unsigned k = 0; k < 64 / sizeof(Lane); ++k) r.lane[k] = static_cast<Lane>(f(k));
  return r.i;
}
template <class F>
__m512 make_float(const F& f) {
  Lanes512<float> r;
  for (unsigned k = 0; k < 16; ++k) r.lane[k] = f(k);
  return r.f;
}

inline __m512 set1_ps(float a) {
  return make_float([&](unsigned) { return a; });
}
inline __m512i set1_epi32(int a) {
  return make<uint32_t>([&](unsigned) { return a; });
}
inline __m512i set1_epi64(long long a) {
  return make<uint64_t>([&](unsigned) { return a; });
}
template <class... T>
__m512i setr_epi32(T... a) {
  const int32_t v[] = {a...};
  return make<int32_t>([&](unsigned k) { return v[k]; });
}
template <class... T>
__m512i setr_epi64(T... a) {
  const int64_t v[] = {a...};
  return make<int64_t>([&](unsigned k) { return v[k]; });
}
inline __m512i add_epi64(__m512i a, __m512i b) {
  return make<uint64_t>([&](unsigned k) { return lanes<uint64_t>(a).lane[k] + lanes<uint64_t>(b).lane[k]; });
}
inline __m512i srli_epi64(__m512i a, int n) {
  return make<uint64_t>([&](unsigned k) { return lanes<uint64_t>(a).lane[k] >> n; });
}
inline __m512i mul_epu32(__m512i a, __m512i b) {
  return make<uint64_t>([&](unsigned k) {
    return (lanes<uint64_t>(a).lane[k] & 0xffffffffu) * (lanes<uint64_t>(b).lane[k] & 0xffffffffu);
  });
}
inline __m512i ternarylogic_epi64(__m512i a, __m512i b, __m512i c, int table) {
  return make<uint64_t>([&](unsigned k) {
    uint64_t r = 0;
    for (int bit = 0; bit < 64; ++bit) {
      const auto at = [&](__m512i v) { return lanes<uint64_t>(v).lane[k] >> bit & 1; };
      r |= static_cast<uint64_t>(table >> (at(a) << 2 | at(b) << 1 | at(c)) & 1) << bit;
    }
    return r;
  });
}
inline __m512i permutex2var_epi32(__m512i a, __m512i index, __m512i b) {
  return make<uint32_t>([&](unsigned k) {
    const uint32_t n = lanes<uint32_t>(index).lane[k];
    return lanes<uint32_t>(n & 16 ? b : a).lane[n & 15];
  });
}
inline __m512i add_epi32(__m512i a, __m512i b) {
  return make<uint32_t>([&](unsigned k) { return lanes<uint32_t>(a).lane[k] + lanes<uint32_t>(b).lane[k]; });
}
inline __m512i and_si512(__m512i a, __m512i b) {
  return make<uint64_t>([&](unsigned k) { return lanes<uint64_t>(a).lane[k] & lanes<uint64_t>(b).lane[k]; });
}
inline __m512i xor_si512(__m512i a, __m512i b) {
  return make<uint64_t>([&](unsigned k) { return lanes<uint64_t>(a).lane[k] ^ lanes<uint64_t>(b).lane[k]; });
}
inline __m512i slli_epi32(__m512i a, int n) {
  return make<uint32_t>([&](unsigned k) { return lanes<uint32_t>(a).lane[k] << n; });
}
inline __m512i srli_epi32(__m512i a, int n) {
  return make<uint32_t>([&](unsigned k) { return lanes<uint32_t>(a).lane[k] >> n; });
}
inline __m512i sub_epi32(__m512i a, __m512i b) {
  return make<uint32_t>([&](unsigned k) { return lanes<uint32_t>(a).lane[k] - lanes<uint32_t>(b).lane[k]; });
}
inline __m512 cvtepi32_ps(__m512i a) {
  return make_float([&](unsigned k) { return static_cast<float>(lanes<int32_t>(a).lane[k]); });
}
inline __m512 cvtepu32_ps(__m512i a) {
  return make_float([&](unsigned k) { return static_cast<float>(lanes<uint32_t>(a).lane[k]); });
}
inline __mmask16 test_epi32_mask(__m512i a, __m512i b) {
  unsigned mask = 0;
  for (unsigned k = 0; k < 16; ++k) mask |= ((lanes<uint32_t>(a).lane[k] & lanes<uint32_t>(b).lane[k]) != 0) << k;
  return static_cast<__mmask16>(mask);
}
inline __m512 mask_blend_ps(__mmask16 mask, __m512 a, __m512 b) {
  return make_float([&](unsigned k) { return mask >> k & 1 ? lanes(b).lane[k] : lanes(a).lane[k]; });
}
inline __m512i castps_si512(__m512 a) { return lanes(a).i; }
inline __m512 castsi512_ps(__m512i a) { return lanes<float>(a).f; }
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return make_float([&](unsigned k) { return std::fma(lanes(a).lane[k], lanes(b).lane[k], lanes(c).lane[k]); });
}
inline __m512 mul_ps(__m512 a, __m512 b) {
  return make_float([&](unsigned k) { return lanes(a).lane[k] * lanes(b).lane[k]; });
}
inline __m512 add_ps(__m512 a, __m512 b) {
  return make_float([&](unsigned k) { return lanes(a).lane[k] + lanes(b).lane[k]; });
}
inline __m512 sqrt_ps(__m512 a) {
  return make_float([&](unsigned k) { return std::sqrt(lanes(a).lane[k]); });
}
inline __m512 max_ps(__m512 a, __m512 b) {
  return make_float(
      [&](unsigned k) { return lanes(a).lane[k] > lanes(b).lane[k] ? lanes(a).lane[k] : lanes(b).lane[k]; });
}
inline __m512 min_ps(__m512 a, __m512 b) {
  return make_float(
      [&](unsigned k) { return lanes(a).lane[k] < lanes(b).lane[k] ? lanes(a).lane[k] : lanes(b).lane[k]; });
}
inline __m512 scalef_ps(__m512 a, __m512 b) {
  return make_float(
      [&](unsigned k) { return std::ldexp(lanes(a).lane[k], static_cast<int>(std::floor(lanes(b).lane[k]))); });
}
// The two below move floats within 128-bit lanes: lane k / 4, place k % 4.
inline __m512 unpacklo_ps(__m512 a, __m512 b) {
  return make_float([&](unsigned k) { return lanes(k & 1 ? b : a).lane[(k & ~3u) + (k & 3) / 2]; });
}
inline __m512 unpackhi_ps(__m512 a, __m512 b) {
  return make_float([&](unsigned k) { return lanes(k & 1 ? b : a).lane[(k & ~3u) + 2 + (k & 3) / 2]; });
}
inline void storeu_ps(float* out, __m512 a) { std::memcpy(out, &a, sizeof a); }

}  // namespace emulated

#define _mm512_set1_ps emulated::set1_ps
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_set1_epi64 emulated::set1_epi64
#undef _mm512_setr_epi32
#define _mm512_setr_epi32 emulated::setr_epi32
#undef _mm512_setr_epi64
#define _mm512_setr_epi64 emulated::setr_epi64
#define _mm512_add_epi64 emulated::add_epi64
#define _mm512_srli_epi64 emulated::srli_epi64
#define _mm512_mul_epu32 emulated::mul_epu32
#undef _mm512_ternarylogic_epi64
#define _mm512_ternarylogic_epi64 emulated::ternarylogic_epi64
#undef _mm512_ternarylogic_epi32
#define _mm512_ternarylogic_epi32 emulated::ternarylogic_epi64
#define _mm512_permutex2var_epi32 emulated::permutex2var_epi32
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_and_si512 emulated::and_si512
#define _mm512_xor_si512 emulated::xor_si512
#define _mm512_slli_epi32 emulated::slli_epi32
#define _mm512_srli_epi32 emulated::srli_epi32
#define _mm512_sub_epi32 emulated::sub_epi32
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtepu32_ps emulated::cvtepu32_ps
#define _mm512_test_epi32_mask emulated::test_epi32_mask
#define _mm512_mask_blend_ps emulated::mask_blend_ps
#define _mm512_castps_si512 emulated::castps_si512
#define _mm512_castsi512_ps emulated::castsi512_ps
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_mul_ps emulated::mul_ps
#define _mm512_add_ps emulated::add_ps
#define _mm512_sqrt_ps emulated::sqrt_ps
#define _mm512_max_ps emulated::max_ps
#define _mm512_min_ps emulated::min_ps
#undef _mm512_scalef_ps
#define _mm512_scalef_ps emulated::scalef_ps
#define _mm512_unpacklo_ps emulated::unpacklo_ps
#define _mm512_unpackhi_ps emulated::unpackhi_ps
#define _mm512_storeu_ps emulated::storeu_ps
