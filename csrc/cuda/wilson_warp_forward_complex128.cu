// SPDX-License-Identifier: MIT
#include "wilson_warp.cuh"

namespace nnsym::cuda {

std::int64_t warp_forward_complex128(const wilson::Job& job, void* workspace, Stream stream, bool launching) {
    return any_size<double, 2, false>(job, workspace, stream, launching);
}

}  // namespace nnsym::cuda
