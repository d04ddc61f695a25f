// SPDX-License-Identifier: MIT
#include "ode.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"

namespace nnsym::ode {

void run(Job& job, int threads) {
    const Kernels& table = *nnsym::kernels().ode;
    const bool wide = job.wide;
    const std::int64_t lanes = table.lanes[wide];
    // Two vectors of samples to a tile halve the loads of weights, where there are samples for it.
    job.vectors = job.samples > lanes * threads ? 2 : 1;
    const std::int64_t tile = lanes * job.vectors, tiles = (job.samples + tile - 1) / tile;
    threads = int(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, tiles)));

    const Scratch packed = scratch(table.packed_bytes[wide](job));
    table.pack[wide](job, packed.get());
    job.packed = packed.get();

    const std::int64_t bytes = worker_bytes(table.scratch_bytes[wide](job));
    const Scratch memory = scratch(bytes * threads);
    const bool sums = job.gparameters != nullptr;

    // Gradients are summed over a fixed part of the samples by each worker, so that sums do not depend on who is
    // faster; elsewhere parts are small enough to even out the threads, and large enough that places of samples that
    // are done are taken by others.
    const std::int64_t shares =
        sums ? threads : std::int64_t(threads) * (job.fixed || job.operation >= kEvaluate ? 16 : 4);
    const std::int64_t part = std::max<std::int64_t>(1, (tiles + shares - 1) / shares);
    std::atomic<bool> good{true};
    auto body = [&](std::int64_t task, int worker) {
        char* own = memory.get() + (sums ? task : worker) * bytes;
        if (sums) table.clear[wide](job, own);
        const std::int64_t first = task * part * tile, end = std::min(job.samples, (task + 1) * part * tile);
        if (first < end && !table.run[wide](job, first, end, own)) good = false;
    };
    const std::int64_t tasks = sums ? threads : (tiles + part - 1) / part;
    parallel_for(tasks, threads, body);
    if (!good) throw std::bad_alloc();
    if (!sums) return;
    std::memset(job.gparameters, 0, std::size_t(job.field.parameters) * (wide ? 8 : 4));
    for (int worker = 0; worker < threads; ++worker) table.collect[wide](job, memory.get() + worker * bytes);
}

}  // namespace nnsym::ode
