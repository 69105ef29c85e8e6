// KIND FIRST SECOND: all values and then all derivatives of the activation of this kind and these parameters, for the
// floats on the standard input.
#include "../../../csrc/cpu/activations.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>
#if defined(__AVX512F__)
#include "../../../csrc/cpu/arithmetic_avx512.h"
using V = fastlangevin::Avx512Arithmetic;
#elif defined(__AVX2__)
#include "../../../csrc/cpu/arithmetic_avx2.h"
using V = fastlangevin::Avx2Arithmetic;
#elif defined(FL_NEON)
#include "../../../csrc/cpu/arithmetic_neon.h"
using V = fastlangevin::NeonArithmetic;
#else
using V = fastlangevin::PortableVectors;
#endif

using namespace fastlangevin;

int main(int, char** arguments) {
  MlpLayer layer{};
  layer.activation = static_cast<ActivationKind>(std::atoi(arguments[1]));
  for (int i = 0; i < 2; ++i) layer.parameters[i] = std::strtof(arguments[2 + i], nullptr);
  std::vector<float> z;
  float part[16];
  while (std::fread(part, sizeof(float), 16, stdin) == 16) z.insert(z.end(), part, part + 16);
  std::vector<float> h(z.size()), d(z.size());
  with_activation<V>(layer, [&](const auto& f) {
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
  });
  std::fwrite(h.data(), sizeof(float), h.size(), stdout);
  std::fwrite(d.data(), sizeof(float), d.size(), stdout);
}
