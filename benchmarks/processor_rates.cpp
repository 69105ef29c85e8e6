// What a processor with AVX-512 does a second at best, without memory.
#include <chrono>
#include <thread>
#include <vector>

extern "C" {

// 12 n fused multiply-adds of 16 lanes, independent ones.
void multiply_adds(long n) {
#define FMA(r) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #r "\n"
  for (long i = 0; i < n; ++i) {
    asm volatile(FMA(2) FMA(3) FMA(4) FMA(5) FMA(6) FMA(7) FMA(8) FMA(9) FMA(10) FMA(11) FMA(12) FMA(13)::
                     : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                       "xmm13");
  }
}

// 12 n instructions that wait for nothing.
void instructions(long n) {
  for (long i = 0; i < n; ++i) asm volatile("nop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop\nnop");
}

// 4 n multiplications that wait for each other, 3 cycles each.
void cycles(long n) {
#define MULTIPLY "imul %0, %0\n"
  long product = 3;
  for (long i = 0; i < n; ++i) asm volatile(MULTIPLY MULTIPLY MULTIPLY MULTIPLY : "+r"(product));
}

// Multiply-adds of single lanes per second.
double fma_peak(int n_threads) {
  constexpr long n = 3000000;
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < n_threads; ++i) threads.emplace_back(multiply_adds, n);
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  return n_threads * n * 12.0 * 16.0 / time.count();
}

}  // extern "C"
