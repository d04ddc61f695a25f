// SPDX-License-Identifier: MIT
#include "wilson_small.cuh"

namespace nnsym::cuda {

template <>
std::int64_t run_small_of<double, 1, true>(const Job& job, void* space, Stream stream, bool ask) {
    return run_shapes<Shape<double, 1, 8, 4>, Shape<double, 1, 8, 8>>(job, space, stream, ask);
}

}  // namespace nnsym::cuda
