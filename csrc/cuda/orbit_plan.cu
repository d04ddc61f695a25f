// SPDX-License-Identifier: MIT
// A compiled orbit on a device: the layout of a sample's record, and the launches of a call.
#include <algorithm>

#include "orbit.h"

namespace nnsym::cuda {

using namespace nnsym::orbit;

namespace {

constexpr std::int64_t kMostSamples = std::int64_t(1) << 20;  // of one launch
constexpr std::int64_t kFuseFrom = 32;                        // samples from which a warp each pays
constexpr std::int64_t kFusedShared = 96 << 10, kFusedPanels = 24 << 10, kFusedRecord = 12 << 10;

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
    return (n + unit - 1) / unit * unit;
}

// n / d = high word of n * magic for n, d < 2^16; 0: d is one.
std::uint32_t magic_of(std::int64_t d) {
    return d <= 1 ? 0 : std::uint32_t(((std::uint64_t(1) << 32) + std::uint64_t(d) - 1) / std::uint64_t(d));
}

}  // namespace

std::int64_t OrbitPlan::Layout::place(std::int64_t elements, std::size_t size) {
    const std::int64_t at = bytes;
    bytes += round_up(elements * std::int64_t(size), 16);
    return at;
}

std::int64_t OrbitPlan::Layout::column(const Use& use, bool factor, bool source_order) {
    if (use.site < 0) return -1;
    const Site& site = sites[std::size_t(use.site)];
    if (!factor && !site.permutes()) return -1;
    if (factor && (use.power == 0 || !(site.scales || site.negates))) return -1;
    if (!factor && use.repeat == 1) return site.perm_at;
    Column wanted{
        use.site, factor, factor && use.dual, source_order && site.permutes(), use.repeat, factor ? use.power : 1, -1};
    for (const Column& c : columns)
        if (c.site == wanted.site && c.factor == wanted.factor && c.dual == wanted.dual &&
            c.source_order == wanted.source_order && c.repeat == wanted.repeat && c.power == wanted.power)
            return c.at;
    if (factor && wanted.power == 1 && !wanted.dual && !wanted.source_order && wanted.repeat == 1) return site.value_at;
    wanted.at = place(site.size() * use.repeat, factor ? itemsize(compute) : 4);
    columns.push_back(wanted);
    return wanted.at;
}

void OrbitPlan::Layout::add(const BlockSpec& spec) {
    if (spec.outer.size() > std::size_t(kMaxOuter)) throw std::invalid_argument("a tensor has too many axes");
    Block block{};
    block.tensor = spec.tensor, block.dtype = spec.dtype, block.rows = 1;
    for (const OuterSpec& axis : spec.outer) {
        const bool moved = axis.use.site >= 0 && sites[std::size_t(axis.use.site)].permutes();
        block.outer[block.outers++] = {axis.size, axis.source_stride, axis.out_stride,
                                       moved ? sites[std::size_t(axis.use.site)].pos_at : -1,
                                       column(axis.use, true, true)};
        block.rows *= axis.size;
    }
    block.width = spec.width;
    if (block.rows > 0x7fffffff || block.width > 0x7fffffff)
        throw std::invalid_argument("a tensor has more than 2^31 - 1 rows or columns");
    block.index_at = column(spec.use, false, false);
    block.factor_at = column(spec.use, true, false);
    block.source_at = spec.source_at, block.out_at = spec.out_at;
    blocks.push_back(block);
}

OrbitPlan::OrbitPlan(Dtype compute, std::vector<Site> sites, const std::vector<BlockSpec>& blocks,
                     std::vector<std::int64_t> tensor_bytes)
    : tensor_bytes_(std::move(tensor_bytes)) {
    records_.compute = fused_.compute = compute;
    fused_.sites = sites;
    for (Site& site : sites) {
        const std::int64_t n = site.size();
        if (n > std::int64_t(4) << kDrawShift) throw std::invalid_argument("a site has more units than draws");
        const bool large = site.permutes() && n > kSharedUnits;
        site.perm_at = site.permutes() ? records_.place(n, 4) : -1;
        site.pos_at = site.permutes() ? records_.place(n, 4) : -1;
        site.value_at = site.scales || site.negates ? records_.place(n, itemsize(compute)) : -1;
        records_.scratch_at.push_back(large ? records_.place(4 * n, 4) : -1);
        scratch_ = scratch_ || large;
    }
    records_.sites = std::move(sites);
    for (const BlockSpec& block : blocks) records_.add(block);
    fuse(blocks);
}

// The layout of the kernel for small networks, where they are: every number here fits into 16 or 32 bits.
void OrbitPlan::fuse(const std::vector<BlockSpec>& specs) {
    if (specs.empty() || specs.size() > kFusedBlocks || fused_.sites.size() > kFusedSites) return;
    const std::size_t real = itemsize(fused_.compute);
    for (const Site& site : fused_.sites)
        if (site.size() > kFusedUnits) return;
    for (const BlockSpec& spec : specs) {
        std::int64_t rows = 1;
        for (const OuterSpec& axis : spec.outer) rows *= axis.size;
        if (spec.outer.size() > kFusedOuters || spec.dtype != specs[0].dtype || rows * spec.width > 0x7fff) return;
        if (tensor_bytes_[std::size_t(spec.tensor)] > std::int64_t(1) << 20) return;
    }
    if (itemsize(specs[0].dtype) > real || (real == 8 && specs[0].dtype != kFloat64)) return;

    // Philox words first: keys, heads, signs, scales.
    std::int32_t draws = 0, heads = 0;
    std::int32_t& segments = job_.segment_count;
    auto segment = [&](const Site& site, std::uint32_t index, DrawPart part, std::int64_t words) {
        const std::int32_t begin = draws;
        if (words)
            job_.segments[segments++] = {begin, std::int32_t(index), std::uint32_t(part) << kDrawShift, site.scale_std};
        draws += std::int32_t((words + 3) / 4);
        return 4 * begin;
    };
    static_assert(sizeof(job_.segments) / sizeof(FusedSegment) >= 3 * kFusedSites);
    for (std::size_t i = 0; i < fused_.sites.size(); ++i) {
        const Site& s = fused_.sites[i];
        FusedSite& site = job_.sites[i];
        site = {s.heads, s.head_size, s.permute_heads, s.permute_units, s.negates, s.scales, 0, 0, 0, -1, -1, -1, {}};
        // A site with all four parts would need a segment more than there is room for.
        if (s.permute_units + s.permute_heads + s.negates + s.scales > 3) return;
        site.keys = segment(s, s.index, kPermutation, s.permute_units ? s.size() : 0);
        site.head_keys = segment(s, s.head_index, kHeads, s.permute_heads ? s.heads : 0);
        site.signs = segment(s, s.index, kSign, s.negates ? (s.size() + 31) / 32 : 0);
        heads = std::max(heads, s.heads);
    }
    job_.scale_begin = draws;
    std::vector<std::int32_t> scales;
    for (const Site& s : fused_.sites) scales.push_back(segment(s, s.index, kScale, s.scales ? s.size() : 0));
    job_.draws = draws;
    fused_.place(draws, 16);
    job_.drawn_at = std::int32_t(fused_.place(4 * (draws - job_.scale_begin), real));
    job_.heads_at = std::int32_t(fused_.place(heads, 4));
    for (std::size_t i = 0; i < fused_.sites.size(); ++i) {
        Site& s = fused_.sites[i];
        s.perm_at = s.permutes() ? fused_.place(s.size(), 4) : -1;
        s.pos_at = s.permutes() ? fused_.place(s.size(), 4) : -1;
        s.value_at = s.scales    ? job_.drawn_at + (scales[i] - 4 * job_.scale_begin) * std::int64_t(real)
                     : s.negates ? fused_.place(s.size(), real)
                                 : -1;
        job_.sites[i].perm_at = std::int32_t(s.perm_at), job_.sites[i].pos_at = std::int32_t(s.pos_at);
        job_.sites[i].value_at = std::int32_t(s.value_at);
    }
    for (const BlockSpec& spec : specs) fused_.add(spec);
    if (fused_.columns.size() > kFusedColumns || fused_.bytes > kFusedRecord) return;
    for (const Column& c : fused_.columns) {
        const std::int64_t size = fused_.sites[std::size_t(c.site)].size() * c.repeat;
        if (size > 0x7fff) return;
        job_.columns[job_.column_count++] = {
            c.site,         c.repeat, std::int32_t(size), std::int32_t(c.at), magic_of(c.repeat), c.factor, c.dual,
            c.source_order, c.power};
    }
    const int group = std::min<int>(4, int(16 / itemsize(specs[0].dtype)));
    std::int64_t panels = 0;
    for (const Block& block : fused_.blocks) {
        FusedBlock& to = job_.blocks[job_.block_count++];
        to = {};
        to.rows = std::int32_t(block.rows), to.width = std::int32_t(block.width), to.outers = block.outers;
        to.index_at = std::int32_t(block.index_at), to.factor_at = std::int32_t(block.factor_at);
        to.source_at = std::int32_t(block.source_at), to.out_at = std::int32_t(block.out_at);
        to.panel_at = std::int32_t(panels), to.width_magic = magic_of(block.width);
        panels += round_up(round_up(block.rows, group) * block.width * std::int64_t(itemsize(block.dtype)), 16);
        for (int d = 0; d < block.outers; ++d) {
            const OuterAxis& axis = block.outer[d];
            to.outer[d] = {std::int32_t(axis.size),   std::int32_t(axis.source_stride), std::int32_t(axis.out_stride),
                           std::int32_t(axis.pos_at), std::int32_t(axis.factor_at),     magic_of(axis.size)};
        }
    }
    job_.panel_bytes = std::int32_t(panels);
    job_.record_bytes = std::int32_t(fused_.bytes);
    job_.site_count = std::int32_t(fused_.sites.size());
    fusible_ = panels <= kFusedPanels && fused_shared(false) <= kFusedShared;
}

std::int64_t OrbitPlan::fused_shared(bool stacked) const {
    std::int64_t list = 0;
    for (const Block& block : fused_.blocks) {
        const std::int64_t packs = block.width * std::int64_t(itemsize(block.dtype)) / 16;
        if (!block.outers && packs <= kFusedList) list += packs;
    }
    return job_.draws * std::int64_t(16) + list * kFusedItem + job_.panel_bytes * (stacked ? kFusedWarps : 1) +
           job_.record_bytes * kFusedWarps;
}

bool OrbitPlan::fuses(std::int64_t count, bool stacked) const {
    return fusible_ && count >= kFuseFrom && fused_shared(stacked) <= kFusedShared;
}

std::int64_t OrbitPlan::workspace(std::int64_t count, bool stacked, std::int64_t limit) const {
    return fuses(count, stacked) ? 0 : std::clamp<std::int64_t>(limit / record(), 1, count) * record();
}

std::int64_t OrbitPlan::workspace_of_elements(std::int64_t count, std::int64_t limit) const {
    return scratch_ ? std::clamp<std::int64_t>(limit / record(), 1, count) * record() : 0;
}

// Samples of one launch.
std::int64_t OrbitPlan::chunk(const OrbitRun& run) const {
    const std::int64_t most = run.workspace_bytes / record();
    if (most < 1) throw std::invalid_argument("workspace: smaller than it must be");
    return std::min(most, kMostSamples);
}

// Sites of samples begin .. begin + count - 1, as many as fit into a launch.
void OrbitPlan::prepare(const OrbitRun& run, std::int64_t begin, std::int64_t count,
                        const std::vector<SiteOut>* outs) const {
    SiteBatch batch{};
    std::int32_t sites = 0, columns = 0;
    batch.seed = run.seed, batch.step = run.step, batch.count = count;
    batch.first = run.first + std::uint64_t(begin) * std::uint64_t(run.step);
    batch.records = run.workspace_bytes ? run.workspace : nullptr, batch.record_bytes = records_.bytes;
    auto flush = [&] {
        if (sites) launch_prepare(batch, sites, records_.compute == kFloat64, run.stream);
        sites = columns = 0;
    };
    for (std::size_t i = 0; i < records_.sites.size(); ++i) {
        const Site& site = records_.sites[i];
        if (sites == kBatchSites || columns == kBatchColumns) flush();
        auto begin_site = [&](bool prepared) {
            SiteJob job{};
            job.site = site, job.scratch_at = records_.scratch_at[i], job.prepared = prepared;
            job.column_begin = job.column_end = columns;
            const std::int64_t n = site.size();
            if (run.given) {
                job.is_given = true;
                job.given = run.given[i];
                if (job.given.perm) job.given.perm += begin * n;
                if (job.given.sign) job.given.sign += begin * n;
                if (job.given.scale)
                    job.given.scale = static_cast<const char*>(job.given.scale) +
                                      begin * n * std::int64_t(itemsize(records_.compute));
            }
            if (outs) {
                job.out = (*outs)[i];
                if (job.out.perm) job.out.perm += begin * n;
                if (job.out.sign) job.out.sign += begin * n;
                if (job.out.scale)
                    job.out.scale =
                        static_cast<char*>(job.out.scale) + begin * n * std::int64_t(itemsize(records_.compute));
            }
            batch.sites[sites++] = job;
        };
        begin_site(false);
        for (const Column& column : records_.columns) {
            if (outs || column.site != std::int32_t(i)) continue;
            if (columns == kBatchColumns) flush(), begin_site(true);
            batch.columns[columns++] = column;
            batch.sites[sites - 1].column_end = columns;
        }
    }
    flush();
}

void OrbitPlan::run(const OrbitRun& run) const {
    if (!run.count) return;
    if (fuses(run.count, run.stacked)) return run_fused(run);
    const std::int64_t most = chunk(run);
    const std::int64_t blocks = std::int64_t(multiprocessors()) * 32;
    for (std::int64_t begin = 0; begin < run.count; begin += most) {
        const std::int64_t count = std::min(most, run.count - begin);
        prepare(run, begin, count, nullptr);
        for (const Block& block : records_.blocks) {
            const std::size_t t = std::size_t(block.tensor);
            ApplyJob job{};
            job.block = block;
            job.records = run.workspace, job.record_bytes = records_.bytes, job.count = count;
            job.out_stride = tensor_bytes_[t], job.source_stride = run.stacked ? tensor_bytes_[t] : 0;
            job.source = run.sources[t] + begin * job.source_stride;
            job.out = run.outs[t] + begin * job.out_stride;
            job.samples = blocks;  // a hint: launch_apply decides
            launch_apply(job, records_.compute == kFloat64, run.stream);
        }
    }
}

void OrbitPlan::elements(const OrbitRun& run, const std::vector<SiteOut>& outs) const {
    const std::int64_t most = scratch_ ? chunk(run) : kMostSamples;
    for (std::int64_t begin = 0; begin < run.count; begin += most)
        prepare(run, begin, std::min(most, run.count - begin), &outs);
}

void OrbitPlan::run_fused(const OrbitRun& run) const {
    FusedJob job = job_;
    const std::int64_t size = std::int64_t(itemsize(fused_.blocks[0].dtype)), pack = 16 / size;
    const int group = std::min<int>(4, int(pack));
    for (std::int32_t b = 0; b < job.block_count; ++b) {
        FusedBlock& block = job.blocks[b];
        const std::size_t t = std::size_t(fused_.blocks[std::size_t(b)].tensor);
        block.source = run.sources[t], block.out = run.outs[t];
        block.out_stride = tensor_bytes_[t], block.source_stride = run.stacked ? tensor_bytes_[t] : 0;
        bool packs = reinterpret_cast<std::uintptr_t>(block.out) % 16 == 0 && block.out_stride % 16 == 0 &&
                     block.out_at % pack == 0 && block.width % pack == 0;
        std::int32_t next = block.width;
        block.contiguous = true;
        for (int d = block.outers - 1; d >= 0; --d) {
            packs = packs && block.outer[d].out_stride % pack == 0;
            block.contiguous = block.contiguous && block.outer[d].source_stride == next;
            next *= block.outer[d].size;
        }
        block.async = block.contiguous && reinterpret_cast<std::uintptr_t>(block.source) % 16 == 0 &&
                      block.source_stride % 16 == 0 && block.source_at % pack == 0 && next % pack == 0;
        block.single = block.outers == 1 && block.rows % group == 0;
        block.path = !packs                                                       ? 0
                     : !block.outers && block.width / pack <= kFusedList          ? 3
                     : block.index_at >= 0 && block.rows >= group && !run.stacked ? 2
                                                                                  : 1;
        if (block.path == 3) job.list_size += std::int32_t(block.width / pack);
        block.packs = std::int32_t(packs ? block.width / pack : block.width);
        block.magic = magic_of(block.packs);
    }
    for (std::int32_t i = 0; run.given && i < job.site_count; ++i) job.sites[i].given = run.given[i];
    job.given = run.given != nullptr, job.stacked = run.stacked;
    job.seed = run.seed, job.first = run.first, job.step = run.step, job.count = run.count;
    job.list_at = job.draws * 16;
    job.panels_at = job.list_at + job.list_size * kFusedItem;
    job.records_at = job.panels_at + job.panel_bytes * (run.stacked ? kFusedWarps : 1);
    launch_fused(job, fused_.blocks[0].dtype, std::size_t(fused_shared(run.stacked)), run.stream);
}

}  // namespace nnsym::cuda
