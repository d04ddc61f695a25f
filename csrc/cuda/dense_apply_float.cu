// SPDX-License-Identifier: MIT
#include "dense_apply.cuh"

namespace nnsym::cuda::tiles {

void multiply_float_float(const Pass& pass, const Cut& cut, std::int64_t samples, Stream stream) {
    launch_multiply<float, float>(pass, cut, samples, stream);
}

}  // namespace nnsym::cuda::tiles
