// Convolutions, their input gradients, linear layers and products of two matrices of a sample.
#pragma once

#include "products_impl.h"
#include "program_places_impl.h"

namespace fastlangevin {
namespace {

template <class V>
struct ProductArithmetic {
  using word = float;
  using f32 = typename V::f32;
  using words = f32;
  static constexpr int width = V::width;
  static constexpr int rows = width == 16 ? 7 : width == 8 ? 6 : 3, vectors = width == 8 ? 2 : 4;

  static FL_INLINE f32 load(const float* p) { return load_any<V>(p); }
  static FL_INLINE void store(float* p, f32 a) { store_any<V>(p, a); }
  static FL_INLINE words load_words(const float* p) { return load_any<V>(p); }
  static FL_INLINE words broadcast_word(const float* p) { return V::broadcast(*p); }
  static FL_INLINE f32 multiply_add(words a, words b, f32 c) { return V::fma(a, b, c); }
};

constexpr int64_t most_runs = 1024;

struct ProductRuns {
  int64_t n_runs, run, tile, columns;
  const int64_t *in, *weights;

  FL_INLINE int64_t in_at(int64_t r) const { return in[r]; }
  FL_INLINE int64_t weights_at(int64_t r) const { return weights[r]; }
  FL_INLINE void look_ahead(int64_t) const {}
};

template <class A>
FL_INLINE void store_rows(int64_t n_rows, int64_t columns, const float* sums, float* const* out) {
  const int64_t whole = columns - columns % A::width;
  for (int64_t m = 0; m < n_rows; ++m, sums += max_tile) {
    float* const to = out[m];
    for (int64_t c = 0; c < whole; c += A::width) A::store(to + c, A::load(sums + c));
    for (int64_t c = whole; c < columns; ++c) to[c] = sums[c];
  }
}

// The rows of a patch, in the order y, x, sample, in blocks whose numbers of rows differ by one at most.
template <class A>
FL_INLINE void product_patch(const ProductCode& code, const Samples& samples, const ProductRuns& runs,
                             const Patch& patch, const float* weights, const float* start, int64_t channel) {
  const int64_t n = (patch.y1 - patch.y0) * (patch.x1 - patch.x0) * samples.n;
  const int64_t n_blocks = (n + A::rows - 1) / A::rows, fewest = n / n_blocks, n_longer = n % n_blocks;
  const int64_t in_pitch = samples.pitch_of(code.in.space);
  int64_t y = patch.y0, x = patch.x0, sample = samples.n;
  const float* in = nullptr;
  float* out = nullptr;
  const float* in_rows[A::rows];
  float* out_rows[A::rows];
  alignas(64) float sums[A::rows * max_tile];
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int64_t n_rows = fewest + (b < n_longer);
    for (int64_t m = 0; m < n_rows; ++m) {
      if (sample == samples.n) {
        const int64_t in_y = code.y.first + y * code.y.step + patch.y.from * code.y.dilation;
        const int64_t in_x = code.x.first + x * code.x.step + patch.x.from * code.x.dilation;
        in = samples.at(code.in, 0) + in_y * code.in_y + in_x * code.in_x;
        out = samples.out(code.out, 0) + (code.y.out_first + y * code.y.out_step) * code.out_y +
              (code.x.out_first + x * code.x.out_step) * code.out_x + channel;
        sample = 0;
        if (++x == patch.x1) x = patch.x0, ++y;
      }
      in_rows[m] = in;
      out_rows[m] = out;
      in += in_pitch, out += samples.pitch;
      ++sample;
    }
    multiply<A>(n_rows, runs, in_rows, weights, start, sums);
    store_rows<A>(n_rows, runs.columns, sums, out_rows);
  }
}

template <class V>
void run_product(const ProductCode& code, const Samples& samples) {
  using A = ProductArithmetic<V>;
  int64_t in[most_runs], at[most_runs];
  const float* weights = samples.shared + code.weights;
  const int64_t padded = (code.out_channels + panel - 1) / panel * panel;
  const int64_t area = code.y.window * code.x.window * code.in_channels;
  for (int64_t channel = 0, tile; channel < padded; channel += tile, weights += area * tile) {
    tile = std::min(code.tile, tile_of(padded - channel));
    each_patch(code.y, code.x, [&](const Patch& patch) {
      // Pixels of a row that lie together are one run.
      const bool is_dense = code.in_x * code.x.dilation == code.in_channels;
      const int64_t n_x = is_dense ? (patch.x.n > 0) : patch.x.n;
      ProductRuns runs{0,    is_dense ? patch.x.n * code.in_channels : code.in_channels,
                       tile, std::min(tile, code.out_channels - channel),
                       in,   at};
      for (int64_t y = 0; y < patch.y.n; ++y) {
        for (int64_t x = 0; x < n_x; ++x) {
          in[runs.n_runs] = y * code.y.dilation * code.in_y + x * code.x.dilation * code.in_x;
          at[runs.n_runs++] = ((patch.y.from + y) * code.x.window + patch.x.from + x) * code.in_channels * tile;
        }
      }
      product_patch<A>(code, samples, runs, patch, weights, samples.shared + code.start + channel, channel);
    });
  }
}

// Columns of a matrix b, from its row 0 on, to rows of a tile, with zeros after them.
FL_INLINE void pack_columns(const MultiplyCode& code, const float* b, int64_t columns, int64_t tile, float* to) {
  if (code.b_row == 1) {
    transpose(b, code.b_column, columns, code.k, to, tile);
  } else {
    for (int64_t k = 0; k < code.k; ++k) {
      const float* const from = b + k * code.b_row;
      if (code.b_column == 1) {
        std::copy_n(from, columns, to + k * tile);
      } else {
        for (int64_t c = 0; c < columns; ++c) to[k * tile + c] = from[c * code.b_column];
      }
    }
  }
  if (columns < tile) {
    for (int64_t k = 0; k < code.k; ++k) std::fill(to + k * tile + columns, to + (k + 1) * tile, 0.0f);
  }
}

// The matrices b are packed as weights are, each for itself.
template <class V>
void run_multiply(const MultiplyCode& code, const Samples& samples) {
  using A = ProductArithmetic<V>;
  alignas(64) float sums[A::rows * max_tile];
  alignas(64) static const float zeros[max_tile] = {};
  const int64_t zero = 0, padded = (code.n + panel - 1) / panel * panel;
  for (int64_t s = 0; s < samples.n; ++s) {
    for (int64_t i = 0; i < code.count; ++i) {
      const float* const a = samples.at(code.a, s) + i * code.a_matrix;
      const float* const b = samples.at(code.b, s) + i * code.b_matrix;
      float* const out = samples.out(code.out, s) + i * code.out_matrix;
      for (int64_t column = 0, tile; column < padded; column += tile) {
        tile = tile_of(padded - column);
        const int64_t columns = std::min(tile, code.n - column);
        pack_columns(code, b + column * code.b_column, columns, tile, samples.extra);
        const ProductRuns runs{1, code.k, tile, columns, &zero, &zero};
        for (int64_t row = 0; row < code.m; row += A::rows) {
          const float* in_rows[A::rows];
          float* out_rows[A::rows];
          const int64_t n_rows = std::min<int64_t>(A::rows, code.m - row);
          for (int64_t r = 0; r < n_rows; ++r) {
            in_rows[r] = a + (row + r) * code.a_row;
            out_rows[r] = out + (row + r) * code.out_row + column;
          }
          multiply<A>(n_rows, runs, in_rows, samples.extra, zeros, sums);
          store_rows<A>(n_rows, columns, sums, out_rows);
        }
      }
    }
  }
}

template <class V>
void run_window(const WindowCode& code, const Samples& samples) {
  constexpr int64_t width = V::width;
  const typename V::f32 scale = V::broadcast(static_cast<float>(code.scale));
  for (int64_t s = 0; s < samples.n; ++s) {
    const float* const in = samples.at(code.in, s);
    float* const out = samples.out(code.out, s);
    each_patch(code.y, code.x, [&](const Patch& patch) {
      for (int64_t y = patch.y0; y < patch.y1; ++y) {
        for (int64_t x = patch.x0; x < patch.x1; ++x) {
          const int64_t in_y = code.y.first + y * code.y.step + patch.y.from * code.y.dilation;
          const int64_t in_x = code.x.first + x * code.x.step + patch.x.from * code.x.dilation;
          const float* const from = in + in_y * code.in_y + in_x * code.in_x;
          float* const to = out + (code.y.out_first + y * code.y.out_step) * code.out_y +
                            (code.x.out_first + x * code.x.out_step) * code.out_x;
          const auto window = [&](const auto& add) {
            for (int64_t i = 0; i < patch.y.n; ++i) {
              const float* p = from + i * code.y.dilation * code.in_y;
              for (int64_t j = 0; j < patch.x.n; ++j, p += code.x.dilation * code.in_x) add(p);
            }
          };
          int64_t c = 0;
          for (; c + width <= code.channels; c += width) {
            typename V::f32 sum = V::broadcast(0.0f);
            window([&](const float* p) { sum = sum + load_any<V>(p + c); });
            store_any<V>(to + c, sum * scale);
          }
          for (; c < code.channels; ++c) {
            float sum = 0.0f;
            window([&](const float* p) { sum += p[c]; });
            to[c] = sum * static_cast<float>(code.scale);
          }
        }
      }
    });
  }
}

}  // namespace
}  // namespace fastlangevin
