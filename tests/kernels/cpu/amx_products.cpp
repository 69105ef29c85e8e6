// Products by AMX, in registers or, with -DFL_EMULATE_AMX, number by number: the bits of their sums on stdout, and exit
// status 1 if one is further from float64 than its roundings allow.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "../../../csrc/cpu/convnet_amx_bf16.cpp"
#include "../../../csrc/cpu/mlp_product_amx_impl.h"
#include "../../../csrc/small_floats.h"
#if !defined(FL_EMULATE_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

using namespace fastlangevin;

namespace {

bool failed = false;
uint32_t state = 7;

// Of float32's length, from 2^-20 to 1 in magnitude.
float number() {
  state = state * 1664525u + 1013904223u;
  const float a = 1.0f + static_cast<float>(state >> 9) * 0x1p-23f;
  return std::ldexp(state & 64 ? a : -a, -1 - static_cast<int>(state >> 27) % 20);
}

std::vector<float> numbers(int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (float& a : out) a = number();
  return out;
}

float* aligned(std::vector<float>& memory, int64_t n) {
  memory.assign(static_cast<size_t>(n) + 16, std::nanf(""));
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
}

double rounded(float a) { return widen(narrow_bfloat16(a)); }

void expect(float got, double exact, double terms, int64_t n) {
  std::fwrite(&got, sizeof got, 1, stdout);
  const double bound = static_cast<double>(n) * 0x1.01p-24 * terms;
  if (!(std::abs(got - exact) <= bound)) failed = true;
}

template <int columns>
void multiply_mlp(int64_t n_out, int64_t n_in) {
  using V = Avx512Arithmetic;
  using Products = TileProducts<V>;
  using B = MlpBlock<V, columns, Products>;
  std::vector<float> packed, scratch, in, out;
  const std::vector<float> weights = numbers(n_out * n_in), bias = numbers(n_out), values = numbers(n_in * B::chains);
  float* const p = aligned(packed, Products::packed_size(n_out, n_in));
  float* const x = aligned(in, n_in * B::chains);
  float* const sums = aligned(out, n_out * B::chains);
  std::copy(values.begin(), values.end(), x);
  Products::pack(weights.data(), n_in, 1, n_out, n_in, p);
  {
    const Products::Registers held;
    Products::product<B>(p, bias.data(), n_in, n_out, x, nullptr, aligned(scratch, Products::scratch_size<B>(n_in)),
                         [&](int64_t, int64_t at, V::f32 sum) { store<V>(sums + at, sum); });
  }
  for (int64_t i = 0; i < n_out; ++i) {
    for (int64_t c = 0; c < B::chains; ++c) {
      double exact = bias[i], terms = std::abs(bias[i]);
      for (int64_t k = 0; k < n_in; ++k) {
        const double term = rounded(weights[i * n_in + k]) * rounded(x[k * B::chains + c]);
        exact += term, terms += std::abs(term);
      }
      expect(sums[i * B::chains + c], exact, terms, n_in + 1);
    }
  }
}

// n_runs of `run` words with as many words between them, and 16 · column_tiles channels.
void multiply_rows(int64_t n_rows, int64_t n_runs, int64_t run, int64_t column_tiles) {
  using A = AmxBFloat16Convnet;
  const int64_t columns = 16 * column_tiles, row = 2 * n_runs * run;
  std::vector<uint32_t> in(static_cast<size_t>(n_rows * row)), weights(static_cast<size_t>(n_runs * run * columns));
  for (auto* words : {&in, &weights}) {
    for (uint32_t& word : *words) {
      const uint32_t low = narrow_bfloat16(number()).bits, high = narrow_bfloat16(number()).bits;
      word = low | high << 16;
    }
  }
  const Runs runs{n_runs, run, 2 * run, run * columns, columns, columns};
  std::vector<float> start_memory, sums_memory;
  float *const start = aligned(start_memory, max_tile), *const sums = aligned(sums_memory, A::rows * max_tile);
  for (int64_t c = 0; c < max_tile; ++c) start[c] = number();
  const uint32_t* rows[A::rows];
  for (int64_t m = 0; m < n_rows; ++m) rows[m] = in.data() + m * row;
  {
    const A::Registers held;
    A::multiply(n_rows, runs, rows, weights.data(), start, sums);
  }
  const auto half = [](uint32_t word, int h) -> double {
    return widen(BFloat16{static_cast<uint16_t>(word >> 16 * h)});
  };
  for (int64_t m = 0; m < n_rows; ++m) {
    for (int64_t c = 0; c < columns; ++c) {
      double exact = start[c], terms = std::abs(start[c]);
      for (int64_t r = 0; r < n_runs; ++r) {
        for (int64_t k = 0; k < run; ++k) {
          for (int h = 0; h < 2; ++h) {
            const double term = half(rows[m][r * 2 * run + k], h) * half(weights[(r * run + k) * columns + c], h);
            exact += term, terms += std::abs(term);
          }
        }
      }
      expect(sums[m * max_tile + c], exact, terms, 2 * n_runs * run + 1);
    }
  }
}

}  // namespace

int main() {
#if !defined(FL_EMULATE_AMX)
  if (syscall(SYS_arch_prctl, 0x1023, 18) != 0) return 77;  // this process may not use the tile registers
#endif
  for (int64_t n_out : {1, 15, 16, 17, 33, 64}) {
    for (int64_t n_in : {1, 2, 31, 32, 33, 100}) multiply_mlp<1>(n_out, n_in), multiply_mlp<2>(n_out, n_in);
  }
  for (int64_t n_rows : {1, 7, 8, 15, 16}) {
    for (int64_t column_tiles : {1, 2, 4}) {
      for (int64_t run : {2, 6, 16, 48}) {
        for (int64_t n_runs : {1, 3}) multiply_rows(n_rows, n_runs, run, column_tiles);
      }
    }
  }
  return failed;
}
