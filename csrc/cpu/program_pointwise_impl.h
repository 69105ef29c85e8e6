// Pointwise programs: each step is computed for a chunk of elements at a time, which stays in the L1 cache.
#pragma once

#include "activations.h"
#include "program_places_impl.h"

namespace fastlangevin {
namespace {

// What a step computes of values a, b, c and numbers n, m. Written by network/native/operations.py.
enum class Op : int64_t {
  move,        // a
  constant,    // n
  add,         // a + n b
  multiply,    // a b
  divide,      // a / b
  add_number,  // a + n
  multiply_number,
  divide_number,
  number_divide,  // n / a
  multiply_add,   // a b + c
  maximum,
  minimum,
  clamp,  // to [n, m]
  absolute,
  sign,
  square_root,
  exponential,
  logarithm,
  log1p,
  expm1,
  power,  // a^n, n a whole number that is not negative
  // Comparisons are 1 or 0.
  greater,
  greater_equal,
  equal,
  not_equal,
  where,  // b where a is not 0, else c
  relu,
  leaky_relu,  // slope n
  sigmoid,
  silu,
  gelu,
  gelu_tanh,
  tanh,
  softplus,  // beta n, threshold m
  elu,       // alpha n
  // Gradients a at the result times the derivative: at the argument or result b of ReLU above the threshold n, and of
  // LeakyReLU; at the result b of the sigmoid and of tanh; at the argument b of the others. hardtanh: limits n, m.
  threshold_backward,
  leaky_relu_backward,
  sigmoid_backward,
  tanh_backward,
  silu_backward,
  gelu_backward,
  gelu_tanh_backward,
  softplus_backward,
  elu_backward,
  hardtanh_backward,
};

constexpr int64_t most_values = 64;

template <class V>
FL_INLINE typename V::f32 square_root(typename V::f32 a) {
  for (int i = 0; i < V::width; ++i) a[i] = std::sqrt(a[i]);
  return a;
}

// log a: a = 2^e m with m in [√½, √2).
template <class V>
FL_INLINE typename V::f32 logarithm(typename V::f32 a) {
  using f32 = typename V::f32;
  const f32 zero = V::broadcast(0.0f), one = V::broadcast(1.0f);
  f32 m = a, e = zero;
  for (int i = 0; i < V::width; ++i) {
    int exponent;
    m[i] = std::frexp(a[i], &exponent);
    e[i] = static_cast<float>(exponent);
  }
  const f32 low = V::broadcast(0.70710678f);
  e = m < low ? e - one : e;
  const f32 f = m < low ? m + m - one : m - one;
  f32 y = log_of_parts<V>(e, f);
  const f32 infinity = V::broadcast(INFINITY);
  y = a == zero ? -infinity : y;
  return a > zero ? (a == infinity ? infinity : y) : (a == zero ? y : V::broadcast(NAN));
}

// 0 where an exponential of a very negative number is to vanish, infinite beyond the largest, NaN for NaN.
template <class V>
FL_INLINE typename V::f32 exponential(typename V::f32 a) {
  using f32 = typename V::f32;
  f32 e = Exponential<V>(a).exp();
  e = a < V::broadcast(-87.3f) ? V::broadcast(0.0f) : e;
  e = a > V::broadcast(88.7f) ? V::broadcast(INFINITY) : e;
  return a == a ? e : a;
}

template <class V>
FL_INLINE typename V::f32 expm1(typename V::f32 a) {
  using f32 = typename V::f32;
  f32 e = Exponential<V>(a).expm1();
  e = a > V::broadcast(88.7f) ? V::broadcast(INFINITY) : e;
  return a == a ? e : a;
}

// What log(1 + a) loses by rounding 1 + a is added again.
template <class V>
FL_INLINE typename V::f32 log1p(typename V::f32 a) {
  using f32 = typename V::f32;
  const f32 one = V::broadcast(1.0f), sum = one + a;
  const f32 lost = a - (sum - one);
  const f32 y = logarithm<V>(sum) + lost / sum;
  return sum - sum == V::broadcast(0.0f) && sum > V::broadcast(0.0f) ? y : logarithm<V>(sum);
}

// p(|n|) by squaring.
template <class V>
FL_INLINE typename V::f32 power(typename V::f32 a, int64_t n) {
  typename V::f32 result = V::broadcast(1.0f);
  for (; n > 0; n >>= 1) {
    if (n & 1) result = result * a;
    a = a * a;
  }
  return result;
}

// f(values, result) for each vector of a chunk.
template <class V, class F>
FL_INLINE void map(const Step& s, float* const* values, int64_t m, const F& f) {
  const float *const a = values[s.a], *const b = values[s.b], *const c = values[s.c];
  float* const to = values[s.to];
  for (int64_t i = 0; i < m; i += V::width) store_any<V>(to + i, f(a + i, b + i, c + i));
}

template <class V, class F>
FL_INLINE void map1(const Step& s, float* const* values, int64_t m, const F& f) {
  map<V>(s, values, m, [&](const float* a, const float*, const float*) { return f(load_any<V>(a)); });
}

template <class V, class F>
FL_INLINE void map2(const Step& s, float* const* values, int64_t m, const F& f) {
  map<V>(s, values, m, [&](const float* a, const float* b, const float*) { return f(load_any<V>(a), load_any<V>(b)); });
}

template <class V, class F>
FL_INLINE void map3(const Step& s, float* const* values, int64_t m, const F& f) {
  map<V>(s, values, m, [&](const float* a, const float* b, const float* c) {
    return f(load_any<V>(a), load_any<V>(b), load_any<V>(c));
  });
}

// The value, or a times the derivative at b, of an activation.
template <class V, class F>
FL_INLINE void activate(const Step& s, float* const* values, int64_t m, const F& activation) {
  map1<V>(s, values, m, [&](auto a) {
    decltype(a) h, d;
    activation.value(a, h, d);
    return h;
  });
}

template <class V, class F>
FL_INLINE void activate_backward(const Step& s, float* const* values, int64_t m, const F& activation) {
  map2<V>(s, values, m, [&](auto a, auto b) {
    decltype(a) h, d;
    activation.value(b, h, d);
    return a * d;
  });
}

template <class V>
void run_step(const Step& s, float* const* values, int64_t m) {
  using f32 = typename V::f32;
  const f32 zero = V::broadcast(0.0f), one = V::broadcast(1.0f);
  const f32 n = V::broadcast(static_cast<float>(s.number)), other = V::broadcast(static_cast<float>(s.other));
  const float parameters[2] = {static_cast<float>(s.number), static_cast<float>(s.other)};
  switch (static_cast<Op>(s.op)) {
    case Op::move:
      return map1<V>(s, values, m, [&](f32 a) { return a; });
    case Op::constant:
      return map<V>(s, values, m, [&](const float*, const float*, const float*) { return n; });
    case Op::add:
      if (s.number == 1.0) return map2<V>(s, values, m, [&](f32 a, f32 b) { return a + b; });
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return V::fma(n, b, a); });
    case Op::multiply:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a * b; });
    case Op::divide:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a / b; });
    case Op::add_number:
      return map1<V>(s, values, m, [&](f32 a) { return a + n; });
    case Op::multiply_number:
      return map1<V>(s, values, m, [&](f32 a) { return a * n; });
    case Op::divide_number:
      return map1<V>(s, values, m, [&](f32 a) { return a / n; });
    case Op::number_divide:
      return map1<V>(s, values, m, [&](f32 a) { return n / a; });
    case Op::multiply_add:
      return map3<V>(s, values, m, [&](f32 a, f32 b, f32 c) { return V::fma(a, b, c); });
    case Op::maximum:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a == a ? (b > a ? b : (b == b ? a : b)) : a; });
    case Op::minimum:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a == a ? (b < a ? b : (b == b ? a : b)) : a; });
    case Op::clamp:
      return map1<V>(s, values, m, [&](f32 a) {
        a = a < n ? n : a;
        return a > other ? other : a;
      });
    case Op::absolute:
      return map1<V>(s, values, m, [&](f32 a) { return absolute<V>(a); });
    case Op::sign:
      return map1<V>(s, values, m, [&](f32 a) { return a > zero ? one : (a < zero ? -one : a * zero); });
    case Op::square_root:
      return map1<V>(s, values, m, [&](f32 a) { return square_root<V>(a); });
    case Op::exponential:
      return map1<V>(s, values, m, [&](f32 a) { return exponential<V>(a); });
    case Op::logarithm:
      return map1<V>(s, values, m, [&](f32 a) { return logarithm<V>(a); });
    case Op::log1p:
      return map1<V>(s, values, m, [&](f32 a) { return log1p<V>(a); });
    case Op::expm1:
      return map1<V>(s, values, m, [&](f32 a) { return expm1<V>(a); });
    case Op::power:
      return map1<V>(s, values, m, [&](f32 a) { return power<V>(a, static_cast<int64_t>(s.number)); });
    case Op::greater:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a > b ? one : zero; });
    case Op::greater_equal:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a >= b ? one : zero; });
    case Op::equal:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a == b ? one : zero; });
    case Op::not_equal:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a == b ? zero : one; });
    case Op::where:
      return map3<V>(s, values, m, [&](f32 a, f32 b, f32 c) { return a == zero ? c : b; });
    case Op::relu:
      return map1<V>(s, values, m, [&](f32 a) { return a < zero ? zero : a; });
    case Op::leaky_relu:
      return map1<V>(s, values, m, [&](f32 a) { return a > zero ? a : a * n; });
    case Op::sigmoid:
      return map1<V>(s, values, m, [&](f32 a) { return Sigmoid<V>(a).value; });
    case Op::silu:
      return map1<V>(s, values, m, [&](f32 a) { return a * Sigmoid<V>(a).value; });
    case Op::gelu:
      return activate<V>(s, values, m, Gelu<V>(parameters));
    case Op::gelu_tanh:
      return activate<V>(s, values, m, GeluTanh<V>(parameters));
    case Op::tanh:
      return activate<V>(s, values, m, Tanh<V>(parameters));
    case Op::softplus:
      return activate<V>(s, values, m, Softplus<V>(parameters));
    case Op::elu:
      return activate<V>(s, values, m, Elu<V>(parameters));
    case Op::threshold_backward:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return b <= n ? zero : a; });
    case Op::leaky_relu_backward:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return b > zero ? a : a * n; });
    case Op::sigmoid_backward:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a * (one - b) * b; });
    case Op::tanh_backward:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return a * V::fma(-b, b, one); });
    case Op::silu_backward:
      return activate_backward<V>(s, values, m, Silu<V>(parameters));
    case Op::gelu_backward:
      return activate_backward<V>(s, values, m, Gelu<V>(parameters));
    case Op::gelu_tanh_backward:
      return activate_backward<V>(s, values, m, GeluTanh<V>(parameters));
    case Op::softplus_backward:
      return activate_backward<V>(s, values, m, Softplus<V>(parameters));
    case Op::elu_backward:
      return activate_backward<V>(s, values, m, Elu<V>(parameters));
    case Op::hardtanh_backward:
      return map2<V>(s, values, m, [&](f32 a, f32 b) { return b > n ? (b < other ? a : zero) : zero; });
  }
}

template <class V>
void run_pointwise(const PointwiseCode& code, const Samples& samples) {
  const Operand* const operands = reinterpret_cast<const Operand*>(&code + 1);
  const Operand* const outputs = operands + code.n_operands;
  const Step* const steps = reinterpret_cast<const Step*>(outputs + code.n_outputs);
  const int64_t n_places = code.n_operands + code.n_outputs;
  // Chunks of all that is not direct, and of the slots.
  float* values[most_values];
  for (int64_t v = 0; v < n_places + code.n_slots; ++v) values[v] = samples.extra + v * code.chunk_words;
  for (int64_t s = 0; s < samples.n; ++s) {
    for (int64_t start = 0; start < code.n; start += code.chunk) {
      const int64_t m = std::min(code.chunk, code.n - start);
      for (int64_t v = 0; v < n_places; ++v) {
        const Operand& operand = operands[v];
        const float* const base = samples.at(operand.at.place, s);
        if (operand.is_direct) {
          values[v] = const_cast<float*>(base) + start;
        } else if (v < code.n_operands) {
          const bool is_known = operand.repeats && (start > 0 || (s > 0 && operand.at.place.space == Space::shared));
          if (!is_known) gather_elements(base, operand.at, start, m, values[v]);
        }
      }
      for (int64_t k = 0; k < code.n_steps; ++k) run_step<V>(steps[k], values, m);
      for (int64_t v = 0; v < code.n_outputs; ++v) {
        if (outputs[v].is_direct) continue;
        scatter_elements(values[code.n_operands + v], outputs[v].at, start, m, samples.out(outputs[v].at.place, s));
      }
    }
  }
}

}  // namespace
}  // namespace fastlangevin
