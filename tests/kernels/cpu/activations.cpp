// f(z) and f'(z) of every activation, for the floats on the standard input: activations in the order of ActivationKind,
// for each all values and then all derivatives.
#include "../../../csrc/cpu/activations.h"

#include <algorithm>
#include <cstdio>
#include <vector>
#if defined(__AVX512F__)
#include "../../../csrc/cpu/arithmetic_avx512.h"
using V = fastlangevin::Avx512Arithmetic;
#elif defined(__AVX2__)
#include "../../../csrc/cpu/arithmetic_avx2.h"
using V = fastlangevin::Avx2Arithmetic;
#else
using V = fastlangevin::PortableVectors;
#endif

using namespace fastlangevin;

namespace {

std::vector<float> z;

template <template <class> class F>
void write(float first, float second) {
  const float parameters[2] = {first, second};
  const F<V> f(parameters);
  std::vector<float> h(z.size()), d(z.size());
  alignas(64) float in[V::width], value[V::width], derivative[V::width];
  for (size_t i = 0; i < z.size(); i += V::width) {
    std::copy(&z[i], &z[i] + V::width, in);
    V::f32 a, b;
    f.value(load<V>(in), a, b);
    store<V>(value, a);
    store<V>(derivative, b);
    std::copy(value, value + V::width, &h[i]);
    std::copy(derivative, derivative + V::width, &d[i]);
  }
  std::fwrite(h.data(), sizeof(float), h.size(), stdout);
  std::fwrite(d.data(), sizeof(float), d.size(), stdout);
}

}  // namespace

int main() {
  float part[16];
  while (std::fread(part, sizeof(float), 16, stdin) == 16) z.insert(z.end(), part, part + 16);
  write<LeakyRelu>(0.2f, 0);
  write<Silu>(0, 0);
  write<Gelu>(0, 0);
  write<GeluTanh>(0, 0);
  write<Tanh>(0, 0);
  write<Softplus>(2.0f, 20.0f);
  write<Elu>(1.5f, 0);
}
