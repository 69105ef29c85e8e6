// Native programs: the score of a recorded energy, and the energy beside it, as instructions over the buffers of each
// sample. They are written by fastlangevin/network/native/, as int64 numbers that the structs below overlay.
//
// A sample's numbers lie in its part of the scratch memory; constants lie in one tensor that samples share, and in one
// with a row for each. Buffers are aligned to 64 bytes and end on a multiple of 16 numbers, so that whole vectors are
// read and written.
//
// In a program in lanes, `program_lanes` samples are computed as one: each of their numbers lies beside its like of the
// others, and what is said of a sample here holds of all of them together, but for its state.
#pragma once

#include "chain.h"
#include "products.h"

namespace fastlangevin {

enum class Space : int64_t { scratch, shared, per_sample };

struct Place {
  Space space;
  int64_t offset;
};

constexpr int64_t most_dims = 8;

// Elements in row-major order of their indices.
struct Strided {
  Place place;
  int64_t n_dims, sizes[most_dims], strides[most_dims];
};

// Of a pointwise program: values are numbered through operands, then outputs, then slots.
struct Operand {
  int64_t is_direct;  // whether element i of the result lies at place + i, in an output with the padding after it
  int64_t repeats;    // whether an operand's numbers are the same in each chunk
  Strided at;
};

struct Step {
  int64_t op, a, b, c, to;
  double number, other;
};

enum class Opcode : int64_t { pointwise, product, multiply, window, reduce, lane_product };

// For each of `n` elements, of which `chunk` are worked on at a time, all of them or a multiple of 16, in as many times
// `chunk_words` extra words as there are values; followed by the operands, the outputs and the steps.
struct PointwiseCode {
  int64_t n, chunk, chunk_words, n_operands, n_outputs, n_slots, n_steps;
};

// out(y, x, :) = start + the products of the window's pixels with the weights, in tiles of (window y, window x, input
// channel, output channel) of at most `tile` output channels. Channels lie together, pixels in_y, in_x and out_y, out_x
// apart. By program_winograd_impl.h if winograd_width, of its groups of output channels, is not 0.
struct ProductCode {
  Place in, out;
  int64_t weights, start, tile;  // the first two: in the shared constants
  Axis y, x;
  int64_t in_y, in_x, in_channels, out_y, out_x, out_channels;
  int64_t winograd_width;
};

// Of a program in lanes: out(y, x, :) = start + the product of in(y, x, :) with the weights, whose tiles are those of
// ProductCode. Channels follow each other.
struct LaneProductCode {
  Place in, out;
  int64_t weights, start, tile;
  int64_t n_y, n_x, in_y, in_x, in_channels, out_y, out_x, out_channels;
};

// out[i] = a[i] · b[i] for matrices (m, k) and (k, n) of the sample; a and out have rows of numbers that lie together.
struct MultiplyCode {
  Place a, b, out;
  int64_t count, m, k, n;
  int64_t a_matrix, a_row, b_matrix, b_row, b_column, out_matrix, out_row;
};

// out(y, x, :) = scale times the sum of the window's pixels.
struct WindowCode {
  Place in, out;
  Axis y, x;
  int64_t in_y, in_x, out_y, out_x, channels;
  double scale;
};

enum class Reduction : int64_t { sum, max };

// out[kept] = scale times the sum, or the maximum, over the reduced dimensions, which follow the kept ones in `in`.
struct ReduceCode {
  Reduction kind;
  double scale;
  int64_t n_kept;
  Strided in;
  Strided out;
};

struct ProgramCode {
  int64_t vector_tail;      // numbers after a buffer's end that may be read and written: checked against the kernels'
  int64_t lanes;            // samples side by side: 1 or program_lanes
  int64_t n_state;          // numbers of a sample's state, and of its score
  int64_t state, score;     // offsets of theirs, row-major
  int64_t energy;           // offset of a sample's energy; -1 in a program of the score alone
  int64_t sample_words;     // of scratch memory
  int64_t extra_words;      // of scratch memory, whatever the number of samples
  int64_t samples_at_once;  // at least, where a thread has so many
  int64_t shared_words, per_sample_words;
  int64_t n_instructions;  // each: its opcode, the number of words that follow, and those
};

struct Program {
  const ProgramCode* code;
  const float *shared, *per_sample;
  int64_t first;  // row of the constants of the first sample
};

constexpr int64_t vector_tail = 16, program_lanes = 32;

struct ProgramKernels {
  // The scores of n contiguous states, and their energies unless `energy` is null. scratch: n * sample_words +
  // extra_words numbers.
  void (*score)(const Program& program, int64_t n, const float* x, float* score, float* energy, float* scratch);
  // All steps of n contiguous states, element `first_element` of the noise stream first. scratch: as above, and twice
  // n * n_state numbers more.
  void (*chain)(const Program& program, const ChainArgs& args, uint64_t first_element, int64_t n, float* x,
                float* scratch);
  // Of programs in lanes: the scores and energies of n states from number `first`, a multiple of program_lanes, of x's
  // on. scratch: sample_words + extra_words numbers.
  void (*lane_score)(const Program& program, int64_t first, int64_t n, const float* x, float* score, float* energy,
                     float* scratch);
  ChainKernel<Program> lane_chain;
};

extern const ProgramKernels portable_program, avx2_program, avx512_program, neon_program;

// The kernels of the instruction set in force.
const ProgramKernels& program_kernels();

}  // namespace fastlangevin
