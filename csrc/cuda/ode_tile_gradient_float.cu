// SPDX-License-Identifier: MIT
#include "ode_tile_gradient.cuh"

namespace nnsym::cuda::ode {

template void launch_tile_gradient<float>(const Plan&, const Layout&, Stream);

}  // namespace nnsym::cuda::ode
