// The convnet's kernel over an arithmetic A. Internal linkage throughout, as in kernels_impl.h.
//
// A sample's score does not depend on its batch: each output is a sum of its own (products_impl.h).
#pragma once

#include <algorithm>

#include "chain_impl.h"
#include "convnet.h"
#include "convnet_finish_impl.h"
#include "convnet_score_impl.h"
#include "convnet_winograd_impl.h"
#include "products_impl.h"
#include "small_floats.h"

namespace fastlangevin {
namespace {

// What the rows of a block share: n_runs runs of `run` words, run_pitch apart in the input.
struct Runs {
  int64_t n_runs, run, run_pitch, weights_pitch, tile, columns;

  FL_INLINE int64_t in_at(int64_t r) const { return r * run_pitch; }
  FL_INLINE int64_t weights_at(int64_t r) const { return r * weights_pitch; }
  FL_INLINE void look_ahead(int64_t) const {}
};

template <class A>
FL_INLINE void run_block(const Tower& tower, const Stage& stage, const Tile<A>& tile, const Runs& runs,
                         const typename A::word* weights, const Block<A>& block) {
  if constexpr (A::has_tiles) {
    alignas(64) float sums[A::rows * max_tile];
    A::multiply(block.n, runs, block.in, weights, tile.start, sums);
    block.finish_stored(tile.width, sums);
  } else {
    multiply<A>(block.n, runs, block.in, weights, block);
  }
  if (block.sums) add_parts(tower, stage, tile, block);
}

template <class A>
FL_INLINE void run_patch(const Tower& tower, const Stage& stage, const Tile<A>& tile, const Patch& patch,
                         int64_t n_samples) {
  const Runs runs{patch.y.n,
                  patch.x.n * stage.in_words,
                  stage.in_width * stage.in_words,
                  stage.x.window * stage.in_words * tile.width,
                  tile.width,
                  tile.width};
  const typename A::word* const weights =
      tile.weights + (patch.y.from * stage.x.window + patch.x.from) * stage.in_words * tile.width;
  // The rows in the order y, x, sample, in blocks whose numbers of rows differ by one at most.
  const int64_t n = (patch.y1 - patch.y0) * (patch.x1 - patch.x0) * n_samples;
  const int64_t n_blocks = (n + A::rows - 1) / A::rows, fewest = n / n_blocks, n_longer = n % n_blocks;
  int64_t y = patch.y0, x = patch.x0, sample = n_samples, pixel = 0;
  const typename A::word* in = nullptr;
  typename A::word* out = nullptr;
  const float* last = nullptr;
  alignas(64) float sums[A::rows * max_tile];
  Block<A> block = tile.block(stage, sums);
  for (int64_t b = 0; b < n_blocks; ++b) {
    block.n = fewest + (b < n_longer);
    for (int64_t m = 0; m < block.n; ++m) {
      if (sample == n_samples) {
        const int64_t in_y = stage.y.first + y * stage.y.step + patch.y.from;
        const int64_t in_x = stage.x.first + x * stage.x.step + patch.x.from;
        const int64_t out_y = stage.y.out_first + y * stage.y.out_step;
        const int64_t out_x = stage.x.out_first + x * stage.x.out_step;
        in = tile.scratch + stage.in + (in_y * stage.in_width + in_x) * stage.in_words;
        pixel = out_y * stage.out_width + out_x;
        out = tile.out(tower, stage, 0, pixel);
        last = tile.last + pixel * stage.out_channels;
        sample = 0;
        if (++x == patch.x1) x = patch.x0, ++y;
      }
      block.in[m] = in, block.out[m] = out, block.last[m] = last;
      block.sample[m] = sample++, block.pixel[m] = pixel;
      in += tower.sample_words, out += tower.sample_words;
    }
    run_block<A>(tower, stage, tile, runs, weights, block);
  }
}

template <class A>
void run_tile(const Tower& tower, const Stage& stage, const Tile<A>& tile, int64_t n_samples) {
  each_patch(stage.y, stage.x, [&](const Patch& patch) { run_patch<A>(tower, stage, tile, patch, n_samples); });
}

template <class A>
void convnet(const Tower& tower, const void* packed, const float* x, int64_t n, void* memory, float* score,
             const EnergyArgs* energies) {
  using word = typename A::word;
  [[maybe_unused]] const typename A::Registers held{};
  const float* const floats = static_cast<const float*>(packed);
  word* const scratch = static_cast<word*>(memory);
  const int64_t area = tower.height * tower.width;
  double* const parts = energies ? energies->parts : nullptr;
  const int64_t n_stages = score ? tower.n_stages : tower.turn + 1;
  for (int64_t i = 0; i < n; ++i) {
    A::load_image(x + i * tower.channels * area, tower.channels, area, scratch + i * tower.sample_words);
  }
  for (int64_t s = 0; s < n_stages; ++s) {
    const Stage& stage = tower.stages[s];
    const word* weights = static_cast<const word*>(packed) + stage.weights;
    if (stage.finish == Finish::score) {
      run_score<A>(tower, stage, weights, scratch, n, score);
      continue;
    }
    if constexpr (A::channels_a_word == 1) {
      if (stage.is_winograd) {
        WinogradRows<A>(tower, stage, floats, scratch, scratch + n * tower.sample_words, parts).run(n);
        continue;
      }
    }
    for (int64_t channel = 0, width; channel < stage.out_channels; channel += width) {
      width = tile_width(stage, channel);
      const Tile<A> tile{channel, width, weights, floats + stage.start + channel, floats + tower.last + channel,
                         scratch, parts};
      run_tile<A>(tower, stage, tile, n);
      weights += stage.y.window * stage.x.window * stage.in_words * width;
    }
  }
  if (energies) add_energies(tower, *energies, n);
}

// With noise arithmetic N.
template <class N, class A>
void convnet_chain(const Tower& tower, const void* packed, const ChainArgs& args, uint64_t first_element, int64_t n,
                   float* x, void* scratch, float* numbers) {
  const int64_t size = n * tower.channels * tower.height * tower.width;
  float *const score = numbers, *const z = score + size;
  run_steps(
      args, size, x, score, z, [&](const NoiseKey& key) { fill<N, false>(key, first_element, size, z); },
      [&] { convnet<A>(tower, packed, x, n, scratch, score, nullptr); });
}

template <class N, class A>
constexpr ConvnetKernels make_convnet_kernels() {
  return {convnet<A>, convnet_chain<N, A>};
}

// What the float32 arithmetics share.
struct Float32Words {
  using word = float;
  static constexpr int64_t channels_a_word = 1;
  static constexpr bool has_tiles = false;  // that multiply 16 rows by 16 words of 16 channels: A::multiply
  struct Registers {};                      // held while a thread computes

  static FL_INLINE void load_image(const float* x, int64_t channels, int64_t area, float* out) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t i = 0; i < area; ++i) out[i * channels + c] = x[c * area + i];
    }
  }
};

}  // namespace
}  // namespace fastlangevin
