// SPDX-License-Identifier: MIT
// The parts of run_warp and warp_workspace, one for each kind of number and direction: with `launching` they queue the
// job, without it they say the bytes of its workspace.
#pragma once
#include "wilson.h"

namespace nnsym::cuda {

std::int64_t warp_forward_float32(const wilson::Job&, void* workspace, Stream, bool launching);
std::int64_t warp_forward_float64(const wilson::Job&, void* workspace, Stream, bool launching);
std::int64_t warp_forward_complex64(const wilson::Job&, void* workspace, Stream, bool launching);
std::int64_t warp_forward_complex128(const wilson::Job&, void* workspace, Stream, bool launching);
std::int64_t warp_backward_float32(const wilson::Job&, void* workspace, Stream, bool launching);
std::int64_t warp_backward_float64(const wilson::Job&, void* workspace, Stream, bool launching);
std::int64_t warp_backward_complex64(const wilson::Job&, void* workspace, Stream, bool launching);
std::int64_t warp_backward_complex128(const wilson::Job&, void* workspace, Stream, bool launching);

}  // namespace nnsym::cuda
