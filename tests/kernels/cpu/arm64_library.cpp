// Loads the CPU library as Python does and draws noise by it: arm64_library LIBRARY SET SEED STEP STREAM OFFSET N.
// Prints the instruction set in force at load, what it says to "avx2" and to SET, and the bits of N normals.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

// As `PackedUpdate` of csrc/cpu/update.cpp.
struct Packed {
  float* x;
  const float* score;
  int64_t n;
  double step_size, noise_std;
  uint64_t seed;
  int64_t step, stream, offset;
  double grad_clip, lo, hi;
};

void* function(void* library, const char* name) {
  void* const found = dlsym(library, name);
  if (found) return found;
  std::fprintf(stderr, "%s\n", dlerror());
  std::exit(1);
}

}  // namespace

int main(int, char** arguments) {
  void* const library = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
  if (!library) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  const auto capability = reinterpret_cast<const char* (*)()>(function(library, "fastlangevin_cpu_capability"));
  const auto set = reinterpret_cast<int (*)(const char*)>(function(library, "fastlangevin_set_cpu_capability"));
  const auto update = reinterpret_cast<void (*)(const char*)>(function(library, "fastlangevin_update"));
  std::printf("%s %d ", capability(), set("avx2"));
  std::printf("%d\n", set(arguments[2]));
  std::vector<float> x(std::strtoull(arguments[7], nullptr, 10));
  Packed packed{};
  packed.x = x.data(), packed.n = static_cast<int64_t>(x.size()), packed.noise_std = 1;
  packed.seed = std::strtoull(arguments[3], nullptr, 10);
  packed.step = std::atoll(arguments[4]), packed.stream = std::atoll(arguments[5]);
  packed.offset = std::atoll(arguments[6]);
  packed.grad_clip = packed.hi = INFINITY, packed.lo = -INFINITY;
  update(reinterpret_cast<const char*>(&packed));
  for (float a : x) {
    uint32_t bits;
    std::memcpy(&bits, &a, sizeof bits);
    std::printf("%08x\n", bits);
  }
}
