// SPDX-License-Identifier: MIT
#include "ode_tile_integrate.cuh"

namespace nnsym::cuda::ode {

template void launch_tile_steps<double>(const Plan&, const Layout&, Stream);

}  // namespace nnsym::cuda::ode
