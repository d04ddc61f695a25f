// SPDX-License-Identifier: MIT
#include "wilson_small.cuh"

namespace nnsym::cuda {

template <>
std::int64_t run_small_of<float, 1, true>(const Job& job, void* space, Stream stream, bool ask) {
    if (job.d <= 6) return run_shapes<Shape<float, 1, 6, 2>, Shape<float, 1, 6, 2>>(job, space, stream, ask);
    return run_shapes<Shape<float, 1, 8, 2>, Shape<float, 1, 8, 4>>(job, space, stream, ask);
}

}  // namespace nnsym::cuda
