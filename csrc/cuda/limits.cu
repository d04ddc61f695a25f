// SPDX-License-Identifier: MIT
#include "limits.h"

#include <algorithm>

namespace nnsym::cuda::limits {
namespace {

constexpr int kThreads = 256;
constexpr int kAhead = 4;  // loads of a thread that are on their way together
constexpr int kChains = 8;

__device__ __forceinline__ std::size_t first() {
    return std::size_t(blockIdx.x) * (kThreads * kAhead) + threadIdx.x;
}
__device__ __forceinline__ std::size_t stride() {
    return std::size_t(gridDim.x) * (kThreads * kAhead);
}

__global__ void __launch_bounds__(kThreads) write_kernel(uint4* p, std::size_t count) {
    for (std::size_t i = first(); i < count; i += stride())
#pragma unroll
        for (int k = 0; k < kAhead; ++k)
            if (i + k * kThreads < count) store_streaming(p + i + k * kThreads, make_uint4(1, 2, 3, 4));
}

__global__ void __launch_bounds__(kThreads) copy_kernel(uint4* to, const uint4* from, std::size_t count) {
    for (std::size_t i = first(); i < count; i += stride()) {
        uint4 value[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k)
            if (i + k * kThreads < count) value[k] = __ldcs(from + i + k * kThreads);
#pragma unroll
        for (int k = 0; k < kAhead; ++k)
            if (i + k * kThreads < count) store_streaming(to + i + k * kThreads, value[k]);
    }
}

__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* p, std::size_t count, std::uint32_t* sum) {
    std::uint32_t mine = 0;
    for (std::size_t i = first(); i < count; i += stride()) {
        uint4 value[kAhead];
#pragma unroll
        for (int k = 0; k < kAhead; ++k)
            value[k] = i + k * kThreads < count ? __ldcs(p + i + k * kThreads) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < kAhead; ++k) mine += value[k].x + value[k].y + value[k].z + value[k].w;
    }
#pragma unroll
    for (int bits = kWarp / 2; bits; bits /= 2) mine += __shfl_xor_sync(kAll, mine, bits);
    if (threadIdx.x % kWarp == 0) atomicAdd(sum, mine);
}

template <class T>
__global__ void __launch_bounds__(kThreads) multiply_add_kernel(T* sums, int rounds, T factor, T summand) {
    const std::size_t thread = std::size_t(blockIdx.x) * kThreads + threadIdx.x;
    T chain[kChains];
#pragma unroll
    for (int k = 0; k < kChains; ++k) chain[k] = T(threadIdx.x + k);
    for (int round = 0; round < rounds; ++round)
#pragma unroll
        for (int i = 0; i < kMultiplyAdds; ++i) chain[i % kChains] = chain[i % kChains] * factor + summand;
    T sum = 0;
#pragma unroll
    for (int k = 0; k < kChains; ++k) sum += chain[k];
    sums[thread] = sum;
}

unsigned blocks(std::size_t count) {
    const std::size_t all = divide_up(count, std::size_t(kThreads) * kAhead);
    return unsigned(std::min(all, std::size_t(multiprocessors()) * 64));
}

template <class T>
void multiply_adds(T* sums, std::int64_t threads, int rounds, Stream stream) {
    launch("limits: multiply-adds", multiply_add_kernel<T>, unsigned(threads / kThreads), kThreads, 0, stream, sums,
           rounds, T(0.5), T(1));
}

}  // namespace

void write(void* p, std::size_t bytes, Stream stream) {
    launch("limits: write", write_kernel, blocks(bytes / 16), kThreads, 0, stream, static_cast<uint4*>(p), bytes / 16);
}
void copy(void* to, const void* from, std::size_t bytes, Stream stream) {
    launch("limits: copy", copy_kernel, blocks(bytes / 16), kThreads, 0, stream, static_cast<uint4*>(to),
           static_cast<const uint4*>(from), bytes / 16);
}
void read(const void* p, std::size_t bytes, std::uint32_t* sum, Stream stream) {
    launch("limits: read", read_kernel, blocks(bytes / 16), kThreads, 0, stream, static_cast<const uint4*>(p),
           bytes / 16, sum);
}
void multiply_add(float* sums, std::int64_t threads, int rounds, Stream stream) {
    multiply_adds(sums, threads, rounds, stream);
}
void multiply_add(double* sums, std::int64_t threads, int rounds, Stream stream) {
    multiply_adds(sums, threads, rounds, stream);
}

}  // namespace nnsym::cuda::limits
