// SPDX-License-Identifier: MIT
#include "wilson_warp.cuh"

namespace nnsym::cuda {

std::int64_t warp_backward_complex64(const wilson::Job& job, void* workspace, Stream stream, bool launching) {
    return any_size<float, 2, true>(job, workspace, stream, launching);
}

}  // namespace nnsym::cuda
