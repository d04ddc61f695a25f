// SPDX-License-Identifier: MIT
#include "wilson.h"

#include <algorithm>

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"

namespace nnsym::wilson {

void run(const Job& job, int threads) {
    const Kernels& table = *nnsym::kernels().wilson;
    const std::int64_t paths = job.paths * job.segments;
    const std::int64_t batch = job.layout == kLanesLayout ? table.lanes[job.wide()] : 1;
    const std::int64_t packs = (paths + batch - 1) / batch;
    threads = int(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, packs)));

    const std::int64_t bytes = worker_bytes(table.scratch_bytes[job.layout][job.kind](job));
    const Scratch memory = scratch(bytes * threads);

    // Tasks of many packs, so that the loop over them costs nothing; enough of them to even out the threads.
    const std::int64_t packs_per_task = std::max<std::int64_t>(1, packs / (std::int64_t(threads) * 16));
    auto body = [&](std::int64_t task, int worker) {
        const std::int64_t end = std::min(packs, (task + 1) * packs_per_task);
        for (std::int64_t pack = task * packs_per_task; pack < end; ++pack) {
            const int count = int(std::min(batch, paths - pack * batch));
            table.run[job.layout][job.kind](job, pack * batch, count, memory.get() + worker * bytes);
        }
    };
    parallel_for((packs + packs_per_task - 1) / packs_per_task, threads, body);
}

}  // namespace nnsym::wilson
