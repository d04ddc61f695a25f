// SPDX-License-Identifier: MIT
// What a device can do at most: benchmarks compare their kernels with it. Sizes are multiples of 16 bytes, addresses
// aligned to 16.
#pragma once
#include "device.h"

namespace nnsym::cuda::limits {

void write(void* p, std::size_t bytes, Stream stream);
void copy(void* to, const void* from, std::size_t bytes, Stream stream);

// Adds the sum of all 32-bit words, modulo 2^32, to *sum.
void read(const void* p, std::size_t bytes, std::uint32_t* sum, Stream stream);

// Independent fused multiply-adds in registers, `rounds` of them times kMultiplyAdds in each of `threads` threads (a
// multiple of 256). `sums` takes one number of a thread.
constexpr int kMultiplyAdds = 16 * 8;
void multiply_add(float* sums, std::int64_t threads, int rounds, Stream stream);
void multiply_add(double* sums, std::int64_t threads, int rounds, Stream stream);

}  // namespace nnsym::cuda::limits
