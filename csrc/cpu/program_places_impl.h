// Where the numbers of an instruction's operands are.
#pragma once

#include <algorithm>

#include "program.h"
#include "transpose_impl.h"
#include "vectors.h"

namespace fastlangevin {
namespace {

// The samples that are worked on together, and where their numbers are.
struct Samples {
  int64_t n;
  float* scratch;
  int64_t pitch;
  const float *shared, *per_sample;
  int64_t per_sample_pitch;
  float* extra;

  FL_INLINE const float* at(const Place& place, int64_t sample) const {
    switch (place.space) {
      case Space::scratch:
        return scratch + sample * pitch + place.offset;
      case Space::shared:
        return shared + place.offset;
      default:
        return per_sample + sample * per_sample_pitch + place.offset;
    }
  }
  FL_INLINE float* out(const Place& place, int64_t sample) const { return scratch + sample * pitch + place.offset; }
  // Between a sample's numbers and those of the next.
  FL_INLINE int64_t pitch_of(Space space) const {
    return space == Space::scratch ? pitch : space == Space::shared ? 0 : per_sample_pitch;
  }
};

// Elements of the last two dimensions: number (r, c) lies r * row_stride + c * stride from the first.
struct Plane {
  int64_t offset, rows, row_stride, columns, stride;
};

constexpr int64_t shortest_run = 8;

// visit(plane): the elements [start, start + m), in planes of whole rows and in parts of rows.
template <class Visit>
FL_INLINE void each_plane(const Strided& s, int64_t start, int64_t m, const Visit& visit) {
  int64_t index[most_dims] = {}, offset = 0;
  for (int64_t d = s.n_dims; d-- > 0 && start > 0;) {
    index[d] = start % s.sizes[d];
    start /= s.sizes[d];
    offset += index[d] * s.strides[d];
  }
  const int64_t last = s.n_dims - 1, size = s.sizes[last];
  while (m > 0) {
    int64_t d = last;
    if (last > 0 && index[last] == 0 && m >= size) {
      d = last - 1;
      const int64_t rows = std::min(m / size, s.sizes[d] - index[d]);
      visit(Plane{offset, rows, s.strides[d], size, s.strides[last]});
      m -= rows * size;
      index[d] += rows;
      offset += rows * s.strides[d];
    } else {
      const int64_t n = std::min(m, size - index[last]);
      visit(Plane{offset, 1, 0, n, s.strides[last]});
      m -= n;
      index[last] += n;
      offset += n * s.strides[last];
    }
    for (; d > 0 && index[d] == s.sizes[d]; --d) {
      offset += s.strides[d - 1] - index[d] * s.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

// Whether the numbers of a plane's columns lie together, so many that transposing it is faster than copying rows.
FL_INLINE bool is_transposed(const Plane& p) { return p.row_stride == 1 && p.rows >= shortest_run; }

// move(i, at) for number i of a plane, which lies at `at`, along the side that lies together, or else the longer one.
template <class Move>
FL_INLINE void each_number(const Plane& p, const Move& move) {
  if (p.columns >= shortest_run && p.stride == 1) {
    for (int64_t r = 0; r < p.rows; ++r) {
      const int64_t i = r * p.columns, at = p.offset + r * p.row_stride;
      for (int64_t c = 0; c < p.columns; ++c) move(i + c, at + c);
    }
  } else if (p.columns >= p.rows) {
    for (int64_t r = 0; r < p.rows; ++r) {
      const int64_t i = r * p.columns, at = p.offset + r * p.row_stride;
      for (int64_t c = 0; c < p.columns; ++c) move(i + c, at + c * p.stride);
    }
  } else {
    for (int64_t c = 0; c < p.columns; ++c) {
      const int64_t at = p.offset + c * p.stride;
      for (int64_t r = 0; r < p.rows; ++r) move(r * p.columns + c, at + r * p.row_stride);
    }
  }
}

FL_INLINE void gather_elements(const float* base, const Strided& s, int64_t start, int64_t m, float* out) {
  each_plane(s, start, m, [&](const Plane& p) {
    if (p.stride == 0) {
      for (int64_t r = 0; r < p.rows; ++r) {
        std::fill_n(out + r * p.columns, p.columns, base[p.offset + r * p.row_stride]);
      }
    } else if (is_transposed(p)) {
      transpose(base + p.offset, p.stride, p.columns, p.rows, out, p.columns);
    } else {
      each_number(p, [&](int64_t i, int64_t at) { out[i] = base[at]; });
    }
    out += p.rows * p.columns;
  });
}

FL_INLINE void scatter_elements(const float* in, const Strided& s, int64_t start, int64_t m, float* base) {
  each_plane(s, start, m, [&](const Plane& p) {
    if (is_transposed(p)) {
      transpose(in, p.columns, p.rows, p.columns, base + p.offset, p.stride);
    } else {
      each_number(p, [&](int64_t i, int64_t at) { base[at] = in[i]; });
    }
    in += p.rows * p.columns;
  });
}

}  // namespace
}  // namespace fastlangevin
