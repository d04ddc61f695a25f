// SPDX-License-Identifier: MIT
// Memory for large results. A freshly mapped page costs more than the kernel that fills it, so blocks are aligned to
// huge pages, and freed ones are kept, up to a limit, for results of the same size. A request that no kept block fits
// frees them all first: what is kept never adds to the peak.
#pragma once
#include <cstdint>

namespace nnsym {

void* allocate(std::int64_t bytes);  // aligned to a cache line; null: no memory
void release(void* p, std::int64_t bytes);
void release_kept();

}  // namespace nnsym
