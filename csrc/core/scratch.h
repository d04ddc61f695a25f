// SPDX-License-Identifier: MIT
// Memory that a call needs while it runs, freed at its end.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace nnsym {

struct Free {
    void operator()(void* p) const { std::free(p); }
};
typedef std::unique_ptr<char, Free> Scratch;

// Aligned to a cache line; throws std::bad_alloc.
inline Scratch scratch(std::int64_t bytes) {
    Scratch memory(static_cast<char*>(std::aligned_alloc(64, std::size_t((bytes + 63) / 64 * 64 + 64))));
    if (!memory) throw std::bad_alloc();
    return memory;
}

// Bytes from one worker's part to the next one's: a distance that is no power of two.
inline std::int64_t worker_bytes(std::int64_t bytes) {
    return (bytes + 4095) / 4096 * 4096 + 192;
}

}  // namespace nnsym
