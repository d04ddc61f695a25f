// SPDX-License-Identifier: MIT
#include "wilson_warp.cuh"

namespace nnsym::cuda {

std::int64_t warp_backward_float32(const wilson::Job& job, void* workspace, Stream stream, bool launching) {
    return any_size<float, 1, true>(job, workspace, stream, launching);
}

}  // namespace nnsym::cuda
