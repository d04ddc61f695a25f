// SPDX-License-Identifier: MIT
// Tiles of samples backwards: the state together with its adjoint; and the reverse pass of the field alone.
#pragma once
#include "ode_tile_launch.h"
#include "ode_tile_loops.cuh"

namespace nnsym::cuda::ode {

namespace {

template <class T>
__device__ void pull_tile(Tile<T>& tile, std::int64_t number) {
    const Plan& p = tile.plan;
    const std::int64_t first = number * kSamples, left = p.samples - first;
    const int d = p.d;
    const bool mine = lane() < left;
    const std::int64_t id = first + (mine ? lane() : 0);  // places without a sample repeat one, and pull nothing back
    rows_of(d, [&](int r, int at) {
        tile.tape[at] = static_cast<const T*>(p.y0)[id * d + r];
        tile.y[at] = mine ? static_cast<const T*>(p.cotangent)[id * d + r] : T(0);
    });
    if (warp() == 0) tile.time[lane()] = p.t[id * p.t_sample];
    __syncthreads();
    tile.eval(tile.tape, tile.k, tile.tape);
    T along[1] = {tile.vjp(tile.tape, tile.y, tile.work)};
    rows_of(d, [&](int r, int at) {
        if (mine) static_cast<T*>(p.gy)[id * d + r] = tile.work[at];
    });
    if (p.gt) {
        tile.add_up(along);
        if (warp() == 0 && mine) p.gt[id] = double(along[0]);
    }
    if (tile.sums) tile.accumulate(tile.tape);
    __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) pull_tiles(const __grid_constant__ Plan plan) {
    Tile<T>& tile = Tile<T>::here_is();
    tile.set_up(plan);
    for (std::int64_t n = blockIdx.x; n < tile.layout.tiles; n += gridDim.x) {
        if (tile.plan.operation == core::kVjp) {
            pull_tile(tile, n);
            continue;
        }
        tile.begin(n);
        while (tile.attempt()) {
        }
        tile.write_ends();
    }
}

}  // namespace

template <class T>
void launch_tile_adjoint(const Plan& plan, const Layout& layout, Stream stream) {
    launch("ode: adjoint of tiles", pull_tiles<T>, dim3(unsigned(layout.blocks)), dim3(unsigned(layout.threads)),
           std::size_t(layout.shared_bytes), stream, plan);
}

}  // namespace nnsym::cuda::ode
