// Where the numbers of an instruction's operands are.
#pragma once

#include <algorithm>

#include "program.h"
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

// visit(offset, stride, n): the runs along the last dimension of the elements [start, start + m).
template <class Visit>
FL_INLINE void each_run(const Strided& s, int64_t start, int64_t m, const Visit& visit) {
  int64_t index[most_dims] = {}, offset = 0;
  for (int64_t d = s.n_dims; d-- > 0 && start > 0;) {
    index[d] = start % s.sizes[d];
    start /= s.sizes[d];
    offset += index[d] * s.strides[d];
  }
  const int64_t last = s.n_dims - 1;
  while (m > 0) {
    const int64_t n = std::min(m, s.sizes[last] - index[last]);
    visit(offset, s.strides[last], n);
    m -= n;
    index[last] += n;
    offset += n * s.strides[last];
    for (int64_t d = last; d > 0 && index[d] == s.sizes[d]; --d) {
      offset += s.strides[d - 1] - index[d] * s.strides[d];
      index[d] = 0;
      ++index[d - 1];
    }
  }
}

FL_INLINE void gather_elements(const float* base, const Strided& s, int64_t start, int64_t m, float* out) {
  each_run(s, start, m, [&](int64_t offset, int64_t stride, int64_t n) {
    const float* const from = base + offset;
    if (stride == 1) {
      for (int64_t i = 0; i < n; ++i) out[i] = from[i];
    } else if (stride == 0) {
      std::fill(out, out + n, *from);
    } else {
      for (int64_t i = 0; i < n; ++i) out[i] = from[i * stride];
    }
    out += n;
  });
}

FL_INLINE void scatter_elements(const float* in, const Strided& s, int64_t start, int64_t m, float* base) {
  each_run(s, start, m, [&](int64_t offset, int64_t stride, int64_t n) {
    float* const to = base + offset;
    for (int64_t i = 0; i < n; ++i) to[i * stride] = in[i];
    in += n;
  });
}

}  // namespace
}  // namespace fastlangevin
