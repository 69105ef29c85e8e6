#include "convnet_plan.h"

#include <algorithm>
#include <utility>

#include "../small_floats.h"
#include "convnet_winograd.h"

namespace fastlangevin {
namespace {

int64_t ceil_divide(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : -(-a / b); }

int64_t round_up(int64_t n, int64_t to) { return ceil_divide(n, to) * to; }

Axis forward_axis(int64_t n_in, int64_t n_out, int64_t kernel, int64_t stride, int64_t padding) {
  return {n_out, -padding, stride, kernel, n_in, 0, 1};
}

// The inputs i with (i + padding) % stride == residue: where q = (i + padding - residue) / stride, the outputs q, q -
// 1, … read i at the kernel's places residue, residue + stride, ….
Axis gradient_axis(int64_t n_in, int64_t n_out, int64_t kernel, int64_t stride, int64_t padding, int64_t residue) {
  const int64_t q = ceil_divide(padding - residue, stride);
  const int64_t i = residue - padding + stride * q;
  const int64_t window = std::max<int64_t>(0, ceil_divide(kernel - residue, stride));
  return {std::max<int64_t>(0, ceil_divide(n_in - i, stride)), q - window + 1, 1, window, n_out, i, stride};
}

// The inputs that the outputs of an axis read, without the zeros outside.
int64_t places_inside(const Axis& axis) {
  int64_t n = 0;
  for (int64_t i = 0; i < axis.count; ++i) {
    const int64_t start = axis.first + i * axis.step;
    n += std::max<int64_t>(0, std::min(axis.extent, start + axis.window) - std::max<int64_t>(0, start));
  }
  return n;
}

// Whether a layer's stage takes less time so. Beside its products, a transformed input takes as long as 12
// multiply-adds, and a tile's sums as 150 for each output channel, by measurement.
bool suits_winograd(const ConvLayer& layer, const Stage& stage) {
  if (layer.kernel_y != 2 * layer.stride_y || layer.kernel_x != 2 * layer.stride_x) return false;
  if (stage.finish == Finish::score || stage.in_words % panel != 0) return false;
  const WinogradShape shape = winograd_shape(stage);
  const int64_t tiles = shape.tiles_y * shape.tiles_x, out = stage.out_channels;
  const int64_t direct = places_inside(stage.y) * places_inside(stage.x) * stage.in_words * out;
  return tiles * (winograd_places * shape.depth * (out + 12) + 150 * out) < direct;
}

}  // namespace

ConvnetPlan::ConvnetPlan(const ImageShape& image, std::vector<ConvLayer> layers, bool bfloat16)
    : channels_a_word_(bfloat16 ? 2 : 1), layers_(std::move(layers)) {
  const int64_t image_words = ceil_divide(image.channels, channels_a_word_);
  features_.push_back({image, image.channels, image_words, 0});
  add_features();
  const Feature& top = features_.back();
  tower_.last = reserve(top.shape.height * top.shape.width * top.padded);
  for (size_t l = 0; l < layers_.size(); ++l) add_forward(l);
  tower_.turn = static_cast<int64_t>(stages_.size()) - 1;
  for (size_t l = layers_.size(); l-- > 0;) add_gradient(l);
  tower_.stages = stages_.data(), tower_.n_stages = static_cast<int64_t>(stages_.size());
  tower_.channels = image.channels, tower_.height = image.height, tower_.width = image.width;
}

ImageShape ConvnetPlan::shape(size_t layer) const { return features_[layer].shape; }

int64_t ConvnetPlan::reserve(int64_t words) {
  const int64_t at = packed_words_;
  packed_words_ += round_up(words, panel);
  return at;
}

// The shapes, places in the scratch memory, and at the beginning of the packed words the zeros that sums
// without a bias start from, and that lie around the images.
void ConvnetPlan::add_features() {
  const ImageShape image = features_[0].shape;
  int64_t words = round_up(image.height * image.width * features_[0].words, panel);
  int64_t widest = 0;
  for (const ConvLayer& layer : layers_) {
    const ImageShape& in = features_.back().shape;
    const int64_t padded_in = features_.back().padded;
    const ImageShape out{layer.channels, (in.height + 2 * layer.padding_y - layer.kernel_y) / layer.stride_y + 1,
                         (in.width + 2 * layer.padding_x - layer.kernel_x) / layer.stride_x + 1};
    const int64_t padded = round_up(out.channels, panel * channels_a_word_);
    features_.push_back({out, padded, padded / channels_a_word_, words});
    words += round_up(out.height * out.width * features_.back().words, panel);
    widest = std::max({widest, padded, layer.stride_x * padded_in});
  }
  // An odd number of cache lines, so that a pixel of one sample and of the next fall into different sets.
  tower_.sample_words = round_up(words, 2 * panel) + panel;
  reserve(widest);
}

void ConvnetPlan::add(Stage stage, const Feature& in, const Feature& out, const WeightView& view) {
  stage.in_width = in.shape.width, stage.out_width = out.shape.width;
  stage.in_words = in.words;
  stage.in = in.at, stage.out = out.at;
  stage.out_channels = out.padded;
  stage.is_winograd = channels_a_word_ == 1 && suits_winograd(layers_[view.layer], stage);
  int64_t matrices = stage.y.window * stage.x.window;
  if (stage.is_winograd) {
    matrices = winograd_places * stage.y.step * stage.x.step;
    tower_.work_words = std::max(tower_.work_words, winograd_work_words(winograd_shape(stage)));
  }
  stage.weights = reserve(matrices * stage.in_words * stage.out_channels);
  stages_.push_back(stage);
  views_.push_back(view);
}

void ConvnetPlan::add_forward(size_t l) {
  const ConvLayer& layer = layers_[l];
  const Feature &in = features_[l], &out = features_[l + 1];
  Stage stage{};
  stage.finish = l + 1 < layers_.size() ? Finish::activate : Finish::turn;
  stage.slope = layer.slope;
  stage.y = forward_axis(in.shape.height, out.shape.height, layer.kernel_y, layer.stride_y, layer.padding_y);
  stage.x = forward_axis(in.shape.width, out.shape.width, layer.kernel_x, layer.stride_x, layer.padding_x);
  stage.start = reserve(out.padded);
  biases_.push_back(stage.start);
  const int64_t area = layer.kernel_y * layer.kernel_x, ins = in.shape.channels;
  add(stage, in, out, {l, layer.channels, ins, 0, ins * area, area, layer.kernel_x, 1});
}

void ConvnetPlan::add_gradient(size_t l) {
  const ConvLayer& layer = layers_[l];
  const Feature &in = features_[l + 1], &out = features_[l];
  const int64_t area = layer.kernel_y * layer.kernel_x, outs = out.shape.channels;
  for (int64_t y = 0; y < layer.stride_y; ++y) {
    for (int64_t x = 0; x < layer.stride_x; ++x) {
      Stage stage{};
      stage.finish = l > 0 ? Finish::mask : Finish::score;
      stage.slope = l > 0 ? layers_[l - 1].slope : 1.0f;
      stage.y = gradient_axis(out.shape.height, in.shape.height, layer.kernel_y, layer.stride_y, layer.padding_y, y);
      stage.x = gradient_axis(out.shape.width, in.shape.width, layer.kernel_x, layer.stride_x, layer.padding_x, x);
      const int64_t first =
          (y + layer.stride_y * (stage.y.window - 1)) * layer.kernel_x + x + layer.stride_x * (stage.x.window - 1);
      add(stage, in, out,
          {l, outs, layer.channels, first, area, outs * area, -layer.stride_y * layer.kernel_x, -layer.stride_x});
    }
  }
}

void ConvnetPlan::pack(const std::vector<const float*>& weights, const std::vector<const float*>& biases,
                       const float* last, void* out) const {
  float* const floats = static_cast<float*>(out);
  uint32_t* const words = static_cast<uint32_t*>(out);
  std::fill(words, words + packed_words_, 0);
  for (size_t l = 0; l < layers_.size(); ++l) {
    if (biases[l]) std::copy(biases[l], biases[l] + layers_[l].channels, floats + biases_[l]);
  }
  const Feature& top = features_.back();
  const int64_t area = top.shape.height * top.shape.width;
  for (int64_t i = 0; i < area; ++i) {
    for (int64_t c = 0; c < top.shape.channels; ++c) floats[tower_.last + i * top.padded + c] = last[c * area + i];
  }
  for (size_t s = 0; s < stages_.size(); ++s) {
    if (stages_[s].is_winograd) {
      pack_winograd(stages_[s], views_[s], weights[views_[s].layer], floats + stages_[s].weights);
    } else {
      pack_weights(stages_[s], views_[s], weights[views_[s].layer], words + stages_[s].weights);
    }
  }
}

// The planes of a panel's output channels are copied together before they are transposed: in the weight itself they lie
// a power of two apart, often, where a cache holds few.
void ConvnetPlan::pack_weights(const Stage& stage, const WeightView& view, const float* weights, uint32_t* out) const {
  const int64_t window = stage.y.window * stage.x.window;
  const int64_t area = layers_[view.layer].kernel_y * layers_[view.layer].kernel_x;
  std::vector<uint32_t> planes(static_cast<size_t>(panel * area));
  for (int64_t channel = 0, tile; channel < stage.out_channels; channel += tile) {
    tile = tile_width(stage, channel);
    for (int64_t c = 0; c < view.ins; ++c) {
      const int shift = c % channels_a_word_ == 1 ? 16 : 0;
      for (int64_t o = 0; o < tile; o += panel) {
        const int64_t n = std::min({panel, tile - o, view.outs - channel - o});
        for (int64_t i = 0; i < n; ++i) {
          const float* const from = weights + (channel + o + i) * view.by_out + c * view.by_in;
          for (int64_t a = 0; a < area; ++a) {
            planes[i * area + a] =
                channels_a_word_ == 1 ? float_bits(from[a]) : uint32_t{narrow_bfloat16(from[a]).bits} << shift;
          }
        }
        for (int64_t y = 0; y < stage.y.window; ++y) {
          for (int64_t x = 0; x < stage.x.window; ++x) {
            const uint32_t* const from = planes.data() + view.first + y * view.by_y + x * view.by_x;
            const int64_t word = (y * stage.x.window + x) * stage.in_words + c / channels_a_word_;
            uint32_t* const to = out + word * tile + o;
            for (int64_t i = 0; i < n; ++i) to[i] |= from[i * area];
          }
        }
      }
    }
    out += window * stage.in_words * tile;
  }
}

// (place y, place x, tile of channels, phase y, phase x, input channel, channel). Of a place's weights in y, g0, their
// sum or g1, likewise in x.
void ConvnetPlan::pack_winograd(const Stage& stage, const WeightView& view, const float* weights, float* out) const {
  const WinogradShape shape = winograd_shape(stage);
  const int64_t by_y = stage.y.step * view.by_y, by_x = stage.x.step * view.by_x;  // from a phase's weight to its next
  for (int64_t channel = 0, tile; channel < stage.out_channels; channel += tile) {
    tile = tile_width(stage, channel);
    const int64_t n = std::min(tile, view.outs - channel);
    for (int64_t phase = 0; phase < stage.y.step * stage.x.step; ++phase) {
      const float* const of_phase = weights + channel * view.by_out + view.first + phase / stage.x.step * view.by_y +
                                    phase % stage.x.step * view.by_x;
      for (int64_t c = 0; c < view.ins; ++c) {
        float* const to = out + channel * shape.depth + (phase * stage.in_words + c) * tile;
        for (int64_t o = 0; o < n; ++o) {
          const float* const from = of_phase + o * view.by_out + c * view.by_in;
          float g[3][3] = {{from[0], 0, from[by_x]}, {}, {from[by_y], 0, from[by_y + by_x]}};
          for (float (&row)[3] : g) row[1] = row[0] + row[2];
          for (int i = 0; i < 3; ++i) g[1][i] = g[0][i] + g[2][i];
          int64_t place = 0;
          for (const int64_t y : winograd_order) {
            for (const int64_t x : winograd_order) to[place++ * shape.depth * stage.out_channels + o] = g[y][x];
          }
        }
      }
    }
  }
}

}  // namespace fastlangevin
