// SPDX-License-Identifier: MIT
#include "ode_tile_adjoint.cuh"

namespace nnsym::cuda::ode {

template void launch_tile_adjoint<double>(const Plan&, const Layout&, Stream);

}  // namespace nnsym::cuda::ode
