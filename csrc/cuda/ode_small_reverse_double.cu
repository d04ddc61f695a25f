// SPDX-License-Identifier: MIT
#include "ode_small_reverse.cuh"

namespace nnsym::cuda::ode {

template void small_vjp<double>(const Plan&, Stream, std::int64_t*);
template void small_reverse<double>(const Plan&, Stream, std::int64_t*);

}  // namespace nnsym::cuda::ode
