// SPDX-License-Identifier: MIT
// The Wilson family on CUDA devices. A job is that of the CPU's kernels (csrc/core/wilson.h) with device pointers; its
// layout is not read.
#pragma once
#include "../core/wilson.h"
#include "device.h"

namespace nnsym::cuda {

// Sizes d of matrices: up to kWilsonSmall, of complex numbers kWilsonSmallComplex, with few lanes for a matrix, up to
// kWilsonWarp with a warp or a block.
constexpr std::int32_t kWilsonSmall = 8, kWilsonSmallComplex = 4, kWilsonWarp = 32;
inline bool small_serves(const wilson::Job& job) {
    return job.d <= (job.complex() ? kWilsonSmallComplex : kWilsonSmall);
}

// Bytes of device memory, at 16 bytes, that a job wants as its workspace; 0: none. Only the sizes of the job are read
// (operation, kind, d, c, order, every, paths, segments, steps), and of its pointers whether they are null.
std::int64_t wilson_workspace(const wilson::Job&);
// Queues the job. Throws std::invalid_argument for d > kWilsonWarp.
void run_wilson(const wilson::Job&, void* workspace, Stream);

// Parts of the two above, by size.
std::int64_t small_workspace(const wilson::Job&);
void run_small(const wilson::Job&, void* workspace, Stream);
std::int64_t warp_workspace(const wilson::Job&);
void run_warp(const wilson::Job&, void* workspace, Stream);

}  // namespace nnsym::cuda
