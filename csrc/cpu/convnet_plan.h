// From the geometry of a tower of convolutions to its stages, and its weights in the stages' order.
#pragma once

#include <vector>

#include "convnet.h"

namespace fastlangevin {

struct ImageShape {
  int64_t channels, height, width;
};

struct ConvLayer {
  int64_t channels, kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x;  // channels: of the output
  float slope;                                                                     // of the activation that follows
};

class ConvnetPlan {
 public:
  ConvnetPlan(const ImageShape& image, std::vector<ConvLayer> layers, bool bfloat16);
  ConvnetPlan(const ConvnetPlan&) = delete;

  const Tower& tower() const { return tower_; }
  ImageShape shape(size_t layer) const;  // of the image, 0, or of a layer's output, from 1 on
  int64_t packed_words() const { return packed_words_; }

  // Fills out[0, packed_words). weights (O, I, kh, kw) and biases (O,), or null: one a layer. last: (C, H, W).
  void pack(const std::vector<const float*>& weights, const std::vector<const float*>& biases, const float* last,
            void* out) const;

 private:
  struct Feature {
    ImageShape shape;
    int64_t padded, words, at;  // channels, words a pixel, and words from the beginning of the scratch memory
  };
  // The weight of a stage's output channel o, input channel c and window place (y, x) is that of a layer at
  // o * by_out + c * by_in + first + y * by_y + x * by_x.
  struct WeightView {
    size_t layer;
    int64_t outs, ins;  // channels without padding
    int64_t first, by_out, by_in, by_y, by_x;
  };

  void add_features();
  void add_forward(size_t l);
  void add_gradient(size_t l);
  void add(Stage stage, const Feature& in, const Feature& out, const WeightView& view);
  void pack_weights(const Stage& stage, const WeightView& view, const float* weights, uint32_t* out) const;
  void pack_winograd(const Stage& stage, const WeightView& view, const float* weights, float* out) const;
  int64_t reserve(int64_t words);

  int64_t channels_a_word_;
  std::vector<ConvLayer> layers_;
  std::vector<Feature> features_;  // the image, then each layer's output
  std::vector<Stage> stages_;
  std::vector<WeightView> views_;  // one a stage
  std::vector<int64_t> biases_;    // one a layer
  int64_t packed_words_ = 0;
  Tower tower_{};
};

}  // namespace fastlangevin
