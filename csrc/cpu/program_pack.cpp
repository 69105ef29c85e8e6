// program_pack_cpu_: the weights of a product of a native program, as its kernels read them.
#include <algorithm>

#include "chain_operator.h"
#include "program.h"

namespace fastlangevin {
namespace {

// Weight (y, x, i, o), of a window's pixel, an input and an output channel, lies y * y_stride + … from the first.
struct Weights {
  const float* at;
  int64_t n_y, n_x, n_in, n_out, y_stride, x_stride, in_stride, out_stride;

  FL_INLINE const float* of(int64_t i, int64_t o) const { return at + i * in_stride + o * out_stride; }
};

int64_t padded(int64_t channels) { return (channels + panel - 1) / panel * panel; }

// pack(done, n, tile): the n output channels from `done` on, in tiles of at most `widest`.
template <class Pack>
void each_tile(int64_t n_out, int64_t widest, const Pack& pack) {
  for (int64_t done = 0, tile; done < n_out; done += tile) {
    tile = std::min(widest, tile_of(padded(n_out - done)));
    pack(done, std::min(tile, n_out - done), tile);
  }
}

// Of the input channels from `begin` to `end`.
void pack_taps(const Weights& w, int64_t begin, int64_t end, int64_t widest, float* to) {
  each_tile(w.n_out, widest, [&](int64_t done, int64_t n, int64_t tile) {
    float* const out = to + w.n_y * w.n_x * w.n_in * done;
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t y = 0; y < w.n_y; ++y) {
        for (int64_t x = 0; x < w.n_x; ++x) {
          const float* const from = w.of(i, done) + y * w.y_stride + x * w.x_stride;
          float* const row = out + ((y * w.n_x + x) * w.n_in + i) * tile;
          for (int64_t o = 0; o < n; ++o) row[o] = from[o * w.out_stride];
          std::fill(row + n, row + tile, 0.0f);
        }
      }
    }
  });
}

// Two or three weights along an axis, g, a stride apart, to the factors of Winograd's products, m: see
// program_winograd_impl.h.
template <int window, class T>
FL_INLINE void transform(const T* g, int64_t g_stride, double* m, int64_t m_stride) {
  const double first = g[0], last = g[(window - 1) * g_stride];
  m[0] = first;
  m[window * m_stride] = last;
  if constexpr (window == 2) {
    m[m_stride] = first + last;
  } else {
    const double ends = 0.5 * (first + last), middle = 0.5 * static_cast<double>(g[g_stride]);
    m[m_stride] = ends + middle;
    m[2 * m_stride] = ends - middle;
  }
}

// As pack_taps, of weights transformed, rounded once: (group of `width` output channels, place y, tile, place x, input
// channel, output channel).
template <int window>
void pack_winograd(const Weights& w, int64_t begin, int64_t end, int64_t widest, int64_t width, float* to) {
  constexpr int64_t n_places = window + 1;
  constexpr int64_t order[] = {window - 1, 0, window == 2 ? 2 : 1, 3};  // of each place y, in the kernel's order
  double wide[window][n_places][max_tile], places[n_places][n_places][max_tile];
  for (int64_t group = 0; group < w.n_out; group += width) {
    const int64_t n_group = std::min(width, w.n_out - group), pass = n_places * w.n_in * padded(n_group);
    float* const out = to + n_places * n_places * w.n_in * group;
    each_tile(n_group, widest, [&](int64_t done, int64_t n, int64_t tile) {
      for (int64_t i = begin; i < end; ++i) {
        const float* const from = w.of(i, group + done);
        for (int64_t y = 0; y < window; ++y) {
          for (int64_t o = 0; o < n; ++o) {
            transform<window>(from + y * w.y_stride + o * w.out_stride, w.x_stride, &wide[y][0][o], max_tile);
          }
        }
        constexpr int64_t pitch = n_places * max_tile;
        for (int64_t x = 0; x < n_places; ++x) {
          for (int64_t o = 0; o < n; ++o) transform<window>(&wide[0][x][o], pitch, &places[0][x][o], pitch);
        }
        for (int64_t y = 0; y < n_places; ++y) {
          for (int64_t x = 0; x < n_places; ++x) {
            float* const row = out + order[y] * pass + n_places * w.n_in * done + (x * w.n_in + i) * tile;
            for (int64_t o = 0; o < n; ++o) row[o] = static_cast<float>(places[y][x][o]);
            std::fill(row + n, row + tile, 0.0f);
          }
        }
      }
    });
  }
}

// weights: (window y, window x, input channels, output channels), with any strides. flips_y, flips_x: whether the
// window's pixels are in the opposite order. To number `place` of `shared` and on; see ProductCode.
void pack(const Tensor& shared, const Tensor& weights, int64_t place, bool flips_y, bool flips_x, int64_t tile,
          int64_t winograd_width) {
  floats(shared, "shared");
  STD_TORCH_CHECK(weights.dim() == 4 && weights.scalar_type() == torch::headeronly::ScalarType::Float,
                  "weights must be a float32 tensor of four dimensions");
  Weights w{static_cast<const float*>(weights.const_data_ptr()),
            weights.size(0),
            weights.size(1),
            weights.size(2),
            weights.size(3),
            weights.stride(0),
            weights.stride(1),
            weights.stride(2),
            weights.stride(3)};
  const bool is_winograd = winograd_width != 0;
  STD_TORCH_CHECK(!is_winograd || (w.n_y == w.n_x && (w.n_y == 2 || w.n_y == 3)),
                  "Winograd's filtering is of 2×2 and 3×3 windows");
  STD_TORCH_CHECK(winograd_width >= 0 && winograd_width % max_tile == 0, "a group has whole tiles of channels");
  STD_TORCH_CHECK(tile > 0 && tile % panel == 0 && tile <= max_tile, "a tile has 16, 32, 48 or 64 channels");
  const int64_t places = is_winograd ? (w.n_y + 1) * (w.n_x + 1) : w.n_y * w.n_x;
  const int64_t words = places * padded(w.n_out);  // of an input channel
  STD_TORCH_CHECK(place >= 0 && place + words * w.n_in <= shared.numel(), "shared is too short for the weights");
  if (words * w.n_in == 0) return;
  if (flips_y) w.at += (w.n_y - 1) * w.y_stride, w.y_stride = -w.y_stride;
  if (flips_x) w.at += (w.n_x - 1) * w.x_stride, w.x_stride = -w.x_stride;
  float* const to = static_cast<float*>(shared.mutable_data_ptr()) + place;
  constexpr int64_t words_of_a_thread = 1 << 15;
  const int64_t grain = std::max<int64_t>(1, words_of_a_thread / std::max<int64_t>(1, words));
  torch::stable::parallel_for(0, w.n_in, grain, [&](int64_t begin, int64_t end) {
    if (is_winograd && w.n_y == 3) {
      pack_winograd<3>(w, begin, end, tile, winograd_width, to);
    } else if (is_winograd) {
      pack_winograd<2>(w, begin, end, tile, winograd_width, to);
    } else {
      pack_taps(w, begin, end, tile, to);
    }
  });
}

}  // namespace
}  // namespace fastlangevin

STABLE_TORCH_LIBRARY_IMPL(fastlangevin, CPU, m) { m.impl("program_pack_cpu_", TORCH_BOX(&fastlangevin::pack)); }
