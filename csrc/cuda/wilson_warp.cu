// SPDX-License-Identifier: MIT
#include "wilson_warp.h"

namespace nnsym::cuda {

namespace {

std::int64_t by_kind(const wilson::Job& job, void* workspace, Stream stream, bool launching) {
    typedef std::int64_t (*Call)(const wilson::Job&, void*, Stream, bool);
    static const Call calls[2][wilson::kKinds] = {
        {warp_forward_float32, warp_forward_float64, warp_forward_complex64, warp_forward_complex128},
        {warp_backward_float32, warp_backward_float64, warp_backward_complex64, warp_backward_complex128}};
    return calls[job.operation != wilson::kForward][job.kind](job, workspace, stream, launching);
}

}  // namespace

std::int64_t warp_workspace(const wilson::Job& job) {
    return by_kind(job, nullptr, nullptr, false);
}
void run_warp(const wilson::Job& job, void* workspace, Stream stream) {
    by_kind(job, workspace, stream, true);
}

}  // namespace nnsym::cuda
