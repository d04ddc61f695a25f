// SPDX-License-Identifier: MIT
#include "orbit_apply.cuh"

namespace nnsym::cuda {

void launch_apply_wide(const ApplyJob&, Stream);

void launch_apply(const ApplyJob& job, bool wide, Stream stream) {
    if (wide) return launch_apply_wide(job, stream);
    visit_storage(job.block.dtype, [&](auto s) {
        typedef decltype(s) S;
        if constexpr (sizeof(S) <= 4)
            apply<S, float>(job, stream);
        else
            throw std::invalid_argument("dtype: float64 storage needs float64 arithmetic");
    });
}

}  // namespace nnsym::cuda
