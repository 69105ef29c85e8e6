// Compares the AVX-512 kernels' table with the portable one, bit for bit, on awkward ranges; exits with 1 on a
// difference.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "../../../csrc/cpu/kernels.h"

using namespace fastlangevin;

namespace {

int failures = 0;

void expect_equal(const char* what, const void* a, const void* b, size_t bytes, uint64_t index, int64_t n) {
  if (std::memcmp(a, b, bytes) == 0) return;
  std::printf("%s differs at index %llu, n %lld\n", what, static_cast<unsigned long long>(index),
              static_cast<long long>(n));
  ++failures;
}

template <class T, class Make>
void compare_update(const char* what, UpdateKernel<T>* expected, UpdateKernel<T>* actual, const UpdateArgs& args,
                    uint64_t index, int64_t n, const Make& make) {
  std::vector<T> x(n), y(n), score(n);
  for (int64_t i = 0; i < n; ++i) x[i] = y[i] = make(i * 7919 % 1013 - 506), score[i] = make(i * 104729 % 997 - 498);
  expected(args, index, n, score.data(), x.data());
  actual(args, index, n, score.data(), y.data());
  expect_equal(what, x.data(), y.data(), n * sizeof(T), index, n);
}

}  // namespace

int main() {
  const uint64_t seeds[] = {0, 20191125, ~uint64_t{0}};
  const uint64_t indices[] = {0, 3, 1021, (uint64_t{1} << 34) - 37, (uint64_t{1} << 62) + 2};
  const int64_t lengths[] = {1, 5, 63, 64, 67, 1024, 2311};
  for (uint64_t seed : seeds) {
    for (uint64_t index : indices) {
      for (int64_t n : lengths) {
        const NoiseKey key{seed, 0xfffffff0u, 3};
        std::vector<float> a(n, -1), b(n, -2);
        portable_kernels.normal(key, index, n, a.data());
        avx512_kernels.normal(key, index, n, b.data());
        expect_equal("normal", a.data(), b.data(), n * sizeof(float), index, n);
        portable_kernels.uniform(key, index, n, a.data());
        avx512_kernels.uniform(key, index, n, b.data());
        expect_equal("uniform", a.data(), b.data(), n * sizeof(float), index, n);
        std::vector<double> own(2400);  // of chains of 3 elements
        for (size_t i = 0; i < own.size(); ++i) own[i] = static_cast<double>(i % 17) / 16;
        const PerChain chains{own.data(), own.data() + 17, 3, index - std::min<uint64_t>(index, 2)};
        const double infinity = std::numeric_limits<double>::infinity();
        for (const UpdateArgs& args : {UpdateArgs{key, 0.7, 0.3, 0.5, -1.0, 1.5, true, true, true},
                                       UpdateArgs{key, 0, 0, 0.5, -1.0, 1.5, true, true, true, chains},
                                       UpdateArgs{key, 0.7, 0, infinity, -infinity, infinity, true, false, false},
                                       UpdateArgs{key, 0, 0.3, infinity, -infinity, 1.0, false, true, true}}) {
          const auto& p = portable_kernels;
          const auto& q = avx512_kernels;
          compare_update("float", p.update_float, q.update_float, args, index, n, [](int64_t v) { return v / 251.0f; });
          compare_update("double", p.update_double, q.update_double, args, index, n,
                         [](int64_t v) { return v / 251.0; });
          compare_update("bfloat16", p.update_bfloat16, q.update_bfloat16, args, index, n,
                         [](int64_t v) { return BFloat16{static_cast<uint16_t>(0x3f80 + v)}; });
          compare_update("half", p.update_half, q.update_half, args, index, n,
                         [](int64_t v) { return Half{static_cast<uint16_t>(0x3800 + 4 * v)}; });
        }
      }
    }
  }
  std::printf("%d differences\n", failures);
  return failures != 0;
}
