// SPDX-License-Identifier: MIT
// Dense group elements as plain data: random matrices, and their action on the blocks (heads) of a tensor's axis. Part
// of the orbit family. No Python, no torch, no containers.
#pragma once
#include <cstdint>

#include "orbit.h"

namespace nnsym::dense {

enum Kind : std::int32_t { kOrthogonal = 0, kKeepsMean = 1, kGeneral = 2, kSpecial = 3, kRotary = 4 };

// Random matrices of one site, by nnsym_fast/reference/dense.py.
struct Draw {
    Kind kind;
    std::int32_t heads, size;  // size: of a head
    std::int32_t haar;         // size of the Haar matrices that make one: size, size - 1, or the units without rotation
    std::int32_t pairs;        // rotated pairs
    bool interleaved;          // pairs (2 p, 2 p + 1), else (p, p + pairs)
    double scale_std;
    std::uint32_t site;
    std::uint64_t seed, first;
    std::int64_t step, count;
    void *matrix, *inverse;       // [count][heads][size][size]
    const std::uint32_t* number;  // Philox blocks of the upper triangle of a Gaussian matrix, row by row
    const std::int32_t* row;      // where the numbers of row k begin among theirs
    std::int64_t numbers;         // how many blocks, a multiple of the lanes with padding
    std::int64_t head_blocks;     // Philox blocks of one head
};

// The draw index of the first block of the part "matrix".
inline constexpr std::uint32_t kMatrixPart = std::uint32_t(orbit::kMatrix) << orbit::kDrawShift;

// out[.., (b, i), x] = sum_j matrix_h[i, j] source[.., (order_b, j), x] + shift_(b, i), h = b / copies: on one axis of
// a box of a tensor. Without a matrix the blocks move as they are. Strides are the same in source and result.
struct Pass {
    orbit::Dtype source_type, out_type;
    std::int64_t outer, outer_stride;  // the axes before it, which are one
    std::int32_t blocks, copies, size;
    std::int64_t axis_stride, inner;  // elements from unit to unit; contiguous elements of one unit
    std::int64_t offset;              // first element of the box
    const char* source;
    std::int64_t source_stride;  // bytes between the sources of consecutive samples; 0: one for all
    char* out;
    std::int64_t out_stride;
    const void* matrix;  // [count][blocks / copies][size][size] of the compute type: g, or, dual, its inverse
    bool dual;
    const std::int32_t* order;  // [count][blocks]; null: blocks stay
    const void* shift;          // [count][blocks * size]; null: none
};

// A piece of a pass: outer indices [outer_begin, outer_end) and, of the block-wise kind, one block and columns [x,
// x_end).
struct Piece {
    std::int64_t outer_begin, outer_end, block, x, x_end;
};

// Columns at a time of the block-wise kind, and rows at a time of the row-wise kind (inner == 1).
inline constexpr std::int64_t kColumns = 96;
inline constexpr std::int64_t kRowNumbers = 1 << 16;

inline bool row_wise(const Pass& pass) {
    return pass.inner == 1;
}
inline std::int64_t rows_at_once(const Pass& pass) {
    const std::int64_t rows = kRowNumbers / (std::int64_t(pass.blocks) * pass.size);
    return rows < 8 ? 8 : rows;
}

struct Kernels {
    // By compute type. Matrices of heads [begin, end) of sample k.
    void (*draw[2])(const Draw&, std::int64_t k, std::int64_t begin, std::int64_t end, void* scratch);
    std::int64_t (*draw_scratch[2])(const Draw&);
    // One piece for samples [begin, end).
    void (*apply[2])(const Pass&, const Piece&, std::int64_t begin, std::int64_t end, bool stream, void* scratch);
    std::int64_t (*apply_scratch[2])(const Pass&);
    // 4 * blocks standard normals of a part of a site.
    void (*normals[2])(std::uint64_t seed, std::uint64_t sample, std::uint32_t site, std::uint32_t draw,
                       std::int64_t blocks, void* out);
};

void draw(Draw, bool wide, int threads);
void apply(const Pass* passes, std::int64_t count_of_passes, bool wide, std::int64_t samples, int threads);
// [count][4 * blocks]
void normals(bool wide, std::uint64_t seed, std::uint64_t first, std::int64_t step, std::int64_t count,
             std::uint32_t site, orbit::DrawPart part, std::int64_t blocks, void* out, int threads);
// The same bytes to every sample's place, past the cache where the result is large.
struct Copy {
    const char* source;
    std::int64_t source_stride;
    char* out;
    std::int64_t bytes;
};
void copy(const Copy* copies, std::int64_t count_of_copies, std::int64_t samples, int threads);

}  // namespace nnsym::dense
