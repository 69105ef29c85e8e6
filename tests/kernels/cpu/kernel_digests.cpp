// Runs the kernels of one instruction set on awkward sizes and prints a digest of each result's bits. test_arm64.py
// compiles it for two processors: -DFL_SET=neon, -DFL_SET=portable, …
//
// Convnets add up in another order on vectors of another width, so that their numbers are small and whole, and all sums
// exact.
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "../../../csrc/cpu/convnet_plan.h"
#include "../../../csrc/cpu/kernels.h"
#include "../../../csrc/cpu/panels.h"
#include "../../../csrc/cpu/program.h"

#define FL_JOIN(a, b) a##b
#define FL_NAME(a, b) FL_JOIN(a, b)

using namespace fastlangevin;

namespace {

const Kernels& table = FL_NAME(FL_SET, _kernels);
const MlpKernels& mlps = FL_NAME(mlp_, FL_SET);
const ProgramKernels& programs = FL_NAME(FL_SET, _program);
const ConvnetKernels& convnets = FL_NAME(convnet_, FL_SET);

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr NoiseKey key{20191125, 7, 2};
constexpr double unused = -2.5;  // in memory that no kernel may touch

uint64_t state = 1;

// A number in [-1, 1), the same on every machine.
double number() {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(static_cast<int64_t>(state) >> 11) * 0x1p-52;
}
float whole(int most) { return static_cast<float>(static_cast<int>(number() * (most + 1))); }

void set(float& a, double value) { a = static_cast<float>(value); }
void set(double& a, double value) { a = value; }
void set(BFloat16& a, double value) { a = narrow_bfloat16(static_cast<float>(value)); }
void set(Half& a, double value) { a = narrow_half(static_cast<float>(value)); }

// n numbers of up to `scale`, and `margin` after them.
template <class T>
std::vector<T> numbers(int64_t n, double scale = 1.0, int64_t margin = 0) {
  std::vector<T> out(static_cast<size_t>(n + margin));
  for (int64_t i = 0; i < n + margin; ++i) set(out[static_cast<size_t>(i)], i < n ? scale * number() : unused);
  return out;
}

std::vector<float> masses(int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (float& a : out) a = static_cast<float>(1.25 + number());
  return out;
}

class Digest {
 public:
  explicit Digest(std::string name) : name_(std::move(name)) {}
  ~Digest() { std::printf("%s %016llx\n", name_.c_str(), static_cast<unsigned long long>(digest_)); }
  template <class T>
  void add(const std::vector<T>& a) {
    const auto* const bytes = reinterpret_cast<const unsigned char*>(a.data());
    for (size_t i = 0; i < a.size() * sizeof(T); ++i) digest_ = (digest_ ^ bytes[i]) * 1099511628211u;
  }

 private:
  std::string name_;
  uint64_t digest_ = 14695981039346656037u;
};

template <class T>
using Wide = typename ComputeType<T>::type;

template <class T>
void run_moves(const char* type, const MoveKernels<T>& kernels) {
  const int64_t n = 2311;
  const std::vector<Wide<T>> weights = numbers<Wide<T>>(11), roots = numbers<Wide<T>>(11);
  for (int64_t kicks : {0, 1, 2}) {
    for (int options = 0; options < 8; ++options) {
      const bool draws = options & 1, has_decay = options & 2, has_masses = options & 4;
      Digest digest(std::string("move ") + type + " " + std::to_string(kicks) + " " + std::to_string(options));
      std::vector<T> x = numbers<T>(n, 1.0, 16), score = numbers<T>(n);
      std::vector<Wide<T>> v = numbers<Wide<T>>(n, 1.0, 16);
      MoveWork<T> work{};
      work.numbers = {0.3, 0.7, 0.9, 0.2, kicks, draws, has_decay, key, 3};
      work.x = x.data(), work.v = v.data(), work.score = score.data();
      if (has_masses) work.momentum = {nullptr, weights.data(), roots.data(), 11};
      kernels.move(work, 0, n);
      digest.add(x), digest.add(v);
    }
  }
}

template <class T>
void run_tests(const char* type, const MoveKernels<T>& kernels) {
  for (int64_t d : {1, 3, 1500}) {
    for (bool is_hmc : {false, true}) {
      Digest digest(std::string(is_hmc ? "hmc_test " : "mala_test ") + type + " " + std::to_string(d));
      const int64_t n = d == 1500 ? 5 : 700;
      std::vector<T> x = numbers<T>(n * d, 1.0, 16), score = numbers<T>(n * d, 1.0, 16);
      const std::vector<T> y = numbers<T>(n * d), new_score = numbers<T>(n * d);
      std::vector<double> energy = numbers<double>(n, 1.0, 4), log_ratio = numbers<double>(n, 1.0, 4);
      const std::vector<double> new_energy = numbers<double>(n);
      std::vector<int64_t> accepted(static_cast<size_t>(n)), rejected(static_cast<size_t>(n));
      const std::vector<Wide<T>> v = numbers<Wide<T>>(n * d);
      TestWork<T> work{};
      work.numbers = {1.3, -0.95, infinity, key, 5, 0.02, 0.1, 0.3, key, 9};
      work.d = d, work.x = x.data(), work.score = score.data();
      work.memory = {energy.data(), log_ratio.data(), accepted.data(), rejected.data()};
      work.y = y.data(), work.new_score = new_score.data(), work.new_energy = new_energy.data(), work.v = v.data();
      (is_hmc ? kernels.hmc_test : kernels.mala_test)(work, 0, n);
      digest.add(x), digest.add(score), digest.add(energy), digest.add(log_ratio);
      digest.add(accepted), digest.add(rejected);
    }
  }
}

// Chains of an energy by Langevin steps and by all other transitions.
template <class Energy>
void run_chains(const std::string& name, const ChainKernel<Energy>& kernel, const Energy& energy, int64_t dimension,
                bool by_element = false) {
  const std::vector<double> step_sizes{0.02, 0.01, 0.03}, noise_stds{0.2, 0.1, 0.15}, decays{0.9, 0.8, 0.7};
  const auto scratch = [&](const auto& step_kernel) {
    return std::vector<float>(static_cast<size_t>(step_kernel.scratch_size(energy)) + 16);
  };
  const auto aligned = [](std::vector<float>& memory) {
    return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  };
  for (int64_t n : {1, 5, 61, 300}) {
    for (NoiseFirst noise_first : {NoiseFirst::no, NoiseFirst::yes, NoiseFirst::clamp}) {
      for (bool limits : {false, true}) {
        Digest digest(name + " langevin " + std::to_string(n) + " " + std::to_string(static_cast<int>(noise_first)) +
                      (limits ? " limits" : ""));
        std::vector<float> x = numbers<float>(n * dimension, 1.5, 16), memory = scratch(kernel.langevin);
        const ChainArgs args{step_sizes.data(),
                             noise_stds.data(),
                             3,
                             key.seed,
                             key.step,
                             5,
                             true,
                             limits,
                             limits,
                             noise_first,
                             limits ? 0.5 : infinity,
                             limits ? -1.0 : -infinity,
                             limits ? 1.25 : infinity};
        kernel.langevin.run(energy, args, 0, by_element ? n * dimension : n, x.data(), aligned(memory));
        digest.add(x);
      }
    }
    for (TransitionKind kind : {TransitionKind::mala, TransitionKind::hmc, TransitionKind::underdamped}) {
      Digest digest(name + " transitions " + std::to_string(n) + " " + std::to_string(static_cast<int>(kind)));
      std::vector<float> x = numbers<float>(n * dimension, 1.0, 16), v = numbers<float>(n * dimension, 1.0, 16);
      std::vector<float> memory = scratch(kernel.transitions);
      const std::vector<float> m = masses(dimension), weights = masses(dimension), roots = masses(dimension);
      std::vector<double> energies(static_cast<size_t>(n)), log_ratio(static_cast<size_t>(n));
      std::vector<int64_t> accepted(static_cast<size_t>(n)), rejected(static_cast<size_t>(n));
      const TransitionArgs args{kind,
                                step_sizes.data(),
                                noise_stds.data(),
                                decays.data(),
                                3,
                                2,
                                1.1,
                                -1.5,
                                infinity,
                                {m.data(), weights.data(), roots.data(), dimension},
                                key.seed,
                                key.step,
                                key.stream,
                                3,
                                5,
                                1,
                                true,
                                true,
                                {energies.data(), log_ratio.data(), accepted.data(), rejected.data()},
                                v.data()};
      kernel.transitions.run(energy, args, 0, n, x.data(), aligned(memory));
      digest.add(x), digest.add(v), digest.add(energies), digest.add(log_ratio);
      digest.add(accepted), digest.add(rejected);
    }
  }
}

void run_mlps() {
  const float parameters[][2] = {{0.1f, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {1.5f, 20.0f}, {0.8f, 0}};
  for (int kind = 0; kind <= static_cast<int>(last_activation); ++kind) {
    for (bool sums_exponentials : {false, true}) {
      const std::vector<int64_t> widths{3, 17, 6, 10};
      std::vector<MlpLayer> layers;
      std::vector<std::vector<float>> packed;
      packed.reserve(9);
      for (size_t l = 0; l + 1 < widths.size(); ++l) {
        const int64_t n_in = widths[l], n_out = widths[l + 1];
        const std::vector<float> weight = numbers<float>(n_in * n_out);
        packed.emplace_back(static_cast<size_t>(mlps.packed_size(n_out, n_in)));
        mlps.pack(weight.data(), n_in, 1, n_out, n_in, packed.back().data());
        packed.emplace_back(static_cast<size_t>(mlps.packed_size(n_in, n_out)));
        mlps.pack(weight.data(), 1, n_in, n_in, n_out, packed.back().data());
        packed.push_back(numbers<float>(n_out));
        MlpLayer layer{n_in,
                       n_out,
                       packed[3 * l].data(),
                       packed[3 * l + 1].data(),
                       packed[3 * l + 2].data(),
                       static_cast<ActivationKind>(kind),
                       {parameters[kind][0], parameters[kind][1]}};
        layers.push_back(layer);
      }
      const std::vector<float> last = numbers<float>(widths.back());
      const Mlp mlp{3, 17, layers.data(), sums_exponentials, last.data(), sums_exponentials ? 1 : 10, false, 0.5f};
      run_chains("mlp " + std::to_string(kind) + (sums_exponentials ? " logsumexp" : ""), mlps.chain, mlp, 3);
    }
  }
}

void run_analytic() {
  for (int64_t dimension : {1, 2, 7}) {
    const std::string name = std::to_string(dimension);
    const std::vector<float> constants = numbers<float>(5), means = numbers<float>(5 * dimension);
    const std::vector<float> precisions = masses(5 * dimension);
    const Mixture mixture{5, dimension, constants.data(), means.data(), precisions.data()};
    run_chains("mixture " + name, table.mixture_chain, mixture, dimension);
    run_chains("double well " + name, table.double_well_chain, DoubleWell{1.5f, 0.75f, dimension}, dimension, true);
  }
}

void run_convnets() {
  struct Case {
    const char* name;
    ImageShape image;
    std::vector<ConvLayer> layers;
  };
  const Case cases[] = {
      {"convnet",
       {3, 7, 6},
       {{20, 3, 3, 1, 1, 1, 1, 0.5f}, {33, 3, 2, 2, 1, 0, 1, 0.25f}, {5, 3, 5, 1, 1, 0, 0, 0.5f}}},
      {"winograd",
       {2, 16, 16},
       {{16, 3, 3, 1, 1, 1, 1, 0.5f}, {48, 4, 4, 2, 2, 1, 1, 0.5f}, {8, 8, 8, 1, 1, 0, 0, 0.5f}}},
  };
  for (const Case& c : cases) {
    const ConvnetPlan plan(c.image, c.layers, false);
    std::vector<std::vector<float>> values;
    std::vector<const float*> weights, biases;
    values.reserve(8);
    const auto whole_numbers = [](int64_t n) {
      std::vector<float> out(static_cast<size_t>(n));
      for (float& a : out) a = whole(1);
      return out;
    };
    const auto keep = [&](int64_t n) {
      values.push_back(whole_numbers(n));
      return values.back().data();
    };
    int64_t channels = c.image.channels;
    for (const ConvLayer& layer : c.layers) {
      weights.push_back(keep(layer.channels * channels * layer.kernel_y * layer.kernel_x));
      biases.push_back(keep(layer.channels));
      channels = layer.channels;
    }
    const ImageShape top = plan.shape(c.layers.size());
    std::vector<uint32_t> packed(static_cast<size_t>(plan.packed_words()) + 16);
    const auto at = [](auto& memory) {
      return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    };
    plan.pack(weights, biases, keep(top.channels * top.height * top.width), at(packed));
    const Tower& tower = plan.tower();
    std::printf("%s has %d stages by Winograd's filtering\n", c.name, [&] {
      int n = 0;
      for (int64_t i = 0; i < tower.n_stages; ++i) n += tower.stages[i].is_winograd;
      return n;
    }());
    const int64_t size = c.image.channels * c.image.height * c.image.width;
    for (int64_t n : {1, 3, 8}) {
      Digest digest(std::string(c.name) + " " + std::to_string(n));
      const std::vector<float> x = whole_numbers(n * size);
      std::vector<uint32_t> scratch(static_cast<size_t>(n * tower.sample_words + tower.work_words) + 16);
      std::vector<float> score = numbers<float>(0, 0, n * size + 16), energy(static_cast<size_t>(n));
      std::vector<double> parts(static_cast<size_t>(n * energy_parts(tower)));
      const EnergyArgs energies{0.5, parts.data(), energy.data()};
      convnets.score(tower, at(packed), x.data(), n, at(scratch), score.data(), &energies);
      digest.add(score), digest.add(energy);
    }
  }
}

// From stdin, as test_arm64.py writes them: for each program the number of samples and the lengths of what follows.
void run_programs() {
  int64_t lengths[4];
  for (int i = 0; std::fread(lengths, sizeof lengths, 1, stdin) == 1; ++i) {
    std::vector<int64_t> code(static_cast<size_t>(lengths[1]));
    std::vector<float> shared(static_cast<size_t>(lengths[2])), per_sample(static_cast<size_t>(lengths[3]));
    if (std::fread(code.data(), sizeof(int64_t), code.size(), stdin) != code.size() ||
        std::fread(shared.data(), sizeof(float), shared.size(), stdin) != shared.size() ||
        std::fread(per_sample.data(), sizeof(float), per_sample.size(), stdin) != per_sample.size()) {
      return;
    }
    const auto* const header = reinterpret_cast<const ProgramCode*>(code.data());
    const int64_t n = lengths[0];
    Digest digest("program " + std::to_string(i));
    std::vector<float> scratch(static_cast<size_t>(n * header->sample_words + header->extra_words) + 64);
    auto* const work = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
    const std::vector<float> x = numbers<float>(n * header->n_state);
    std::vector<float> score = numbers<float>(0, 0, n * header->n_state + 16), energy(static_cast<size_t>(n));
    programs.score({header, shared.data(), per_sample.data(), 0}, n, x.data(), score.data(),
                   header->energy < 0 ? nullptr : energy.data(), work);
    digest.add(score), digest.add(energy);
  }
}

}  // namespace

int main() {
  run_moves("float", table.moves_float), run_moves("double", table.moves_double);
  run_moves("bfloat16", table.moves_bfloat16), run_moves("half", table.moves_half);
  run_tests("float", table.moves_float), run_tests("double", table.moves_double);
  run_tests("bfloat16", table.moves_bfloat16), run_tests("half", table.moves_half);
  run_mlps();
  run_analytic();
  run_convnets();
  run_programs();
}
