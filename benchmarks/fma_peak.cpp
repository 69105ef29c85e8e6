// Fused multiply-adds per second of the processor in 16 lanes: twelve independent ones at a time, without memory.
#include <chrono>
#include <thread>
#include <vector>

namespace {

void work(long n) {
#define FMA(r) "vfmadd231ps %%zmm0, %%zmm1, %%zmm" #r "\n"
  for (long i = 0; i < n; ++i) {
    asm volatile(FMA(2) FMA(3) FMA(4) FMA(5) FMA(6) FMA(7) FMA(8) FMA(9) FMA(10) FMA(11) FMA(12) FMA(13)::
                     : "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",
                       "xmm13");
  }
}

}  // namespace

extern "C" double fma_peak(int n_threads) {
  constexpr long n = 3000000;
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (int i = 0; i < n_threads; ++i) threads.emplace_back(work, n);
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  return n_threads * n * 12.0 * 16.0 / time.count();
}
