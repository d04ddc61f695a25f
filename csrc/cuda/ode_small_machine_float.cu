// SPDX-License-Identifier: MIT
#include "ode_small_machine.cuh"

namespace nnsym::cuda::ode {

template void small_machine<float>(const Plan&, Stream);

}  // namespace nnsym::cuda::ode
