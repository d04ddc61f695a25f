// SPDX-License-Identifier: MIT
#include "wilson_small.cuh"

namespace nnsym::cuda {

template <>
std::int64_t run_small_of<float, 2, false>(const Job& job, void* space, Stream stream, bool ask) {
    if (job.d <= 2) return run_shapes<Shape<float, 2, 2, 1>, Shape<float, 2, 2, 1>>(job, space, stream, ask);
    if (job.d <= 3) return run_shapes<Shape<float, 2, 3, 1>, Shape<float, 2, 3, 1>>(job, space, stream, ask);
    return run_shapes<Shape<float, 2, 4, 2>, Shape<float, 2, 4, 2>>(job, space, stream, ask);
}

}  // namespace nnsym::cuda
