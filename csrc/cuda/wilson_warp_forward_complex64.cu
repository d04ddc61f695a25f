// SPDX-License-Identifier: MIT
#include "wilson_warp.cuh"

namespace nnsym::cuda {

std::int64_t warp_forward_complex64(const wilson::Job& job, void* workspace, Stream stream, bool launching) {
    return any_size<float, 2, false>(job, workspace, stream, launching);
}

}  // namespace nnsym::cuda
