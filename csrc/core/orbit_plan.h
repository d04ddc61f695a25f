// SPDX-License-Identifier: MIT
// A compiled orbit: sites and blocks laid out for the kernels, and the loop over samples, rows and threads.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "orbit.h"

namespace nnsym::orbit {

struct Use {  // what acts on an axis; site -1: nothing
    std::int32_t site = -1;
    bool dual = false;
    double power = 1;
    std::int32_t repeat = 1;
};

struct OuterSpec {
    std::int64_t size, source_stride, out_stride;
    Use use;
};

struct BlockSpec {
    std::int32_t tensor;
    Dtype dtype;
    std::vector<OuterSpec> outer;
    std::int64_t width;
    Use use;
    std::int64_t source_at, out_at;
};

struct Run {
    std::uint64_t seed = 0, first = 0;
    std::int64_t step = 1, count = 0;
    const GivenSite* given = nullptr;          // one per site, instead of drawing
    std::vector<const char*> sources;          // per tensor
    std::vector<std::int64_t> source_strides;  // bytes between the sources of consecutive samples; 0: shared
    std::vector<char*> outs;
    int threads = 1;
};

class OrbitPlan {
public:
    OrbitPlan(Dtype compute, std::vector<Site> sites, const std::vector<BlockSpec>& blocks,
              std::vector<std::int64_t> tensor_bytes);

    ~OrbitPlan();

    void run(const Run&) const;
    // Elements alone, into arrays with leading axis count; a null pointer skips a part.
    void elements(const Run&, const std::vector<std::int32_t*>& perm, const std::vector<std::int8_t*>& sign,
                  const std::vector<void*>& scale) const;

    Dtype compute() const { return plan_.compute; }
    std::size_t tensors() const { return tensor_bytes_.size(); }
    std::int64_t tensor_bytes(std::size_t i) const { return tensor_bytes_[i]; }
    const std::vector<Site>& sites() const { return sites_; }

private:
    struct Workspace;
    struct Piece {
        std::int32_t block;
        std::int64_t begin, end;
    };

    std::int64_t place(std::int64_t elements, std::size_t size);
    std::int64_t column(const Use&, bool factor, bool source_order);
    void lay_out_draws();
    struct ScratchBytes;
    ScratchBytes scratch_bytes() const;
    std::int64_t worker_samples() const;
    int affordable(int threads) const;
    std::unique_ptr<Workspace> workspace(int threads) const;

    std::vector<Site> sites_;
    std::vector<Column> columns_;
    std::vector<Block> blocks_;
    std::vector<std::int64_t> tensor_bytes_;
    std::vector<std::uint32_t> draw_site_, draw_index_;
    std::vector<double> draw_std_;
    Plan plan_{};
    std::int64_t largest_site_ = 1, widest_ = 1, point_bytes_ = 0, panels_bytes_ = 0;
    mutable std::mutex mutex_;
    mutable std::unique_ptr<Workspace> idle_;  // kept for the next call
};

}  // namespace nnsym::orbit
