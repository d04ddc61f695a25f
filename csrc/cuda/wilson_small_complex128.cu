// SPDX-License-Identifier: MIT
#include "wilson_small.cuh"

namespace nnsym::cuda {

template <>
std::int64_t run_small_of<double, 2, false>(const Job& job, void* space, Stream stream, bool ask) {
    if (job.d <= 2) return run_shapes<Shape<double, 2, 2, 1>, Shape<double, 2, 2, 1>>(job, space, stream, ask);
    return run_shapes<Shape<double, 2, 4, 4>, Shape<double, 2, 4, 4>>(job, space, stream, ask);
}

}  // namespace nnsym::cuda
