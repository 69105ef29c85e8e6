// The score of a convolutional energy, as stages that all gather: every output pixel is a sum over a window of input
// pixels. Its plan is made in convnet_plan.cpp, its kernels in convnet_impl.h.
//
// Pixels lie channels-last. A word is what the kernels multiply at a time: one float32 channel, or two of bfloat16.
// Words a pixel, but for the image's, are a multiple of `panel`.
#pragma once

#include <cstdint>

#include "chain.h"
#include "products.h"

namespace fastlangevin {

enum class Finish {
  activate,  // the output is the activation of the sum
  turn,      // the output is the gradient at the sum: that at its activation, which is constant, times the derivative
  mask,      // the output, an activation until now, becomes the gradient at its sum
  score,     // the output is the sum, in the image's own layout
};

struct Stage {
  Finish finish;
  float slope;  // of the activation that lies, or lay, in the output
  Axis y, x;
  int64_t in_width, out_width;     // pixels a row
  int64_t in_words, out_channels;  // a pixel
  int64_t in, out;                 // words from the beginning of a sample's part of the scratch memory
  int64_t weights, start;          // words from the beginning of the packed tensor; start: of the sums, (out_channels)
  bool is_winograd;                // computed as convnet_winograd.h has it
};

struct Tower {
  const Stage* stages;
  int64_t n_stages;
  int64_t channels, height, width;  // of an image
  int64_t sample_words;             // of scratch memory
  int64_t work_words;               // of it that the samples of a call share
  int64_t last;                     // the constant gradient, float32 and channels-last: words into the packed tensor
  int64_t turn;                     // number of the stage that turns
};

// The output channels from a channel on whose weights lie together: (window y, window x, input word, channel).
FL_INLINE int64_t tile_width(const Stage& stage, int64_t channel) {
  if (stage.finish == Finish::score) return 1;
  return tile_of(stage.out_channels - channel);
}

// Where the energies go that are computed beside scores: U = -(offset + the gradient's product with the last
// activation).
struct EnergyArgs {
  double offset;
  double* parts;  // n * energy_parts numbers: of each output pixel that turns, the sums over the tiles of channels
  float* energy;  // n
};

FL_INLINE int64_t energy_parts(const Tower& tower) {
  const Stage& stage = tower.stages[tower.turn];
  return stage.y.count * stage.x.count * (stage.out_channels / panel);
}

struct ConvnetKernels {
  // The scores of n contiguous images and their energies, unless `score` or `energies` is null. scratch: n *
  // sample_words + work_words words.
  void (*score)(const Tower& tower, const void* packed, const float* x, int64_t n, void* scratch, float* score,
                const EnergyArgs* energies);
  // All steps of n contiguous images, in place, element `first_element` of the noise stream first. scratch: as above.
  // numbers: twice as many as x has.
  void (*chain)(const Tower& tower, const void* packed, const ChainArgs& args, uint64_t first_element, int64_t n,
                float* x, void* scratch, float* numbers);
};

extern const ConvnetKernels convnet_portable, convnet_avx2, convnet_avx512, convnet_avx512_bf16, convnet_amx_bf16,
    convnet_neon;

struct Convnet {
  const ConvnetKernels* fp32;
  const ConvnetKernels* bf16;  // null where there is none
};

// The kernels of the instruction set in force.
Convnet convnet();

}  // namespace fastlangevin
