// SPDX-License-Identifier: MIT
#include "orbit_plan.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "kernels.h"
#include "parallel.h"

namespace nnsym::orbit {
namespace {

constexpr std::int64_t kTaskBytes = 1 << 20;             // result of one task: enough to hide its scheduling
constexpr std::int64_t kRecordsBytes = 8 << 20;          // elements held at once where tasks share them
constexpr std::int64_t kWorkerRecordsBytes = 256 << 10;  // and where each worker draws its own
constexpr std::int64_t kScratchBytes = 40 << 20;         // of all workers together
constexpr std::int64_t kStreamFrom = 16 << 20;           // results from this size on go past the cache
constexpr std::int64_t kGroupSamples = 16;               // of one task
constexpr std::int64_t kPanelsBytes = 64 << 10;  // keep the panels of all tensors up to here: they stay in the cache

struct Free {
    void operator()(char* p) const { std::free(p); }
};
typedef std::unique_ptr<char[], Free> Bytes;

Bytes zeroed(std::int64_t bytes) {
    const std::size_t rounded = (std::size_t(bytes) + 127) / 64 * 64;
    char* p = static_cast<char*>(std::aligned_alloc(64, rounded));
    if (!p) throw std::bad_alloc();
    std::fill_n(p, rounded, char(0));
    return Bytes(p);
}

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
    return (n + unit - 1) / unit * unit;
}

}  // namespace

struct OrbitPlan::Workspace {
    int threads = 0;
    std::vector<Bytes> memory;
    std::vector<Scratch> scratch;  // per worker
    std::vector<char*> records;    // per worker: the records of one group
    Bytes shared;                  // records that tasks share
    std::int64_t shared_samples = 0;
    char* panels = nullptr;  // of a small network, interleaved once for all tasks
};

OrbitPlan::~OrbitPlan() = default;

std::int64_t OrbitPlan::place(std::int64_t elements, std::size_t size) {
    const std::int64_t at = plan_.record_bytes;
    plan_.record_bytes += round_up((elements + kPad) * std::int64_t(size), 64);
    return at;
}

std::int64_t OrbitPlan::column(const Use& use, bool factor, bool source_order) {
    if (use.site < 0) return -1;
    Site& site = sites_[std::size_t(use.site)];
    if (!factor && !site.permutes()) return -1;
    if (factor && (use.power == 0 || !(site.scales || site.negates))) return -1;
    if (!factor && use.repeat == 1) return site.perm_at;
    Column wanted{
        use.site, factor, factor && use.dual, source_order && site.permutes(), use.repeat, factor ? use.power : 1, -1};
    for (const Column& c : columns_)
        if (c.site == wanted.site && c.factor == wanted.factor && c.dual == wanted.dual &&
            c.source_order == wanted.source_order && c.repeat == wanted.repeat && c.power == wanted.power)
            return c.at;
    if (factor && wanted.power == 1 && !wanted.dual && !wanted.source_order && wanted.repeat == 1) return site.value_at;
    wanted.at = place(site.size() * use.repeat, factor ? itemsize(plan_.compute) : 4);
    columns_.push_back(wanted);
    return wanted.at;
}

void OrbitPlan::lay_out_draws() {
    auto segment = [&](const Site& site, DrawPart part, std::int64_t words) {
        const std::int64_t begin = std::int64_t(draw_site_.size());
        if (words > std::int64_t(4) << kDrawShift) throw std::invalid_argument("a site has more units than draws");
        for (std::int64_t b = 0; b < (words + 3) / 4; ++b) {
            draw_site_.push_back(part == kHeads ? site.head_index : site.index);
            draw_index_.push_back(std::uint32_t(part) << kDrawShift | std::uint32_t(b));
        }
        return begin;
    };
    auto pad = [&] {
        draw_site_.resize(std::size_t(round_up(std::int64_t(draw_site_.size()), kMaxLanes)));
        draw_index_.resize(draw_site_.size());
    };
    for (Site& s : sites_) s.permutation_block = segment(s, kPermutation, s.permute_units ? s.size() : 0);
    for (Site& s : sites_) s.heads_block = segment(s, kHeads, s.permute_heads ? s.heads : 0);
    plan_.key_draws = round_up(std::int64_t(draw_site_.size()), kMaxLanes);
    for (Site& s : sites_) s.sign_block = segment(s, kSign, s.negates ? (s.size() + 31) / 32 : 0);
    pad();
    plan_.scale_begin = std::int64_t(draw_site_.size());
    for (Site& s : sites_) {
        s.scale_block = segment(s, kScale, s.scales ? s.size() : 0);
        draw_std_.resize(draw_site_.size() - std::size_t(plan_.scale_begin), s.scale_std);
    }
    pad();
    draw_std_.resize(draw_site_.size() - std::size_t(plan_.scale_begin));
    plan_.draws = std::int64_t(draw_site_.size());
}

OrbitPlan::OrbitPlan(Dtype compute, std::vector<Site> sites, const std::vector<BlockSpec>& blocks,
                     std::vector<std::int64_t> tensor_bytes)
    : sites_(std::move(sites)), tensor_bytes_(std::move(tensor_bytes)) {
    plan_.compute = compute;
    for (Site& site : sites_) {
        largest_site_ = std::max(largest_site_, site.size());
        site.perm_at = site.permutes() ? place(site.size(), 4) : -1;
        site.pos_at = site.permutes() ? place(site.size(), 4) : -1;
        site.value_at = site.scales || site.negates ? place(site.size(), itemsize(compute)) : -1;
    }
    lay_out_draws();
    for (const BlockSpec& spec : blocks) {
        Block block{};
        block.tensor = spec.tensor;
        block.dtype = spec.dtype;
        block.rows = 1;
        if (spec.outer.size() > std::size_t(kMaxOuter)) throw std::invalid_argument("a tensor has too many axes");
        for (const OuterSpec& axis : spec.outer) {
            const bool moved = axis.use.site >= 0 && sites_[std::size_t(axis.use.site)].permutes();
            block.outer[block.outers++] = {axis.size, axis.source_stride, axis.out_stride,
                                           moved ? sites_[std::size_t(axis.use.site)].pos_at : -1,
                                           column(axis.use, true, true)};
            block.rows *= axis.size;
        }
        block.width = spec.width;
        block.index_at = column(spec.use, false, false);
        block.factor_at = column(spec.use, true, false);
        block.source_at = spec.source_at;
        block.out_at = spec.out_at;
        if (block.index_at >= 0) {
            widest_ = std::max(widest_, block.width);
            block.panels_at = panels_bytes_ / std::int64_t(itemsize(compute));
            panels_bytes_ += block.rows * round_up(block.width, kMaxLanes) * std::int64_t(itemsize(compute));
        }
        blocks_.push_back(block);
    }
    for (std::int64_t bytes : tensor_bytes_) point_bytes_ += bytes;
    plan_.sites = sites_.data(), plan_.site_count = std::int32_t(sites_.size());
    plan_.columns = columns_.data(), plan_.column_count = std::int32_t(columns_.size());
    plan_.draw_site = draw_site_.data(), plan_.draw_index = draw_index_.data(), plan_.draw_std = draw_std_.data();
    plan_.record_bytes = std::max<std::int64_t>(plan_.record_bytes, 64);
}

// Of one worker.
struct OrbitPlan::ScratchBytes {
    std::int64_t words, keys, values, order, panel, stage, records;
    std::int64_t total() const { return words + keys + values + order + panel + stage + records; }
};

OrbitPlan::ScratchBytes OrbitPlan::scratch_bytes() const {
    const std::int64_t size = std::int64_t(itemsize(plan_.compute));
    // A panel's rows; or one widened row, which may be wider than any panel.
    const std::int64_t panel = std::max((std::min(widest_, kPanelWidth) + kMaxLanes) * kMaxLanes, widest_ + kMaxLanes);
    return {(plan_.draws + kMaxLanes) * 16,
            (plan_.key_draws + 2 * kMaxLanes) * 16,
            (plan_.draws - plan_.scale_begin + kMaxLanes) * 4 * size,
            (4 * largest_site_ + 4 * kPad) * 4,
            panel * size,
            kMaxLanes * kStageWidth * size,
            worker_samples() * plan_.record_bytes};
}

// Samples whose elements one worker holds.
std::int64_t OrbitPlan::worker_samples() const {
    return std::clamp<std::int64_t>(kWorkerRecordsBytes / plan_.record_bytes, 1, kGroupSamples);
}

// No more threads than kScratchBytes serves: a result costs little memory beyond its own, however many cores there are.
int OrbitPlan::affordable(int threads) const {
    return int(std::clamp<std::int64_t>(kScratchBytes / scratch_bytes().total(), 1, threads));
}

std::unique_ptr<OrbitPlan::Workspace> OrbitPlan::workspace(int threads) const {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (idle_ && idle_->threads >= threads) return std::move(idle_);
    }
    auto w = std::make_unique<Workspace>();
    w->threads = threads;
    const ScratchBytes bytes = scratch_bytes();
    auto take = [&](std::int64_t size) {
        w->memory.push_back(zeroed(size));
        return w->memory.back().get();
    };
    if (panels_bytes_ <= kPanelsBytes) w->panels = take(panels_bytes_);
    for (int t = 0; t < threads; ++t) {
        Scratch s;
        s.words = reinterpret_cast<std::uint32_t*>(take(bytes.words));
        s.keys = reinterpret_cast<std::int32_t*>(take(bytes.keys));
        s.values = take(bytes.values);
        s.order = reinterpret_cast<std::int32_t*>(take(bytes.order));
        s.panel = take(bytes.panel);
        s.stage = take(bytes.stage);
        w->scratch.push_back(s);
        w->records.push_back(take(bytes.records));
    }
    return w;
}

void OrbitPlan::run(const Run& run) const {
    if (run.count == 0) return;
    const Kernels& table = kernels();
    const int type = plan_.compute == kFloat64;
    const int threads = affordable(run.threads);
    auto w = workspace(threads);

    const std::int64_t most = std::max<std::int64_t>(1, kRecordsBytes / plan_.record_bytes);
    std::int64_t samples = std::min({run.count, most, kGroupSamples});
    const bool stream = point_bytes_ * run.count >= kStreamFrom;

    // Slices of a point: one, or as many as keep the result of a task near kTaskBytes.
    std::vector<std::vector<Piece>> slices(1);
    std::int64_t filled = 0;
    for (std::int32_t b = 0; b < std::int32_t(blocks_.size()); ++b) {
        const Block& block = blocks_[std::size_t(b)];
        const std::int64_t row = std::max<std::int64_t>(1, block.width * std::int64_t(itemsize(block.dtype)) * samples);
        const std::int64_t rows = round_up(std::max<std::int64_t>(1, kTaskBytes / row), kMaxLanes);
        for (std::int64_t begin = 0; begin < block.rows; begin += rows) {
            const std::int64_t end = std::min(block.rows, begin + rows);
            if (filled && filled + (end - begin) * row > kTaskBytes + kTaskBytes / 2) slices.emplace_back(), filled = 0;
            slices.back().push_back({b, begin, end});
            filled += (end - begin) * row;
        }
    }
    const std::int64_t parts = std::int64_t(slices.size());
    const bool alone = parts == 1;  // a task draws its own elements; else tasks share them
    if (alone) samples = std::min(samples, worker_samples());
    const std::int64_t batch = alone ? run.count : std::min(run.count, std::max(most / samples * samples, samples));
    if (!alone && w->shared_samples < batch) {
        w->shared = zeroed(batch * plan_.record_bytes);
        w->shared_samples = batch;
    }

    // The tasks of a small network go sample by sample, so that memory takes the stores of one while the next one's
    // element is drawn; its rows are interleaved once for all of them, unless every sample has its own network.
    const bool stacked =
        std::any_of(run.source_strides.begin(), run.source_strides.end(), [](auto s) { return s != 0; });
    const bool keep = alone && w->panels && !stacked && run.count >= kGroupSamples / 2;
    const bool singly = keep || (alone && stacked);
    if (keep)
        for (const Block& block : blocks_)
            table.pack[type][block.dtype](block, run.sources[std::size_t(block.tensor)], w->panels);

    std::atomic<bool> valid{true};
    auto prepare = [&](std::int64_t k, char* record, const Scratch& scratch) {
        const std::uint64_t sample = run.first + std::uint64_t(k) * std::uint64_t(run.step);
        if (!table.prepare[type](plan_, run.seed, sample, run.given, k, record, scratch)) valid = false;
    };
    for (std::int64_t begin = 0; begin < run.count && valid; begin += batch) {
        const std::int64_t count = std::min(batch, run.count - begin);
        if (!alone) {
            auto draw = [&](std::int64_t k, int worker) {
                prepare(begin + k, w->shared.get() + k * plan_.record_bytes, w->scratch[std::size_t(worker)]);
            };
            parallel_for(count, threads, draw);
            if (!valid) break;
        }
        auto task = [&](std::int64_t item, int worker) {
            const std::int64_t first = item / parts * samples;
            const Scratch& scratch = w->scratch[std::size_t(worker)];
            Group group{};
            group.count = std::min(samples, count - first);
            group.record_bytes = plan_.record_bytes;
            group.stream = stream;
            group.panels = keep ? w->panels : nullptr;
            auto apply = [&](const std::vector<Piece>& pieces, std::int64_t at) {
                for (const Piece& piece : pieces) {
                    const Block& block = blocks_[std::size_t(piece.block)];
                    const std::size_t t = std::size_t(block.tensor);
                    group.source_stride = run.source_strides[t];
                    group.source = run.sources[t] + at * group.source_stride;
                    group.out_stride = tensor_bytes_[t];
                    group.out = run.outs[t] + at * group.out_stride;
                    table.apply[type][block.dtype](block, group, piece.begin, piece.end, scratch);
                }
            };
            const std::int64_t last = first + group.count;
            char* records = alone ? w->records[std::size_t(worker)] : w->shared.get() + first * plan_.record_bytes;
            group.records = records;
            if (singly) {
                group.count = 1;
                for (std::int64_t k = first; k < last; ++k) {
                    // A network of its own for every sample: on its way while the element is drawn.
                    for (std::size_t t = 0; stacked && t < tensor_bytes_.size(); ++t)
                        for (std::int64_t at = 0; at < tensor_bytes_[t]; at += 64)
                            __builtin_prefetch(run.sources[t] + (begin + k) * run.source_strides[t] + at, 0, 2);
                    prepare(begin + k, records, scratch);
                    if (!valid) return;
                    apply(slices[0], begin + k);
                }
            } else {
                for (std::int64_t k = first; alone && k < last; ++k)
                    prepare(begin + k, records + (k - first) * plan_.record_bytes, scratch);
                if (!valid) return;
                apply(slices[std::size_t(item % parts)], begin + first);
            }
            if (stream) table.fence();
        };
        parallel_for((count + samples - 1) / samples * parts, threads, task);
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        idle_ = std::move(w);
    }
    if (!valid) throw std::invalid_argument("elements: a row of perm is not a permutation of 0 .. n - 1");
}

void OrbitPlan::elements(const Run& run, const std::vector<std::int32_t*>& perm, const std::vector<std::int8_t*>& sign,
                         const std::vector<void*>& scale) const {
    const Kernels& table = kernels();
    const int type = plan_.compute == kFloat64;
    const int threads = affordable(run.threads);
    auto w = workspace(threads);
    auto draw = [&](std::int64_t k, int worker) {
        char* record = w->records[std::size_t(worker)];
        const std::uint64_t sample = run.first + std::uint64_t(k) * std::uint64_t(run.step);
        table.prepare[type](plan_, run.seed, sample, nullptr, 0, record, w->scratch[std::size_t(worker)]);
        for (std::size_t i = 0; i < sites_.size(); ++i) {
            const Site& site = sites_[i];
            const std::int64_t n = site.size();
            if (site.perm_at >= 0)
                std::copy_n(reinterpret_cast<const std::int32_t*>(record + site.perm_at), n, perm[i] + k * n);
            if (site.value_at < 0) continue;
            auto parts = [&](auto* out, const auto* value) {
                for (std::int64_t u = 0; u < n; ++u) {
                    if (site.negates) sign[i][k * n + u] = value[u] < 0 ? -1 : 1;
                    if (site.scales) out[k * n + u] = value[u] < 0 ? -value[u] : value[u];
                }
            };
            if (type)
                parts(static_cast<double*>(scale[i]), reinterpret_cast<const double*>(record + site.value_at));
            else
                parts(static_cast<float*>(scale[i]), reinterpret_cast<const float*>(record + site.value_at));
        }
    };
    parallel_for(run.count, threads, draw);
    std::lock_guard<std::mutex> lock(mutex_);
    idle_ = std::move(w);
}

}  // namespace nnsym::orbit
