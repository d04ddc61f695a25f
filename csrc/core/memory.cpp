// SPDX-License-Identifier: MIT
#include "memory.h"

#include <cstdlib>
#include <mutex>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nnsym {
namespace {

constexpr std::int64_t kHugePage = 2 << 20, kPage = 4 << 10;
constexpr std::int64_t kKept = std::int64_t(1) << 30;  // bytes kept at most

struct Kept {
    void* p;
    std::int64_t bytes;
};
std::mutex mutex;
std::vector<Kept>& kept = *new std::vector<Kept>;  // outlives results that are freed at exit
std::int64_t kept_bytes = 0;

std::int64_t rounded(std::int64_t bytes) {
    const std::int64_t unit = bytes >= kHugePage ? kPage : 64;
    return bytes ? (bytes + unit - 1) / unit * unit : unit;
}

void drop_all() {
    for (const Kept& block : kept) std::free(block.p);
    kept.clear();
    kept_bytes = 0;
}

}  // namespace

void* allocate(std::int64_t bytes) {
    const std::int64_t size = rounded(bytes);
    if (size < kHugePage) return std::aligned_alloc(64, std::size_t(size));
    {
        std::lock_guard<std::mutex> lock(mutex);
        std::size_t best = kept.size();
        for (std::size_t i = 0; i < kept.size(); ++i)
            if (kept[i].bytes >= size && kept[i].bytes - size <= size / 8 &&
                (best == kept.size() || kept[i].bytes < kept[best].bytes))
                best = i;
        if (best < kept.size()) {
            void* p = kept[best].p;
            kept_bytes -= kept[best].bytes;
            kept.erase(kept.begin() + std::ptrdiff_t(best));
            return p;
        }
        drop_all();
    }
    void* p = nullptr;
    if (posix_memalign(&p, std::size_t(kHugePage), std::size_t(size))) return nullptr;
#if defined(__linux__)
    // Whole huge pages only: the last one would take memory that the result does not need.
    madvise(p, std::size_t(size / kHugePage * kHugePage), MADV_HUGEPAGE);
#endif
    return p;
}

void release(void* p, std::int64_t bytes) {
    const std::int64_t size = rounded(bytes);
    if (size >= kHugePage) {
        std::lock_guard<std::mutex> lock(mutex);
        if (kept_bytes + size <= kKept) {
            kept.push_back({p, size});
            kept_bytes += size;
            return;
        }
    }
    std::free(p);
}

void release_kept() {
    std::lock_guard<std::mutex> lock(mutex);
    drop_all();
}

}  // namespace nnsym
