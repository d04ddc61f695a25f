// SPDX-License-Identifier: MIT
// The orbit family as plain data: what the kernels of every ISA read. No Python, no torch, no containers (a container's
// members would be weak symbols that the linker could share between ISAs).
#pragma once
#include <cstddef>
#include <cstdint>

namespace nnsym::orbit {

enum Dtype : std::int32_t { kFloat32 = 0, kFloat64 = 1, kBfloat16 = 2, kFloat16 = 3, kDtypes = 4 };

inline constexpr std::size_t itemsize(Dtype d) {
    return d == kFloat64 ? 8 : d == kFloat32 ? 4 : 2;
}

// The draw index of one Philox block is part << kDrawShift | block. nnsym_fast/groups.py holds the same numbers; a test
// compares them.
enum DrawPart : std::uint32_t { kPermutation = 0, kHeads = 1, kSign = 2, kScale = 3, kMatrix = 4, kShift = 5 };
inline constexpr std::uint32_t kDrawShift = 28;

inline constexpr int kMaxLanes = 16;  // float32 lanes of the widest vector; also the rows of one panel
inline constexpr int kMaxOuter = 8;   // touched or strided axes before the last one
inline constexpr int kPad = 32;       // elements past the end of every array in a record that a kernel may read

// One site: (g x)_i = sign_i scale_i x_{perm_i}, units ordered by head. Offsets: `*_block` into the list of Philox
// blocks,
// `*_at` in bytes into a record (-1: the part is absent).
struct Site {
    std::uint32_t index, head_index;  // Philox site index; that of the permutation of heads
    std::int32_t heads, head_size;
    bool permute_heads, permute_units, negates, scales;
    double scale_std;
    std::int64_t permutation_block, heads_block, sign_block, scale_block;
    std::int64_t perm_at, pos_at, value_at;
    std::int64_t size() const { return std::int64_t(heads) * head_size; }
    bool permutes() const { return permute_heads || permute_units; }
};

// Derived arrays of a record. An index column is perm with every unit repeated; a factor column is
// (sign scale)^(+-power), each unit repeated, in the order of the result or (source_order) of what is read.
struct Column {
    std::int32_t site;
    bool factor, dual, source_order;
    std::int32_t repeat;
    double power;
    std::int64_t at;
};

struct OuterAxis {
    std::int64_t size, source_stride, out_stride;  // in elements
    std::int64_t pos_at;                           // int32[size]: where source index r goes; -1: stays
    std::int64_t factor_at;                        // T[size] by source index; -1: one
};

// A box of one tensor whose axes each carry at most one leg. Rows are the flattened outer axes in source order.
struct Block {
    std::int32_t tensor;
    Dtype dtype;
    std::int32_t outers;
    OuterAxis outer[kMaxOuter];
    std::int64_t rows, width;          // width: elements of the last axis, contiguous on both sides
    std::int64_t index_at, factor_at;  // last axis: int32[width] to gather from, T[width]; -1: none
    std::int64_t source_at, out_at;    // first element of the box in the source and in one point
    std::int64_t panels_at;            // first element of its interleaved rows, where a plan keeps them
};

struct Plan {
    Dtype compute;
    const Site* sites;
    std::int32_t site_count;
    const Column* columns;
    std::int32_t column_count;
    // Philox counters of one sample, all sites together: permutation keys, head keys, signs, scales, in this order.
    const std::uint32_t* draw_site;
    const std::uint32_t* draw_index;
    const double* draw_std;  // scale_std of each block of the scale part
    std::int64_t draws, key_draws, scale_begin;
    std::int64_t record_bytes;
};

// Elements that the caller brings: arrays with leading axis samples, one triple per site; a null part is the
// identity's.
struct GivenSite {
    const std::int32_t* perm;
    const std::int8_t* sign;
    const void* scale;  // of the plan's compute type
};

struct Scratch {
    std::uint32_t* words;  // 4 planes of padded draws
    std::int32_t* keys;    // 4 * key_draws, in natural order, biased so that a signed comparison orders them
    void* values;          // 4 * scale draws of the compute type
    std::int32_t* order;   // 3 * (largest site + 1) + padding, for sorting
    void* panel;           // kMaxLanes * largest gathered width of the compute type
    void* stage;           // rows on their way to memory
};

inline constexpr std::int64_t kStageWidth = 256;      // columns of one staged panel
inline constexpr std::int64_t kPanelWidth = 1 << 13;  // widest row that is interleaved into a panel

// A run of samples that one task serves, so that a source row read once serves them all.
struct Group {
    const char* records;
    std::int64_t record_bytes;
    std::int64_t count;
    const char* source;
    std::int64_t source_stride;  // bytes between the sources of consecutive samples; 0: one source for all
    char* out;
    std::int64_t out_stride;  // bytes between consecutive points
    const void* panels;       // rows of every block interleaved once for all tasks; null: each call packs what it needs
    bool stream;
};

}  // namespace nnsym::orbit
