// Where the elements of x and score lie: any sizes and strides, with dimensions merged that lie end to end.
#pragma once

#include <cstdint>

#include "../noise.h"

namespace fastlangevin {

struct Layout {
  static constexpr int max_dimensions = 25;  // as torch's own pointwise kernels
  struct Dimension {
    int64_t size, x_stride, score_stride;
  };
  int n_dimensions;
  bool dense;  // the memory order of both is the logical order, without gaps
  Dimension dimensions[max_dimensions];
};

// False where more dimensions are left than a Layout holds. Sizes are the logical shape's, none of them 0.
inline bool make_layout(int n, const int64_t* sizes, const int64_t* x_strides, const int64_t* score_strides,
                        Layout& out) {
  out.n_dimensions = 0;
  for (int d = 0; d < n; ++d) {
    if (sizes[d] == 1) continue;
    Layout::Dimension next{sizes[d], x_strides[d], score_strides[d]};
    if (out.n_dimensions > 0) {
      const Layout::Dimension& last = out.dimensions[out.n_dimensions - 1];
      if (last.x_stride == next.size * next.x_stride && last.score_stride == next.size * next.score_stride) {
        next.size *= last.size;
        --out.n_dimensions;
      }
    }
    if (out.n_dimensions == Layout::max_dimensions) return false;
    out.dimensions[out.n_dimensions++] = next;
  }
  const Layout::Dimension* last = out.dimensions;
  out.dense = out.n_dimensions == 0 || (out.n_dimensions == 1 && last->x_stride == 1 && last->score_stride == 1);
  return true;
}

// The memory offsets of the element with this logical index. Index is wide enough for every index of the tensor.
template <class Index>
FL_INLINE void locate(const Layout& layout, Index index, int64_t& x, int64_t& score) {
  x = score = 0;
  for (int d = layout.n_dimensions - 1; d >= 0; --d) {
    const Index size = static_cast<Index>(layout.dimensions[d].size);
    const int64_t at = static_cast<int64_t>(index % size);
    index /= size;
    x += at * layout.dimensions[d].x_stride;
    score += at * layout.dimensions[d].score_stride;
  }
}

}  // namespace fastlangevin
