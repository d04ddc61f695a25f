// SPDX-License-Identifier: MIT
// Dense group elements on a CUDA device: random matrices, and their action on the blocks of a tensor's axis. The jobs
// are those of csrc/core/dense.h with device pointers; of Draw, `number`, `row` and `numbers` are not read.
#pragma once
#include "../core/dense.h"
#include "device.h"

namespace nnsym::cuda {

inline constexpr int kSmallHaar = 32;      // up to it a warp or less draws a whole element
inline constexpr int kLargestHaar = 1024;  // up to it a block, or some, draw a Haar matrix

// Numbers of the compute type that drawing one matrix needs beside it.
std::int64_t dense_workspace(const dense::Draw& draw);
// All matrices and inverses of a job with haar <= kLargestHaar; workspace: count * heads * dense_workspace() numbers.
void dense_draw(const dense::Draw& draw, bool wide, void* workspace, Stream stream);
// What surrounds Haar matrices: from B in the last haar units of `matrix` and its transpose in those of `inverse`, U
// diag(sign, B) U and its inverse; and everything but the corner of the free units, of rotations.
void dense_mean_frame(const dense::Draw& draw, bool wide, Stream stream);
void dense_rotary_frame(const dense::Draw& draw, bool wide, Stream stream);
// [count][4 * blocks] standard normals.
void dense_normals(bool wide, std::uint64_t seed, std::uint64_t first, std::int64_t step, std::int64_t count,
                   std::uint32_t site, orbit::DrawPart part, std::int64_t blocks, void* out, Stream stream);

// One pass for samples 0 .. samples - 1. A block whose order is out of range becomes NaN.
void dense_apply(const dense::Pass& pass, bool wide, std::int64_t samples, Stream stream);

}  // namespace nnsym::cuda
