// SPDX-License-Identifier: MIT
#include "wilson.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "kernels.h"
#include "parallel.h"

namespace nnsym::wilson {
namespace {

struct Free {
    void operator()(void* p) const { std::free(p); }
};

}  // namespace

void run(const Job& job, int threads) {
    const Kernels& table = *nnsym::kernels().wilson;
    const std::int64_t paths = job.paths * job.segments;
    const std::int64_t batch = job.layout == kLanesLayout ? table.lanes[job.wide()] : 1;
    const std::int64_t packs = (paths + batch - 1) / batch;
    threads = int(std::max<std::int64_t>(1, std::min<std::int64_t>(threads, packs)));

    // Scratch of each worker, at distances that are no power of two.
    const std::int64_t bytes = (table.scratch_bytes[job.layout][job.kind](job) + 4095) / 4096 * 4096 + 192;
    const std::unique_ptr<char, Free> scratch(static_cast<char*>(std::aligned_alloc(64, std::size_t(bytes * threads))));
    if (!scratch) throw std::bad_alloc();

    // Tasks of many packs, so that the loop over them costs nothing; enough of them to even out the threads.
    const std::int64_t packs_per_task = std::max<std::int64_t>(1, packs / (std::int64_t(threads) * 16));
    auto body = [&](std::int64_t task, int worker) {
        const std::int64_t end = std::min(packs, (task + 1) * packs_per_task);
        for (std::int64_t pack = task * packs_per_task; pack < end; ++pack) {
            const int count = int(std::min(batch, paths - pack * batch));
            table.run[job.layout][job.kind](job, pack * batch, count, scratch.get() + worker * bytes);
        }
    };
    parallel_for((packs + packs_per_task - 1) / packs_per_task, threads, body);
}

}  // namespace nnsym::wilson
