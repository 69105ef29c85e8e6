// Runs the noise and update kernels of one table on requests from stdin, and writes the memory of each as it is then:
// arm64_requests TABLE < requests > memories. test_arm64.py compiles it for ARM64.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../../csrc/cpu/kernels.h"

using namespace fastlangevin;

namespace {

enum class Kind : int64_t { normal, uniform, update };

// As test_arm64.py packs it. Bytes of memory follow, those of the score and then, given chains, their numbers.
struct Request {
  Kind kind;
  int64_t type;                                 // in the order of `run`
  int64_t memory_bytes, start, score_bytes, n;  // start: bytes before the first element
  uint64_t seed, index;
  int64_t step, stream;
  double step_size, noise_std, grad_clip, lo, hi;
  int64_t has_score, has_noise, has_limits;
  int64_t chain_size, n_chains;
  uint64_t first;
};
static_assert(sizeof(Request) == 21 * 8, "no padding");

bool read(void* out, size_t bytes) { return std::fread(out, 1, bytes, stdin) == bytes; }

template <class T>
std::vector<T> read_all(size_t n) {
  std::vector<T> out(n);
  if (!read(out.data(), n * sizeof(T))) std::exit(2);
  return out;
}

template <class T>
void update(UpdateKernel<T>* kernel, const UpdateArgs& args, const Request& r, const void* score, void* x) {
  kernel(args, r.index, r.n, static_cast<const T*>(score), static_cast<T*>(x));
}

void run(const Kernels& kernels, const Request& r) {
  std::vector<char> memory = read_all<char>(static_cast<size_t>(r.memory_bytes));
  const std::vector<char> score = read_all<char>(static_cast<size_t>(r.score_bytes));
  const std::vector<double> step_sizes = read_all<double>(static_cast<size_t>(r.n_chains));
  const std::vector<double> noise_stds = read_all<double>(static_cast<size_t>(r.n_chains));
  void* const x = memory.data() + r.start;
  const NoiseKey key{r.seed, static_cast<uint32_t>(r.step), static_cast<uint32_t>(r.stream)};
  const PerChain chains{step_sizes.data(), noise_stds.data(), r.chain_size, r.first};
  const UpdateArgs args{key,  r.step_size,      r.noise_std,      r.grad_clip,       r.lo,
                        r.hi, r.has_score != 0, r.has_noise != 0, r.has_limits != 0, chains};
  if (r.kind != Kind::update) {
    (r.kind == Kind::normal ? kernels.normal : kernels.uniform)(key, r.index, r.n, static_cast<float*>(x));
  } else if (r.type == 0) {
    update(kernels.update_float, args, r, score.data(), x);
  } else if (r.type == 1) {
    update(kernels.update_double, args, r, score.data(), x);
  } else if (r.type == 2) {
    update(kernels.update_bfloat16, args, r, score.data(), x);
  } else {
    update(kernels.update_half, args, r, score.data(), x);
  }
  std::fwrite(memory.data(), 1, memory.size(), stdout);
}

}  // namespace

int main(int, char** arguments) {
  const bool is_neon = std::strcmp(arguments[1], "neon") == 0;
  Request request;
  while (read(&request, sizeof request)) run(is_neon ? neon_kernels : portable_kernels, request);
  return 0;
}
