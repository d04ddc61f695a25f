// SPDX-License-Identifier: MIT
// The part of CUDA that csrc/cuda uses, on the CPU: a block's threads are fibers that take turns at barriers and warp
// operations. Blocks run one after another. It shows wrong results, accesses out of bounds (with the address
// sanitizer), barriers that not all threads reach, and, by running threads in several orders, races between barriers.
// It shows nothing of speed, and nothing of memory ordering between blocks.
#pragma once
#include <math.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static
#define __constant__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) alignas(n)
#define __restrict__ __restrict

// --- types

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// --- runtime

typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9,
                   cudaErrorLaunchFailure = 719 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
                      cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81, cudaDevAttrL2CacheSize = 38 };

namespace emulation {

struct Thread {
    uint3 index;
    unsigned lane, warp;
};
extern Thread* current;
extern uint3 block_index;
extern dim3 block_size, grid_size;

// forward (0), reverse (1), or a new random order at every turn (2 and more: the seed).
void set_order(std::uint64_t order);

cudaError_t launch(dim3 grid, dim3 block, std::size_t shared, const std::function<void()>& kernel);
const char* last_error();
unsigned char* shared_memory();

void block_barrier();
void warp_barrier(unsigned mask);
// The 8 bytes that a lane of this warp left; between two warp barriers.
std::uint64_t& slot(unsigned lane);
void copy_async(void* to, const void* from, int bytes);
void copy_commit();
void copy_wait(int pending);

template <class V>
V exchange(unsigned mask, V value, unsigned source) {
    static_assert(sizeof(V) <= 8);
    std::memcpy(&slot(current->lane), &value, sizeof(V));
    warp_barrier(mask);
    // What CUDA leaves undefined, the value of a lane outside the mask, is made conspicuous.
    V result;
    std::memset(&result, 0xff, sizeof(V));
    if (mask >> source & 1) std::memcpy(&result, &slot(source), sizeof(V));
    warp_barrier(mask);
    return result;
}

}  // namespace emulation

#define threadIdx (::emulation::current->index)
#define blockIdx (::emulation::block_index)
#define blockDim (::emulation::block_size)
#define gridDim (::emulation::grid_size)
constexpr int warpSize = 32;

inline cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device ? cudaErrorInvalidValue : cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { *count = 1; return cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
    *value = what == cudaDevAttrMultiProcessorCount ? 3 : what == cudaDevAttrL2CacheSize ? 50 << 20
             : what == cudaDevAttrMaxSharedMemoryPerMultiprocessor ? 228 << 10 : 227 << 10;
    return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t code) {
    return code == cudaErrorLaunchFailure ? emulation::last_error()
           : code == cudaSuccess ? "no error" : code == cudaErrorInvalidValue ? "invalid argument"
           : "invalid configuration argument";
}
inline cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t) {
    std::memset(p, value, bytes);
    return cudaSuccess;
}
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
}

// --- in kernels: barriers, warps, atomics

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::warp_barrier(mask); }
inline void __threadfence() {}
inline void __threadfence_block() {}
template <class V>
V __shfl_sync(unsigned mask, V value, int source, int width = 32) {
    const unsigned lane = emulation::current->lane;
    return emulation::exchange(mask, value, (lane & ~unsigned(width - 1)) | (unsigned(source) & unsigned(width - 1)));
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int bits, int width = 32) {
    const unsigned lane = emulation::current->lane, other = lane ^ unsigned(bits);
    return emulation::exchange(mask, value, (other ^ lane) & ~unsigned(width - 1) & 31 ? lane : other);
}
template <class V>
V __shfl_up_sync(unsigned mask, V value, unsigned by, int width = 32) {
    const unsigned lane = emulation::current->lane;
    return emulation::exchange(mask, value, (lane & unsigned(width - 1)) < by ? lane : lane - by);
}
template <class V>
V __shfl_down_sync(unsigned mask, V value, unsigned by, int width = 32) {
    const unsigned lane = emulation::current->lane;
    return emulation::exchange(mask, value, (lane & unsigned(width - 1)) + by >= unsigned(width) ? lane : lane + by);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned result = 0;
    emulation::slot(emulation::current->lane) = predicate != 0;
    emulation::warp_barrier(mask);
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1 && emulation::slot(lane)) result |= 1u << lane;
    emulation::warp_barrier(mask);
    return result;
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
    emulation::slot(emulation::current->lane) = value;
    emulation::warp_barrier(mask);
    unsigned result = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) result = std::max(result, unsigned(emulation::slot(lane)));
    emulation::warp_barrier(mask);
    return result;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
int __syncthreads_or(int predicate);
int __syncthreads_and(int predicate);
int __syncthreads_count(int predicate);

template <class V>
V atomicAdd(V* p, V value) {
    const V before = *p;
    *p = before + value;
    return before;
}
inline unsigned atomicAdd(unsigned* p, int value) { return atomicAdd(p, unsigned(value)); }
inline unsigned long long atomicAdd(unsigned long long* p, int value) {
    return atomicAdd(p, static_cast<unsigned long long>(value));
}
template <class V>
V atomicMax(V* p, V value) {
    const V before = *p;
    *p = before < value ? value : before;
    return before;
}
template <class V>
V atomicOr(V* p, V value) {
    const V before = *p;
    *p = before | value;
    return before;
}
template <class V>
V atomicCAS(V* p, V expected, V value) {
    const V before = *p;
    if (before == expected) *p = value;
    return before;
}

// --- numbers

template <class V>
V __ldg(const V* p) { return *p; }
template <class V>
V __ldcs(const V* p) { return *p; }
template <class V>
void __stcs(V* p, V value) { *p = value; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((std::uint64_t(a) * b) >> 32); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __ffs(int x) { return x ? std::countr_zero(unsigned(x)) + 1 : 0; }
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
    return r;
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1 / a; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752440f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); }
inline void sincospi(double x, double* s, double* c) {
    const double r = x - 2 * floor(x / 2);
    const long double a = 3.14159265358979323846264338327950288L * r;
    *s = double(sinl(a)), *c = double(cosl(a));
}
inline void sincospif(float x, float* s, float* c) {
    double u, v;
    sincospi(double(x), &u, &v);
    *s = float(u), *c = float(v);
}
using std::max;
using std::min;
