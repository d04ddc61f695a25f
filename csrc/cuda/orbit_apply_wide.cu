// SPDX-License-Identifier: MIT
// In float64 arithmetic: float64 tensors, and float32 ones beside them.
#include "orbit_apply.cuh"

namespace nnsym::cuda {

void launch_apply_wide(const ApplyJob& job, Stream stream) {
    visit_storage(job.block.dtype, [&](auto s) {
        typedef decltype(s) S;
        if constexpr (sizeof(S) >= 4)
            apply<S, double>(job, stream);
        else
            throw std::invalid_argument("dtype: 16-bit storage beside float64 tensors");
    });
}

}  // namespace nnsym::cuda
