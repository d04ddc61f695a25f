// SPDX-License-Identifier: MIT
#include "dense_apply.cuh"

namespace nnsym::cuda::tiles {

void multiply_double_double(const Pass& pass, const Cut& cut, std::int64_t samples, Stream stream) {
    launch_multiply<double, double>(pass, cut, samples, stream);
}
void multiply_double_float(const Pass& pass, const Cut& cut, std::int64_t samples, Stream stream) {
    launch_multiply<double, float>(pass, cut, samples, stream);
}

}  // namespace nnsym::cuda::tiles
