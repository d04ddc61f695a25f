// SPDX-License-Identifier: MIT
// The orbit family on a device: monomial elements drawn or given, and their action on the tensors of a network.
#pragma once
#include <vector>

#include "../core/orbit_plan.h"
#include "device.h"

namespace nnsym::cuda {

constexpr int kBatchSites = 8, kBatchColumns = 24;  // of one launch
constexpr int kSharedUnits = 4096;                  // a site's keys are sorted in shared memory up to here

// Elements alone: arrays with leading axis count. A null pointer skips a part.
struct SiteOut {
    std::int32_t* perm;
    std::int8_t* sign;
    void* scale;
};

struct SiteJob {
    orbit::Site site;
    orbit::GivenSite given;
    SiteOut out;
    std::int64_t scratch_at;  // 4 * size int32 in the record, where shared memory is too small; -1
    std::int32_t column_begin, column_end;
    bool is_given, prepared;  // prepared: an earlier launch wrote everything but these columns
};

// Sites and their derived columns, one launch.
struct SiteBatch {
    SiteJob sites[kBatchSites];
    orbit::Column columns[kBatchColumns];
    std::uint64_t seed, first;
    std::int64_t step, count;
    char* records;  // null where only elements are asked for and nothing needs scratch
    std::int64_t record_bytes;
};
static_assert(sizeof(SiteBatch) <= 4000);

// One block of one tensor for a run of samples.
struct ApplyJob {
    orbit::Block block;
    const char* records;
    std::int64_t record_bytes, count;
    const char* source;
    std::int64_t source_stride, out_stride;  // bytes from sample to sample; a source_stride of 0: one for all
    char* out;
    std::int64_t samples, tile_rows;  // of one thread block
    bool source_packs;                // 16 bytes of source rows lie at aligned addresses
};

// --- a small network: one warp draws a sample's element into shared memory and writes all its tensors

constexpr int kFusedSites = 8, kFusedColumns = 20, kFusedBlocks = 16, kFusedOuters = 2;
constexpr int kFusedUnits = 128, kFusedWarps = 8;
constexpr int kFusedList = 64;  // packs of a block in the list
constexpr int kFusedItem = 32;  // bytes of an item of the list

struct FusedSegment {  // Philox blocks of one part of one site
    std::int32_t begin, site;
    std::uint32_t draw;
    double std;
};
struct FusedSite {
    std::int32_t heads, head_size;
    bool permute_heads, permute_units, negates, scales;
    std::int32_t keys, head_keys, signs;     // words of the first key
    std::int32_t perm_at, pos_at, value_at;  // bytes into the record; -1
    orbit::GivenSite given;
};
struct FusedColumn {
    std::int32_t site, repeat, size, at;
    std::uint32_t magic;
    bool factor, dual, source_order;
    double power;
};
struct FusedOuter {
    std::int32_t size, source_stride, out_stride, pos_at, factor_at;
    std::uint32_t magic;
};
struct FusedBlock {
    const char* source;
    char* out;
    std::int64_t source_stride, out_stride;  // bytes from sample to sample
    std::int32_t rows, width, packs, outers, index_at, factor_at, source_at, out_at, panel_at;
    std::uint32_t magic, width_magic;
    std::int32_t path;  // 0: single numbers, 1: packs of a row, 2: packs of several rows, 3: packs from the list
    bool contiguous;    // the source's rows follow one another
    bool async;         // and can be copied 16 bytes at a time
    bool single;        // one outer axis, whose rows come in whole groups
    FusedOuter outer[kFusedOuters];
};
struct FusedJob {
    FusedBlock blocks[kFusedBlocks];
    FusedSite sites[kFusedSites];
    FusedColumn columns[kFusedColumns];
    FusedSegment segments[3 * kFusedSites];
    std::int32_t block_count, site_count, column_count, segment_count;
    std::int32_t draws, scale_begin, drawn_at, heads_at, record_bytes, panel_bytes, list_at, list_size, panels_at,
        records_at;
    bool given, stacked;
    std::uint64_t seed, first;
    std::int64_t step, count;
};
static_assert(sizeof(FusedJob) <= 4064);

// --- launches: dtype is that of the stored numbers, wide whether the arithmetic is float64

void launch_prepare(const SiteBatch&, std::int32_t sites, bool wide, Stream);
void launch_apply(const ApplyJob&, bool wide, Stream);
void launch_fused(const FusedJob&, orbit::Dtype dtype, std::size_t shared, Stream);

struct OrbitRun {
    std::uint64_t seed = 0, first = 0;
    std::int64_t step = 1, count = 0;
    const orbit::GivenSite* given = nullptr;  // one per site, instead of drawing; addresses on the device
    std::vector<const char*> sources;         // per tensor
    std::vector<char*> outs;
    bool stacked = false;
    char* workspace = nullptr;
    std::int64_t workspace_bytes = 0;
    Stream stream = nullptr;
};

class OrbitPlan {
public:
    OrbitPlan(orbit::Dtype compute, std::vector<orbit::Site> sites, const std::vector<orbit::BlockSpec>& blocks,
              std::vector<std::int64_t> tensor_bytes);

    void run(const OrbitRun&) const;
    void elements(const OrbitRun&, const std::vector<SiteOut>&) const;

    // Bytes for run and elements beside their results: as many samples' records as fit into the limit, at least one.
    std::int64_t workspace(std::int64_t count, bool stacked, std::int64_t limit) const;
    std::int64_t workspace_of_elements(std::int64_t count, std::int64_t limit) const;

    orbit::Dtype compute() const { return records_.compute; }
    std::size_t tensors() const { return tensor_bytes_.size(); }
    std::int64_t tensor_bytes(std::size_t i) const { return tensor_bytes_[i]; }
    const std::vector<orbit::Site>& sites() const { return records_.sites; }

private:
    // Where the arrays of one sample lie, and the blocks that read them.
    struct Layout {
        orbit::Dtype compute;
        std::vector<orbit::Site> sites;
        std::vector<orbit::Column> columns;
        std::vector<orbit::Block> blocks;
        std::vector<std::int64_t> scratch_at;
        std::int64_t bytes = 0;

        std::int64_t place(std::int64_t elements, std::size_t size);
        std::int64_t column(const orbit::Use&, bool factor, bool source_order);
        void add(const orbit::BlockSpec&);
    };

    void fuse(const std::vector<orbit::BlockSpec>& blocks);
    bool fuses(std::int64_t count, bool stacked) const;
    std::int64_t fused_shared(bool stacked) const;
    void run_fused(const OrbitRun&) const;
    std::int64_t chunk(const OrbitRun&) const;
    std::int64_t record() const { return records_.bytes > 0 ? records_.bytes : 1; }
    void prepare(const OrbitRun&, std::int64_t begin, std::int64_t count, const std::vector<SiteOut>*) const;

    Layout records_, fused_;
    FusedJob job_{};
    std::vector<std::int64_t> tensor_bytes_;
    bool fusible_ = false, scratch_ = false;
};

}  // namespace nnsym::cuda
