// SPDX-License-Identifier: MIT
// Integration of tiles of samples, and evaluation of their fields.
#pragma once
#include "ode_tile_launch.h"
#include "ode_tile_loops.cuh"

namespace nnsym::cuda::ode {

namespace {

template <class T>
__device__ void evaluate_tile(Tile<T>& tile, std::int64_t number) {
    const Plan& p = tile.plan;
    const std::int64_t first = number * kSamples, left = p.samples - first;
    const int d = p.d;
    const bool mine = lane() < left;
    const std::int64_t id = first + (mine ? lane() : 0);
    rows_of(d, [&](int r, int at) { tile.x[at] = static_cast<const T*>(p.y0)[id * d + r]; });
    if (warp() == 0) tile.time[lane()] = p.t[id * p.t_sample];
    __syncthreads();
    tile.eval(tile.x, tile.k, p.kind == core::kMetric ? tile.tape : nullptr);
    rows_of(d, [&](int r, int at) {
        if (mine) static_cast<T*>(p.ys)[id * d + r] = tile.k[at];
    });
    __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) integrate_tiles(const __grid_constant__ Plan plan) {
    Tile<T>& tile = Tile<T>::here_is();
    tile.set_up(plan);
    for (std::int64_t n = blockIdx.x; n < tile.layout.tiles; n += gridDim.x) {
        if (tile.plan.operation == core::kEvaluate) {
            evaluate_tile(tile, n);
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
void launch_tile_steps(const Plan& plan, const Layout& layout, Stream stream) {
    launch("ode: integration of tiles", integrate_tiles<T>, dim3(unsigned(layout.blocks)),
           dim3(unsigned(layout.threads)), std::size_t(layout.shared_bytes), stream, plan);
}

}  // namespace nnsym::cuda::ode
