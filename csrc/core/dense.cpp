// SPDX-License-Identifier: MIT
#include "dense.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"

namespace nnsym::dense {
namespace {

constexpr std::int64_t kStreamFrom = 16 << 20;  // results from this size on go past the cache
constexpr std::int64_t kGroupSamples = 16;      // samples of one task: its source stays in the cache
constexpr std::int64_t kCopyBytes = 32 << 10;   // of one task
constexpr std::int64_t kThreadWork = 1 << 18;   // multiply-adds, or bytes, that are worth another thread

int useful(int threads, std::int64_t tasks, std::int64_t work) {
    return int(std::max<std::int64_t>(1, std::min<std::int64_t>({threads, tasks, work / kThreadWork})));
}

}  // namespace

void draw(Draw job, bool wide, int threads) {
    if (job.count == 0) return;
    const Kernels& table = *nnsym::kernels().dense;
    // The rows of the upper triangle: row k needs entries from k on, whole blocks of four.
    const std::int64_t n = job.haar, row_blocks = (n + 3) / 4;
    std::vector<std::uint32_t> number;
    std::vector<std::int32_t> row;
    for (std::int64_t k = 0; k < n; ++k) {
        row.push_back(std::int32_t(4 * std::int64_t(number.size()) + k % 4));
        for (std::int64_t b = k / 4; b < row_blocks; ++b) number.push_back(std::uint32_t(k * row_blocks + b));
    }
    number.resize((number.size() + orbit::kMaxLanes - 1) / orbit::kMaxLanes * orbit::kMaxLanes);
    job.numbers = std::int64_t(number.size());
    job.number = number.data(), job.row = row.data();
    const bool two = job.kind >= kGeneral;
    job.head_blocks = (job.pairs + 3) / 4 + (two ? 2 : 1) * n * row_blocks;

    const std::int64_t heads_per_task = std::clamp<std::int64_t>(16384 / (std::int64_t(job.size) * job.size), 1, 16);
    const std::int64_t parts = (job.heads + heads_per_task - 1) / heads_per_task;
    const std::int64_t samples_per_task = parts > 1 ? 1 : std::clamp<std::int64_t>(heads_per_task / job.heads, 1, 16);
    const std::int64_t tasks = (job.count + samples_per_task - 1) / samples_per_task * parts;
    threads = useful(threads, tasks, job.count * job.heads * 4 * n * n * n);
    const std::int64_t bytes = worker_bytes(table.draw_scratch[wide](job));
    const Scratch memory = scratch(bytes * threads);
    auto body = [&](std::int64_t task, int worker) {
        const std::int64_t begin = task % parts * heads_per_task;
        const std::int64_t first = task / parts * samples_per_task;
        for (std::int64_t k = first; k < std::min(job.count, first + samples_per_task); ++k)
            table.draw[wide](job, k, begin, std::min<std::int64_t>(job.heads, begin + heads_per_task),
                             memory.get() + worker * bytes);
    };
    parallel_for(tasks, threads, body);
}

void apply(const Pass* passes, std::int64_t count_of_passes, bool wide, std::int64_t samples, int threads) {
    if (samples == 0) return;
    const Kernels& table = *nnsym::kernels().dense;
    struct Task {
        const Pass* pass;
        Piece piece;
    };
    std::vector<Task> tasks;
    std::int64_t bytes = 0, most = 64, work = 0;
    for (const Pass* pass = passes; pass != passes + count_of_passes; ++pass) {
        most = std::max(most, table.apply_scratch[wide](*pass));
        bytes += pass->out_stride * samples;
        work += samples * pass->outer * pass->blocks * pass->size * pass->inner * (pass->matrix ? pass->size : 1);
        if (row_wise(*pass)) {
            const std::int64_t rows = rows_at_once(*pass);
            for (std::int64_t r = 0; r < pass->outer; r += rows)
                tasks.push_back({pass, {r, std::min(pass->outer, r + rows), 0, 0, 1}});
        } else {
            for (std::int64_t o = 0; o < pass->outer; ++o)
                for (std::int64_t b = 0; b < pass->blocks; ++b)
                    for (std::int64_t x = 0; x < pass->inner; x += kColumns)
                        tasks.push_back({pass, {o, o + 1, b, x, std::min(pass->inner, x + kColumns)}});
        }
    }
    const std::int64_t group = std::min(samples, kGroupSamples), groups = (samples + group - 1) / group;
    const std::int64_t count = std::int64_t(tasks.size());
    threads = useful(threads, count * groups, work);
    const bool stream = bytes >= kStreamFrom;
    const std::int64_t worker = worker_bytes(most);
    const Scratch memory = scratch(worker * threads);
    auto body = [&](std::int64_t item, int number) {
        const Task& task = tasks[std::size_t(item % count)];
        const std::int64_t begin = item / count * group;
        table.apply[wide](*task.pass, task.piece, begin, std::min(samples, begin + group), stream,
                          memory.get() + number * worker);
        if (stream) nnsym::kernels().fence();
    };
    parallel_for(count * groups, threads, body);
}

void normals(bool wide, std::uint64_t seed, std::uint64_t first, std::int64_t step, std::int64_t count,
             std::uint32_t site, orbit::DrawPart part, std::int64_t blocks, void* out, int threads) {
    const Kernels& table = *nnsym::kernels().dense;
    constexpr std::int64_t kBlocks = 4096;  // of one task
    const std::int64_t size = wide ? 8 : 4, pieces = (blocks + kBlocks - 1) / kBlocks;
    const std::int64_t bytes = worker_bytes((kBlocks + orbit::kMaxLanes) * 4 * size);
    threads = useful(threads, count * pieces, count * blocks * 128);
    const Scratch memory = scratch(bytes * threads);
    auto body = [&](std::int64_t task, int worker) {
        const std::int64_t k = task / pieces, begin = task % pieces * kBlocks, end = std::min(blocks, begin + kBlocks);
        char* numbers = memory.get() + worker * bytes;
        table.normals[wide](seed, first + std::uint64_t(k) * std::uint64_t(step), site,
                            std::uint32_t(part) << orbit::kDrawShift | std::uint32_t(begin), end - begin, numbers);
        std::memcpy(static_cast<char*>(out) + (k * blocks + begin) * 4 * size, numbers,
                    std::size_t((end - begin) * 4 * size));
    };
    parallel_for(count * pieces, threads, body);
}

void copy(const Copy* copies, std::int64_t count_of_copies, std::int64_t samples, int threads) {
    const nnsym::Kernels& table = nnsym::kernels();
    struct Task {
        const Copy* copy;
        std::int64_t begin, end;
    };
    std::vector<Task> tasks;
    std::int64_t bytes = 0;
    for (const Copy* c = copies; c != copies + count_of_copies; ++c) {
        bytes += c->bytes * samples;
        for (std::int64_t at = 0; at < c->bytes; at += kCopyBytes)
            tasks.push_back({c, at, std::min(c->bytes, at + kCopyBytes)});
    }
    const bool stream = bytes >= kStreamFrom;
    // Few large results are cut in samples too.
    const std::int64_t count = std::int64_t(tasks.size()), group = std::min(samples, kGroupSamples);
    const std::int64_t groups = group ? (samples + group - 1) / group : 0;
    auto body = [&](std::int64_t item, int) {
        const Task& task = tasks[std::size_t(item % count)];
        const Copy& c = *task.copy;
        for (std::int64_t k = item / count * group; k < std::min(samples, (item / count + 1) * group); ++k) {
            char* to = c.out + k * c.bytes + task.begin;
            const char* from = c.source + k * c.source_stride + task.begin;
            if (stream)
                table.stream_copy(to, from, task.end - task.begin);
            else
                std::memcpy(to, from, std::size_t(task.end - task.begin));
        }
        if (stream) table.fence();
    };
    parallel_for(count * groups, useful(threads, count * groups, bytes), body);
}

}  // namespace nnsym::dense
