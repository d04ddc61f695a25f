// SPDX-License-Identifier: MIT
// The kernels of tiles for their launcher, ode_tile.cu. One block takes tiles in turn.
#pragma once
#include "ode.h"

namespace nnsym::cuda::ode {

constexpr int kTileThreads = 256, kTileBlocks = 2;  // of a block, at most; blocks that a multiprocessor holds, at least

struct Layout;

template <class T>
void launch_tile_steps(const Plan&, const Layout&, Stream);
template <class T>
void launch_tile_gradient(const Plan&, const Layout&, Stream);
template <class T>
void launch_tile_adjoint(const Plan&, const Layout&, Stream);

}  // namespace nnsym::cuda::ode
