// The instruction set in force: the best that the processor has, or the one that Python asks for by name.
#include <cpuid.h>

#include <atomic>
#include <cstring>

#include "convnet.h"
#include "kernels.h"
#include "program.h"

namespace fastlangevin {
namespace {

bool supported(const Kernels& k) {
  if (&k == &avx512_kernels) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && supported(avx2_kernels);
  }
  if (&k == &avx2_kernels) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  }
  return true;
}

// Asked of the processor itself: not every compiler's __builtin_cpu_supports knows the names.
bool has_avx512_bf16() {
  unsigned eax = 0, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 5 & 1);
}

// AMX for bfloat16, whose registers the operating system saves too.
bool has_amx_bf16() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) return false;
  unsigned saved, high;
  asm volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned tiles = 3u << 17, amx = 1u << 22 | 1u << 24;
  return (saved & tiles) == tiles && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & amx) == amx;
}

bool is_intel() {
  unsigned eax, name[3];
  return __get_cpuid(0, &eax, &name[0], &name[2], &name[1]) && std::memcmp(name, "GenuineIntel", 12) == 0;
}

const Kernels* const best_first[] = {&avx512_kernels, &avx2_kernels, &portable_kernels};

const Kernels* best() {
  for (const Kernels* k : best_first) {
    if (supported(*k)) return k;
  }
  return &portable_kernels;
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> k{best()};
  return k;
}

}  // namespace

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed); }

Convnet convnet() {
  const Kernels* const k = &kernels();
  if (k == &avx512_kernels) {
    return {&convnet_avx512, has_avx512_bf16() ? &convnet_avx512_bf16 : nullptr};
  }
  return {k == &avx2_kernels ? &convnet_avx2 : &convnet_portable, nullptr};
}

const ProgramKernels& program_kernels() {
  const Kernels* const k = &kernels();
  return k == &avx512_kernels ? avx512_program : k == &avx2_kernels ? avx2_program : portable_program;
}

}  // namespace fastlangevin

// Read through ctypes by kernels/native.py.
extern "C" __attribute__((visibility("default"))) const char* fastlangevin_cpu_capability() {
  return fastlangevin::kernels().name;
}

// Whether the instruction set in force multiplies bfloat16.
extern "C" __attribute__((visibility("default"))) bool fastlangevin_cpu_has_bfloat16() {
  return fastlangevin::convnet().bf16 != nullptr;
}

// How fast the processor multiplies bfloat16: 0: it does not; 1: as fast as float32 (AVX512_BF16 of Intel's
// processors); 2: twice as fast (AVX512_BF16 of others); 3: by AMX.
extern "C" __attribute__((visibility("default"))) int fastlangevin_cpu_bfloat16_rate() {
  using namespace fastlangevin;
  if (has_amx_bf16()) return 3;
  return !has_avx512_bf16() || !supported(avx512_kernels) ? 0 : is_intel() ? 1 : 2;
}

// 0: done; 1: no such name; 2: this processor lacks it.
extern "C" __attribute__((visibility("default"))) int fastlangevin_set_cpu_capability(const char* name) {
  using namespace fastlangevin;
  for (const Kernels* k : best_first) {
    if (std::strcmp(k->name, name) != 0) continue;
    if (!supported(*k)) return 2;
    chosen().store(k);
    return 0;
  }
  return 1;
}
