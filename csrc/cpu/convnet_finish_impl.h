// What becomes of the sums of a stage of a convnet, over an arithmetic A. Internal linkage, as in kernels_impl.h.
#pragma once

#include "convnet.h"
#include "products_impl.h"

namespace fastlangevin {
namespace {

// The outputs of a block, a pixel a row: at most A::rows whose sums are of the same words.
template <class A>
struct Block {
  int64_t n;
  const typename A::word* in[A::rows];
  int64_t sample[A::rows], pixel[A::rows];  // of the output
};

// What a tile of a stage works on.
template <class A>
struct Tile {
  int64_t channel, width;
  const typename A::word* weights;
  const float *start, *last;
  typename A::word* scratch;
  float* score;
};

template <Finish kind, class A>
FL_INLINE void finish(const Tower& tower, const Stage& stage, const Tile<A>& tile, const Block<A>& block,
                      const float* sums) {
  const typename A::f32 slope = A::broadcast(stage.slope);
  const int64_t out_words = stage.out_channels / A::channels_a_word;
  for (int64_t m = 0; m < block.n; ++m, sums += max_tile) {
    typename A::word* const out = tile.scratch + block.sample[m] * tower.sample_words + stage.out +
                                  block.pixel[m] * out_words + tile.channel / A::channels_a_word;
    const float* const last = tile.last + block.pixel[m] * stage.out_channels;
    for (int64_t c = 0; c < tile.width; c += A::width) {
      typename A::word* const to = out + c / A::channels_a_word;
      const typename A::f32 sum = A::load(sums + c);
      const typename A::f32 sign = kind == Finish::mask ? A::widen(to) : sum;
      const typename A::f32 value = kind == Finish::turn ? A::load(last + c) : sum;
      A::narrow(to, A::where_positive(sign, value, A::mul(slope, value)));
    }
  }
}

// For all but Finish::score.
template <class A>
FL_INLINE void finish(const Tower& tower, const Stage& stage, const Tile<A>& tile, const Block<A>& block,
                      const float* sums) {
  if (stage.finish == Finish::activate) {
    finish<Finish::activate>(tower, stage, tile, block, sums);
  } else if (stage.finish == Finish::turn) {
    finish<Finish::turn>(tower, stage, tile, block, sums);
  } else {
    finish<Finish::mask>(tower, stage, tile, block, sums);
  }
}

}  // namespace
}  // namespace fastlangevin
