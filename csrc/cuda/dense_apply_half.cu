// SPDX-License-Identifier: MIT
#include "dense_apply.cuh"

namespace nnsym::cuda::tiles {

void multiply_float_bfloat16(const Pass& pass, const Cut& cut, std::int64_t samples, Stream stream) {
    launch_multiply<float, Bfloat16>(pass, cut, samples, stream);
}
void multiply_float_float16(const Pass& pass, const Cut& cut, std::int64_t samples, Stream stream) {
    launch_multiply<float, Float16>(pass, cut, samples, stream);
}

}  // namespace nnsym::cuda::tiles
