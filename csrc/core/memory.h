// SPDX-License-Identifier: MIT
// Memory for large results. A freshly mapped page costs more than the kernel that fills it, so blocks are aligned to
// huge pages, and a few freed ones are kept for results of the same size. The system may take kept memory back when it
// needs it, and a request that no kept block fits frees them all: what is kept never adds to the peak.
#pragma once
#include <cstdint>

namespace nnsym {

void* allocate(std::int64_t bytes);  // aligned to a cache line; null: no memory
void release(void* p, std::int64_t bytes);
void release_kept();

}  // namespace nnsym
