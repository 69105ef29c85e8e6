// Activations and their derivatives, accurate to a few units in the last place (test_mlp_chain.py has the
// bounds). Each is value(z, h, d): h = f(z), d = f'(z). NaN stays NaN.
#pragma once

#include "chain.h"
#include "vectors.h"

namespace fastlangevin {
namespace {

// e^a as scale + scale * minus_one: e^a itself or e^a - 1 follow in one operation, the latter exact near 0.
// a is taken as at least -87 and at most `most`.
template <class V>
struct Exponential {
  typename V::f32 scale, minus_one;

  explicit FL_INLINE Exponential(typename V::f32 a, float most = 88.0f) {
    using f32 = typename V::f32;
    a = V::clamp(a, V::broadcast(-87.0f), V::broadcast(most));
    // The sum with 1.5 · 2^23 + 127 is rounded to an integer, whose low bits are the exponent field of 2^n.
    const f32 magic = V::broadcast(0x1.8p23f + 127.0f);
    const f32 shifted = V::fma(a, V::broadcast(0x1.715476p0f), magic);
    const f32 n = shifted - magic;
    const f32 f = V::fma(n, V::broadcast(-0x1.62e43p-1f), a);
    f32 p = V::fma(f, V::broadcast(0x1.6b96f4p-10f), V::broadcast(0x1.1226d8p-7f));
    p = V::fma(p, f, V::broadcast(0x1.5556f8p-5f));
    p = V::fma(p, f, V::broadcast(0x1.5554b2p-3f));
    p = V::fma(p, f, V::broadcast(0x1.fffffep-2f));
    minus_one = V::fma(f * f, p, f);
    scale = V::from_bits(V::template shift_left<23>(V::bits(shifted)));
  }

  FL_INLINE typename V::f32 exp() const { return V::fma(scale, minus_one, scale); }
  FL_INLINE typename V::f32 expm1() const { return V::fma(scale, minus_one, scale - V::broadcast(1.0f)); }
};

// e^a for a from -87 to 87, to 3 · 2^-24 of itself: 1.6 of the polynomial, the rest of its last roundings. With fewer
// instructions than Exponential, which is also exact near 0 as e^a - 1.
template <class V>
FL_INLINE typename V::f32 short_exponential(typename V::f32 a) {
  using f32 = typename V::f32;
  const f32 magic = V::broadcast(0x1.8p23f + 127.0f);
  const f32 shifted = V::fma(a, V::broadcast(0x1.715476p0f), magic);
  const f32 n = shifted - magic;
  const f32 f = V::fma(n, V::broadcast(-0x1.62e43p-1f), a);
  f32 p = V::fma(f, V::broadcast(0x1.0fa20ep-7f), V::broadcast(0x1.573a1ap-5f));
  p = V::fma(p, f, V::broadcast(0x1.555a7cp-3f));
  p = V::fma(p, f, V::broadcast(0x1.fffdc6p-2f));
  p = V::fma(p, f, V::broadcast(0x1.fffff6p-1f));
  p = V::fma(p, f, V::broadcast(1.0f));
  return V::scale(p, n, shifted);
}

// σ(a) = 1 / (1 + e^-a), and 1 - σ(a) as e^-a σ(a), which keeps its digits where σ(a) is near 1. a is taken as at least
// -87.3, for the results below are subnormal, which processors are 10 to 100 times slower with.
template <class V>
struct Sigmoid {
  typename V::f32 value, complement;

  explicit FL_INLINE Sigmoid(typename V::f32 a) {
    const typename V::f32 one = V::broadcast(1.0f), e = Exponential<V>(-a, 87.3f).exp();
    value = one / (one + e);
    complement = e * value;
  }
};

// e log 2 + log(1 + f), f in [√½ - 1, √2 - 1): Cephes' logf polynomial.
template <class V>
FL_INLINE typename V::f32 log_of_parts(typename V::f32 e, typename V::f32 f) {
  using f32 = typename V::f32;
  f32 y = V::broadcast(7.0376836292e-2f);
  y = V::fma(y, f, V::broadcast(-1.1514610310e-1f));
  y = V::fma(y, f, V::broadcast(1.1676998740e-1f));
  y = V::fma(y, f, V::broadcast(-1.2420140846e-1f));
  y = V::fma(y, f, V::broadcast(1.4249322787e-1f));
  y = V::fma(y, f, V::broadcast(-1.6668057665e-1f));
  y = V::fma(y, f, V::broadcast(2.0000714765e-1f));
  y = V::fma(y, f, V::broadcast(-2.4999993993e-1f));
  y = V::fma(y, f, V::broadcast(3.3333331174e-1f));
  const f32 z = f * f;
  y = y * (f * z);
  y = V::fma(e, V::broadcast(-2.12194440e-4f), y);
  y = V::fma(z, V::broadcast(-0.5f), y);
  return V::fma(e, V::broadcast(0.693359375f), f + y);
}

// log a for a positive normal number.
template <class V>
FL_INLINE typename V::f32 normal_logarithm(typename V::f32 a) {
  using u32 = typename V::u32;
  const u32 exponent = V::bit_and(V::add(V::bits(a), 0u - 0x3f3504f3u), 0xff800000u);
  return log_of_parts<V>(V::signed_to_float(exponent) * V::broadcast(0x1p-23f),
                         V::from_bits(V::subtract(V::bits(a), exponent)) - V::broadcast(1.0f));
}

// log(1 + t) for t in [0, 1]: log(1 + t), or log((1 + t) / 2) and log 2.
template <class V>
FL_INLINE typename V::f32 log1p_unit(typename V::f32 t) {
  using f32 = typename V::f32;
  const f32 zero = V::broadcast(0.0f), half = V::broadcast(0.5f), limit = V::broadcast(0.41421356f);
  const f32 f = t > limit ? V::fma(t, half, -half) : t;
  return log_of_parts<V>(t > limit ? V::broadcast(1.0f) : zero, f);
}

template <class V>
struct LeakyRelu {
  using f32 = typename V::f32;
  f32 slope;

  explicit FL_INLINE LeakyRelu(const float* parameters) : slope(V::broadcast(parameters[0])) {}
  FL_INLINE void value(f32 z, f32& h, f32& d) const {
    const f32 zero = V::broadcast(0.0f);
    d = z > zero ? V::broadcast(1.0f) : slope;
    h = z * d;
  }
};

template <class V>
struct Silu {
  using f32 = typename V::f32;

  explicit FL_INLINE Silu(const float*) {}
  FL_INLINE void value(f32 z, f32& h, f32& d) const {
    const Sigmoid<V> s(z);
    h = z * s.value;
    d = V::fma(h, s.complement, s.value);
  }
};

// z Φ(z). The tail 1 - Φ(|z|) is e^(-z²/2) times a polynomial in 1 / (1 + 0.3 |z|), fitted on [0, 13.5].
template <class V>
struct Gelu {
  using f32 = typename V::f32;

  explicit FL_INLINE Gelu(const float*) {}
  FL_INLINE void value(f32 z, f32& h, f32& d) const {
    const f32 zero = V::broadcast(0.0f), one = V::broadcast(1.0f), half = V::broadcast(0.5f);
    const f32 a = absolute<V>(V::clamp(z, V::broadcast(-13.0f), V::broadcast(13.0f)));  // e^(-z²/2) is 0 beyond
    const f32 square = a * a;
    const f32 rest = V::fma(a, a, -square);  // what rounding took off the square
    f32 e = Exponential<V>(-half * square).exp();
    e = V::fma(e, -half * rest, e);
    const f32 t = one / V::fma(a, V::broadcast(0.3f), one);
    f32 p = V::fma(t, V::broadcast(0.03833429887890816f), V::broadcast(-0.1689520925283432f));
    p = V::fma(p, t, V::broadcast(0.22821755707263947f));
    p = V::fma(p, t, V::broadcast(-0.0759999006986618f));
    p = V::fma(p, t, V::broadcast(0.1421852856874466f));
    p = V::fma(p, t, V::broadcast(0.09483286738395691f));
    p = V::fma(p, t, V::broadcast(0.12188209593296051f));
    p = V::fma(p, t, V::broadcast(0.11949305981397629f));
    p = V::fma(p, t, V::broadcast(6.854079401819035e-06f));
    const f32 tail = e * p;
    const f32 cdf = z < zero ? tail : one - tail;
    h = z * cdf;
    d = V::fma(with_sign<V>(a, z) * V::broadcast(0.3989422804f), e, cdf);
  }
};

// z · σ(2u), u = sqrt(2 / π) (z + 0.044715 z³), which is z (1 + tanh u) / 2.
template <class V>
struct GeluTanh {
  using f32 = typename V::f32;

  explicit FL_INLINE GeluTanh(const float*) {}
  FL_INLINE void value(f32 z, f32& h, f32& d) const {
    const f32 square = z * z, twice = V::broadcast(1.5957691216f), cubic = V::broadcast(0.0713548162726f);
    const Sigmoid<V> s(z * V::fma(square, cubic, twice));
    h = z * s.value;
    d = V::fma(h * s.complement, V::fma(square, V::broadcast(3.0f) * cubic, twice), s.value);
  }
};

// (e^2a - 1) / (e^2a + 1) for a = |z|.
template <class V>
struct Tanh {
  using f32 = typename V::f32;

  explicit FL_INLINE Tanh(const float*) {}
  FL_INLINE void value(f32 z, f32& h, f32& d) const {
    const f32 two = V::broadcast(2.0f);
    const f32 m = Exponential<V>(two * absolute<V>(z)).expm1();
    const f32 t = m / (m + two);
    h = with_sign<V>(t, z);
    d = V::fma(-t, t, V::broadcast(1.0f));
  }
};

// log(1 + e^βz) / β, and z beyond the threshold of βz.
template <class V>
struct Softplus {
  using f32 = typename V::f32;
  f32 beta, threshold;

  explicit FL_INLINE Softplus(const float* parameters)
      : beta(V::broadcast(parameters[0])), threshold(V::broadcast(parameters[1])) {}
  FL_INLINE void value(f32 z, f32& h, f32& d) const {
    const f32 zero = V::broadcast(0.0f), one = V::broadcast(1.0f);
    const f32 a = beta * z;
    const f32 t = Exponential<V>(-absolute<V>(a)).exp();
    const f32 s = one / (one + t);  // σ(|a|)
    h = a > threshold ? z : ((a > zero ? a : zero) + log1p_unit<V>(t)) / beta;
    d = a > threshold ? one : (a < zero ? t * s : s);
  }
};

template <class V>
struct Elu {
  using f32 = typename V::f32;
  f32 alpha;

  explicit FL_INLINE Elu(const float* parameters) : alpha(V::broadcast(parameters[0])) {}
  FL_INLINE void value(f32 z, f32& h, f32& d) const {
    const f32 zero = V::broadcast(0.0f);
    const Exponential<V> e(z);
    h = z > zero ? z : alpha * e.expm1();
    d = z > zero ? V::broadcast(1.0f) : alpha * e.exp();
  }
};

// Calls run with the layer's activation.
template <class V, class Run>
void with_activation(const MlpLayer& layer, const Run& run) {
  switch (layer.activation) {
    case ActivationKind::leaky_relu:
      return run(LeakyRelu<V>(layer.parameters));
    case ActivationKind::silu:
      return run(Silu<V>(layer.parameters));
    case ActivationKind::gelu:
      return run(Gelu<V>(layer.parameters));
    case ActivationKind::gelu_tanh:
      return run(GeluTanh<V>(layer.parameters));
    case ActivationKind::tanh:
      return run(Tanh<V>(layer.parameters));
    case ActivationKind::softplus:
      return run(Softplus<V>(layer.parameters));
    case ActivationKind::elu:
      return run(Elu<V>(layer.parameters));
  }
}

}  // namespace
}  // namespace fastlangevin
