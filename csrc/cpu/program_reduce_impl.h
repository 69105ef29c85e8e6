// Sums and maxima over dimensions of a sample's numbers.
//
// A sum is made of float32 sums of at most 64 numbers, which are added in float64: its rounding error does not grow
// with its length.
#pragma once

#include "program_places_impl.h"
#include "vectors.h"

namespace fastlangevin {
namespace {

constexpr int64_t sum_run = 64, kept_at_once = 64;

struct SumReduction {
  double start = 0.0;
  template <class T>
  FL_INLINE T operator()(T a, T b) const {
    return a + b;
  }
};

struct MaxReduction {
  double start = -INFINITY;
  template <class T>
  FL_INLINE T operator()(T a, T b) const {
    return a == a ? (b > a ? b : (b == b ? a : b)) : a;
  }
};

// The offsets of all combinations of some dimensions, in order.
class Offsets {
 public:
  Offsets(const int64_t* sizes, const int64_t* strides, int64_t n_dims)
      : sizes_(sizes), strides_(strides), n_(n_dims) {}

  int64_t count() const {
    int64_t n = 1;
    for (int64_t d = 0; d < n_; ++d) n *= sizes_[d];
    return n;
  }
  int64_t offset() const { return offset_; }
  void advance() {
    for (int64_t d = n_; d-- > 0;) {
      offset_ += strides_[d];
      if (++index_[d] < sizes_[d]) return;
      offset_ -= sizes_[d] * strides_[d];
      index_[d] = 0;
    }
  }

 private:
  const int64_t *sizes_, *strides_;
  int64_t n_, index_[most_dims] = {}, offset_ = 0;
};

// to[c] over the elements at some offsets, for `lanes` neighbours c that lie together.
template <class V, class R>
FL_INLINE void reduce_offsets(const R& reduce, const float* in, const int64_t* offsets, int64_t n, int64_t lanes,
                              float* to) {
  constexpr int64_t at_once = 4;  // vectors, whose additions do not wait for each other
  const float start = static_cast<float>(reduce.start);
  int64_t c = 0;
  for (; c + at_once * V::width <= lanes; c += at_once * V::width) {
    typename V::f32 now[at_once];
    FL_UNROLL
    for (int64_t v = 0; v < at_once; ++v) now[v] = V::broadcast(start);
    for (int64_t i = 0; i < n; ++i) {
      const float* const from = in + offsets[i] + c;
      FL_UNROLL
      for (int64_t v = 0; v < at_once; ++v) now[v] = reduce(now[v], load_any<V>(from + v * V::width));
    }
    FL_UNROLL
    for (int64_t v = 0; v < at_once; ++v) store_any<V>(to + c + v * V::width, now[v]);
  }
  for (; c + V::width <= lanes; c += V::width) {
    typename V::f32 now = V::broadcast(start);
    for (int64_t i = 0; i < n; ++i) now = reduce(now, load_any<V>(in + offsets[i] + c));
    store_any<V>(to + c, now);
  }
  for (; c < lanes; ++c) {
    float now = start;
    for (int64_t i = 0; i < n; ++i) now = reduce(now, in[offsets[i] + c]);
    to[c] = now;
  }
}

// out[c] over all reduced elements, for `lanes` neighbours c that lie together.
template <class V, class R>
FL_INLINE void reduce_lanes(const R& reduce, const float* in, const ReduceCode& code, int64_t lanes, float* out) {
  const int64_t kept = code.n_kept;
  Offsets reduced(code.in.sizes + kept, code.in.strides + kept, code.in.n_dims - kept);
  const int64_t count = reduced.count();
  int64_t offsets[sum_run];
  const auto take = [&](int64_t n) {
    for (int64_t i = 0; i < n; ++i, reduced.advance()) offsets[i] = reduced.offset();
  };
  if (count <= sum_run && code.scale == 1.0) {
    take(count);
    return reduce_offsets<V>(reduce, in, offsets, count, lanes, out);
  }
  alignas(64) float part[kept_at_once];
  double results[kept_at_once];
  std::fill(results, results + lanes, reduce.start);
  for (int64_t done = 0; done < count; done += sum_run) {
    const int64_t n = std::min(sum_run, count - done);
    take(n);
    reduce_offsets<V>(reduce, in, offsets, n, lanes, part);
    for (int64_t c = 0; c < lanes; ++c) results[c] = reduce(results[c], static_cast<double>(part[c]));
  }
  for (int64_t c = 0; c < lanes; ++c) out[c] = static_cast<float>(results[c] * code.scale);
}

// Over all reduced elements, the last of whose dimensions lies together.
template <class V, class R>
FL_INLINE double reduce_run(const R& reduce, const float* in, const ReduceCode& code) {
  constexpr int64_t width = V::width;
  const int64_t kept = code.n_kept, last = code.in.n_dims - 1, length = code.in.sizes[last];
  Offsets reduced(code.in.sizes + kept, code.in.strides + kept, last - kept);
  double result = reduce.start;
  alignas(64) float lanes[width];
  for (int64_t r = reduced.count(); r > 0; --r, reduced.advance()) {
    const float* const from = in + reduced.offset();
    const int64_t whole = length - length % width;
    for (int64_t done = 0; done < whole;) {
      const int64_t end = std::min(whole, done + sum_run * width);
      typename V::f32 part = load_any<V>(from + done);
      for (done += width; done < end; done += width) part = reduce(part, load_any<V>(from + done));
      store_any<V>(lanes, part);
      for (int64_t i = 0; i < width; ++i) result = reduce(result, static_cast<double>(lanes[i]));
    }
    for (int64_t i = whole; i < length; ++i) result = reduce(result, static_cast<double>(from[i]));
  }
  return result;
}

template <class V, class R>
FL_INLINE double reduce_any(const R& reduce, const float* in, const ReduceCode& code) {
  const int64_t kept = code.n_kept;
  Offsets reduced(code.in.sizes + kept, code.in.strides + kept, code.in.n_dims - kept);
  double result = reduce.start;
  for (int64_t r = reduced.count(); r > 0; --r, reduced.advance()) {
    result = reduce(result, static_cast<double>(in[reduced.offset()]));
  }
  return result;
}

template <class V, class R>
void run_reduction(const R& reduce, const ReduceCode& code, const Samples& samples) {
  const int64_t kept = code.n_kept, n_dims = code.in.n_dims;
  const bool lanes_lie = kept > 0 && code.in.strides[kept - 1] == 1 && code.out.strides[kept - 1] == 1;
  const bool run_lies = n_dims > kept && code.in.strides[n_dims - 1] == 1;
  const int64_t rows = lanes_lie ? kept - 1 : kept;
  for (int64_t s = 0; s < samples.n; ++s) {
    const float* const in = samples.at(code.in.place, s);
    float* const out = samples.out(code.out.place, s);
    Offsets from(code.in.sizes, code.in.strides, rows), to(code.out.sizes, code.out.strides, rows);
    for (int64_t r = from.count(); r > 0; --r, from.advance(), to.advance()) {
      if (lanes_lie) {
        const int64_t size = code.in.sizes[kept - 1];
        for (int64_t c = 0; c < size; c += kept_at_once) {
          const int64_t lanes = std::min(kept_at_once, size - c);
          reduce_lanes<V>(reduce, in + from.offset() + c, code, lanes, out + to.offset() + c);
        }
      } else {
        const float* const at = in + from.offset();
        const double result = run_lies ? reduce_run<V>(reduce, at, code) : reduce_any<V>(reduce, at, code);
        out[to.offset()] = static_cast<float>(result * code.scale);
      }
    }
  }
}

template <class V>
void run_reduce(const ReduceCode& code, const Samples& samples) {
  if (code.kind == Reduction::sum) {
    run_reduction<V>(SumReduction{}, code, samples);
  } else {
    run_reduction<V>(MaxReduction{}, code, samples);
  }
}

}  // namespace
}  // namespace fastlangevin
