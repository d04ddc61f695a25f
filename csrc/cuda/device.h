// SPDX-License-Identifier: MIT
// What device code and its launchers are written with. A build by nvcc takes the CUDA runtime; one by a C++ compiler
// takes csrc/emulation/cuda_runtime.h, where a block's threads are fibers, so that every kernel runs without a GPU.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

namespace nnsym::cuda {

typedef cudaStream_t Stream;

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;

// Throws std::runtime_error "operation: what CUDA says".
inline void check(cudaError_t code, const char* operation) {
    if (code == cudaSuccess) return;
    (void)cudaGetLastError();  // an error that does not stick is not reported again
    throw std::runtime_error(std::string(operation) + ": " + cudaGetErrorString(code));
}

// The device of the caller's tensors, for as long as this lives.
class OnDevice {
public:
    explicit OnDevice(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
        changed_ = device != before_;
    }
    ~OnDevice() {
        if (changed_) (void)cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

// Of the current device.
inline int attribute(cudaDeviceAttr what) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&value, what, device), "cudaDeviceGetAttribute");
    return value;
}
inline int multiprocessors() {
    return attribute(cudaDevAttrMultiProcessorCount);
}
inline std::size_t shared_limit() {  // bytes of dynamic shared memory that a block may ask for
    return std::size_t(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

#if !defined(NNSYM_EMULATION)
// So that a kernel may take so much dynamic shared memory beside its static one, on the current device. Never lowered:
// other threads launch it, and graphs hold it.
inline void allow_shared(const void* kernel, std::size_t shared, const char* operation) {
    if (shared <= 32 * 1024) return;
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    cudaFuncAttributes now{};
    check(cudaFuncGetAttributes(&now, kernel), operation);
    if (std::size_t(now.maxDynamicSharedSizeBytes) < shared)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)), operation);
}
#endif

// kernel<<<grid, block, shared, stream>>>(args...), checked. `shared`: bytes of dynamic shared memory. Nothing is
// launched for an empty grid.
template <class... P, class... A>
void launch(const char* operation, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared, Stream stream,
            A&&... args) {
    static_assert(sizeof...(P) == sizeof...(A), "as many arguments as parameters");
    if (!grid.x || !grid.y || !grid.z) return;
    std::tuple<std::decay_t<P>...> values(static_cast<std::decay_t<P>>(std::forward<A>(args))...);
#if defined(NNSYM_EMULATION)
    check(emulation::launch(grid, block, shared, [&] { std::apply(kernel, values); }), operation);
    (void)stream;
#else
    allow_shared(reinterpret_cast<const void*>(kernel), shared, operation);
    std::apply(
        [&](auto&... value) {
            void* pointers[] = {const_cast<void*>(static_cast<const void*>(&value))..., nullptr};
            check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared, stream),
                  operation);
        },
        values);
#endif
}

// Blocks of the kernel that one multiprocessor holds.
template <class... P>
int blocks_per_multiprocessor(void (*kernel)(P...), int threads, std::size_t shared) {
#if defined(NNSYM_EMULATION)
    (void)kernel, (void)threads, (void)shared;
    return 2;
#else
    allow_shared(reinterpret_cast<const void*>(kernel), shared, "cudaFuncSetAttribute");
    int blocks = 0;
    check(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, reinterpret_cast<const void*>(kernel), threads, shared),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
    return blocks;
#endif
}

template <class I, class J>
constexpr __host__ __device__ I divide_up(I a, J b) {
    return I((a + I(b) - 1) / I(b));
}

// --- in kernels; not for a host compiler, which takes this header in the bindings
#if defined(__CUDACC__) || defined(NNSYM_EMULATION)

// The block's dynamic shared memory, which begins at 16 bytes. In the emulation it begins each block as NaN.
__device__ __forceinline__ unsigned char* dynamic_shared() {
#if defined(NNSYM_EMULATION)
    return emulation::shared_memory();
#else
    extern __shared__ __align__(16) unsigned char nnsym_dynamic_shared[];
    return nnsym_dynamic_shared;
#endif
}

// Past the caches, for results that nobody reads soon. V: 1, 2, 4, 8 or 16 bytes, aligned to their size.
template <class V>
__device__ __forceinline__ void store_streaming(V* p, V value) {
#if defined(NNSYM_EMULATION)
    *p = value;
#else
    __stcs(p, value);
#endif
}

// 16 bytes from global to shared memory that arrive after copy_wait(); both addresses aligned to 16.
__device__ __forceinline__ void copy_async16(void* shared, const void* global) {
#if defined(NNSYM_EMULATION)
    emulation::copy_async(shared, global, 16);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(unsigned(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
#endif
}
// 4 bytes likewise.
__device__ __forceinline__ void copy_async4(void* shared, const void* global) {
#if defined(NNSYM_EMULATION)
    emulation::copy_async(shared, global, 4);
#else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;\n" ::"r"(unsigned(__cvta_generic_to_shared(shared))),
                 "l"(global)
                 : "memory");
#endif
}
__device__ __forceinline__ void copy_commit() {
#if defined(NNSYM_EMULATION)
    emulation::copy_commit();
#else
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
// Until at most `pending` of this thread's newest groups are on their way. A barrier must follow before others read.
template <int pending = 0>
__device__ __forceinline__ void copy_wait() {
#if defined(NNSYM_EMULATION)
    emulation::copy_wait(pending);
#else
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
#endif
}

#endif

}  // namespace nnsym::cuda
