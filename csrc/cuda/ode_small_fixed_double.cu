// SPDX-License-Identifier: MIT
#include "ode_small_fixed.cuh"

namespace nnsym::cuda::ode {

template void small_fixed<double>(const Plan&, Stream);

}  // namespace nnsym::cuda::ode
