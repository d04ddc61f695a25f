// SPDX-License-Identifier: MIT
// The Wilson family as plain data: what the kernels of every ISA read. No Python, no torch, no containers.
//
// States X_k = U_k X_{k-1} + b_k of d x c numbers, U_k a given link or exp(Omega_k), k = 1 .. steps. A path may be cut
// into segments of equal length, which the kernels treat as paths of their own.
#pragma once
#include <cstdint>

namespace nnsym::wilson {

enum Kind : std::int32_t { kFloat32 = 0, kFloat64 = 1, kComplex64 = 2, kComplex128 = 3, kKinds = 4 };
enum Operation : std::int32_t { kForward = 0, kBackward = 1, kDerivative = 2, kOperations = 3 };
// Lanes: one matrix of a batch in every lane of a vector. Tiles: the entries of one matrix in the lanes.
enum Layout : std::int32_t { kLanesLayout = 0, kTilesLayout = 1, kLayouts = 2 };

// Strides are in real numbers (a complex number is two). A stride of the same data from step to step is its size.
struct Job {
    Operation operation;
    Kind kind;
    Layout layout;
    std::int32_t d, c;
    std::int32_t order;  // 0: w holds links; 2, 4, 6: Magnus, with 1, 2, 3 nodes
    bool every;          // results (or, backward, their gradients) of every step, not of the last alone
    bool first;          // with every: entry 0 is written
    std::int64_t paths, segments, steps;
    const void* w;
    std::int64_t w_path;
    const void* dt;
    std::int64_t dt_path, dt_step;
    const void* x0;  // [path][segment][d][c]; null: the identity
    const void* b;
    std::int64_t b_path;
    void* out;  // [path, at out_path][segment * steps + k]; without every: [path][segment][d][c]
    std::int64_t out_path;
    std::int32_t* exponent;  // of the results, as out; null: none. Results are then normalised
    std::int64_t exponent_path;

    // Backward: of paths in one segment.
    const void* states;  // X_0 .. X_steps; null: recomputed
    std::int64_t states_path;
    const std::int32_t* shift;  // link k counts as U_k 2^-shift[k]; null: none
    std::int64_t shift_path;
    const void* grad;
    std::int64_t grad_path;
    void* gw;   // as w, contiguous
    void* gdt;  // [path][steps]; null: not asked for
    void* gx0;  // [path][d][c]; null: not asked for

    std::int32_t nodes() const { return order == 0 ? 1 : order / 2; }
    bool complex() const { return kind >= kComplex64; }
    bool wide() const { return kind == kFloat64 || kind == kComplex128; }
};

// For derivative: paths are matrices a = w; out is the derivative of exp at a along grad.

struct Kernels {
    // Paths [first, first + count), count at most lanes(kind) in the layout, with scratch memory of scratch_bytes.
    void (*run[kLayouts][kKinds])(const Job&, std::int64_t first, int count, void* scratch);
    std::int64_t (*scratch_bytes[kLayouts][kKinds])(const Job&);
    int lanes[2];  // of float, double
    // count independent vector multiply-adds, for the machine's peak: returns a number that depends on all of them.
    double (*multiply_add[2])(std::int64_t count);
};

// Which layout serves which d, by kind: lanes up to kLargestLanes save at kTilesAt, which fills whole lines; tiles up
// to kLargestTiles; above it a BLAS. benchmarks/switch_points.py measures both sides of every switch.
inline constexpr std::int32_t kLargestLanes[kKinds] = {24, 20, 20, 20};
inline constexpr std::int32_t kTilesAt = 16;
inline constexpr std::int32_t kLargestTiles[kKinds] = {256, 256, 192, 192};

void run(const Job&, int threads);  // validates nothing; throws std::bad_alloc

}  // namespace nnsym::wilson
