// SPDX-License-Identifier: MIT
#include "wilson.h"

namespace nnsym::cuda {

std::int64_t wilson_workspace(const wilson::Job& job) {
    if (job.paths == 0) return 0;
    return small_serves(job) ? small_workspace(job) : job.d <= kWilsonWarp ? warp_workspace(job) : 0;
}

void run_wilson(const wilson::Job& job, void* workspace, Stream stream) {
    if (job.d > kWilsonWarp)
        throw std::invalid_argument("wilson: kernels of matrices up to " + std::to_string(kWilsonWarp) + ", got " +
                                    std::to_string(job.d));
    if (job.paths == 0) return;
    small_serves(job) ? run_small(job, workspace, stream) : run_warp(job, workspace, stream);
}

}  // namespace nnsym::cuda
