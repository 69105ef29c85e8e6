// The instruction set in force: the best that the processor has, or the one that Python asks for by name.
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstring>

#include "convnet.h"
#include "kernels.h"
#include "program.h"

namespace fastlangevin {

// Null in a library that was compiled for another instruction set alone (kernels/build.py).
extern const Kernels portable_kernels __attribute__((weak));
extern const MlpKernels mlp_portable __attribute__((weak));
extern const ProgramKernels portable_program __attribute__((weak));
extern const ConvnetKernels convnet_portable __attribute__((weak));
#if defined(__x86_64__)
extern const Kernels avx2_kernels __attribute__((weak)), avx512_kernels __attribute__((weak));
extern const ProgramKernels avx2_program __attribute__((weak)), avx512_program __attribute__((weak));
extern const ConvnetKernels convnet_avx2 __attribute__((weak)), convnet_avx512 __attribute__((weak)),
    convnet_avx512_bf16 __attribute__((weak)), convnet_amx_bf16 __attribute__((weak));
extern const MlpKernels mlp_avx2 __attribute__((weak)), mlp_avx512 __attribute__((weak)),
    mlp_amx_bf16 __attribute__((weak));
#elif defined(__aarch64__)
extern const Kernels neon_kernels __attribute__((weak));
extern const MlpKernels mlp_neon __attribute__((weak));
extern const ProgramKernels neon_program __attribute__((weak));
extern const ConvnetKernels convnet_neon __attribute__((weak));
#endif

namespace {

bool always() { return true; }

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && has_avx2();
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

// Linux gives the tile registers to a process that asks for them, and refuses it where a thread's stack for signals
// is too small to save them.
bool has_amx() {
#if defined(__linux__)
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return has_avx512() && has_avx512_bf16() && has_amx_bf16() && syscall(SYS_arch_prctl, request, tile_data) == 0;
#else
  return false;
#endif
}

bool is_intel() {
  unsigned eax, name[3];
  return __get_cpuid(0, &eax, &name[0], &name[2], &name[1]) && std::memcmp(name, "GenuineIntel", 12) == 0;
}

#endif

struct InstructionSet {
  const char* name;
  bool (*runs)();  // on this processor
  const Kernels* kernels;
  const MlpKernels *mlp, *mlp_bf16;
  const ProgramKernels* program;
  const ConvnetKernels *convnet, *convnet_bf16;
  bool (*runs_bf16)();
};

const InstructionSet best_first[] = {
#if defined(__x86_64__)
    {"amx", has_amx, &avx512_kernels, &mlp_avx512, &mlp_amx_bf16, &avx512_program, &convnet_avx512, &convnet_amx_bf16,
     always},
    {"avx512", has_avx512, &avx512_kernels, &mlp_avx512, nullptr, &avx512_program, &convnet_avx512,
     &convnet_avx512_bf16, has_avx512_bf16},
    {"avx2", has_avx2, &avx2_kernels, &mlp_avx2, nullptr, &avx2_program, &convnet_avx2, nullptr, nullptr},
#elif defined(__aarch64__)
    {"neon", always, &neon_kernels, &mlp_neon, nullptr, &neon_program, &convnet_neon, nullptr, nullptr},
#endif
    {"portable", always, &portable_kernels, &mlp_portable, nullptr, &portable_program, &convnet_portable, nullptr,
     nullptr},
};

bool is_compiled(const InstructionSet& set) { return set.kernels && (!set.runs_bf16 || set.convnet_bf16); }

const InstructionSet* best() {
  for (const InstructionSet& set : best_first) {
    if (is_compiled(set) && set.runs()) return &set;
  }
  return nullptr;
}

std::atomic<const InstructionSet*>& chosen() {
  static std::atomic<const InstructionSet*> set{best()};
  return set;
}

const InstructionSet& in_force() { return *chosen().load(std::memory_order_relaxed); }

}  // namespace

const Kernels& kernels() { return *in_force().kernels; }

MlpPrecisions mlp_kernels() { return {in_force().mlp, in_force().mlp_bf16}; }

Convnet convnet() {
  const InstructionSet& set = in_force();
  return {set.convnet, set.convnet_bf16 && set.runs_bf16() ? set.convnet_bf16 : nullptr};
}

const ProgramKernels& program_kernels() { return *in_force().program; }

}  // namespace fastlangevin

// Read through ctypes by kernels/native.py. Empty if the processor has none of those in the library.
extern "C" __attribute__((visibility("default"))) const char* fastlangevin_cpu_capability() {
  const fastlangevin::InstructionSet* const set = fastlangevin::chosen().load();
  return set ? set->name : "";
}

// Whether the instruction set in force multiplies bfloat16.
extern "C" __attribute__((visibility("default"))) bool fastlangevin_cpu_has_bfloat16() {
  return fastlangevin::convnet().bf16 != nullptr;
}

// How fast the processor multiplies bfloat16: 0: it does not; 1: as fast as float32 (AVX512_BF16 of Intel's
// processors); 2: twice as fast (AVX512_BF16 of others); 3: by AMX. Of ARM64 nothing is known: 0.
extern "C" __attribute__((visibility("default"))) int fastlangevin_cpu_bfloat16_rate() {
#if defined(__x86_64__)
  using namespace fastlangevin;
  if (has_amx_bf16()) return 3;
  return !has_avx512_bf16() || !has_avx512() ? 0 : is_intel() ? 1 : 2;
#else
  return 0;
#endif
}

// 0: done; 1: no such name; 2: this processor lacks it; 3: the library was compiled without it.
extern "C" __attribute__((visibility("default"))) int fastlangevin_set_cpu_capability(const char* name) {
  using namespace fastlangevin;
  for (const InstructionSet& set : best_first) {
    if (std::strcmp(set.name, name) != 0) continue;
    if (!set.runs()) return 2;
    if (!is_compiled(set)) return 3;
    chosen().store(&set);
    return 0;
  }
  return 1;
}
