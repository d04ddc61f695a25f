// SPDX-License-Identifier: MIT
// Kernels that tests examine the emulation itself with. A thread's number in its block is t, lanes are t % 32.
#include "../bindings/bindings.h"
#include "../cuda/device.h"

namespace {

using namespace nnsym::cuda;

int thread() {
    return int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}

// Entries out[t]: what a kernel left, of one block unless it says otherwise.
struct Probe {
    const char* name;
    void (*kernel)(std::int64_t*);
};

// --- barriers

// Neighbours exchange numbers through shared memory; without the barrier the result depends on the order.
template <bool barrier>
void neighbours(std::int64_t* out) {
    auto* at = reinterpret_cast<std::int64_t*>(dynamic_shared());
    const int t = thread(), threads = int(blockDim.x * blockDim.y * blockDim.z);
    at[t] = 1000 * blockIdx.x + t;
    if constexpr (barrier) __syncthreads();
    out[blockIdx.x * threads + t] = at[(t + 1) % threads];
}

// Threads of odd number end at once: those that have ended are not waited for.
void ended(std::int64_t* out) {
    const int t = thread();
    out[t] = -1;
    if (t % 2) return;
    out[t] = __syncthreads_count(t % 4 == 0);
}

void missed_block_barrier(std::int64_t* out) {
    if (thread() < 8) __syncwarp(0xff);
    if (thread() != 3) __syncthreads();
    if (thread() == 3) __syncwarp(kAll);
    out[thread()] = 1;
}

void missed_warp_barrier(std::int64_t* out) {
    if (thread() != 5) __syncwarp(kAll);
    out[thread()] = 1;
}

void foreign_mask(std::int64_t* out) {
    __syncwarp(0xffff);
    out[thread()] = 1;
}

void votes(std::int64_t* out) {
    const int t = thread();
    out[t] = __syncthreads_or(t == 7) + 10 * __syncthreads_and(t < 100) + 100 * __syncthreads_and(t != 7) +
             1000 * __syncthreads_count(t % 3 == 0);
}

// --- warps

void shuffles(std::int64_t* out) {
    const int t = thread(), threads = int(blockDim.x);
    const std::int64_t value = 100 * (t / 32) + t % 32;
    out[t] = __shfl_sync(kAll, value, t / 32 + 3);
    out[threads + t] = __shfl_xor_sync(kAll, value, 5);
    out[2 * threads + t] = __shfl_up_sync(kAll, value, 2, 8);
    out[3 * threads + t] = __shfl_down_sync(kAll, value, 3, 16);
}

void ballots(std::int64_t* out) {
    const int t = thread(), lane = t % 32;
    const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    out[t] = __ballot_sync(half, lane % 3 == 0) + (std::int64_t(__any_sync(kAll, lane == 31)) << 32) +
             (std::int64_t(__all_sync(kAll, lane != 31)) << 33);
}

// What a lane outside the mask holds is undefined: all bits are set.
void shuffle_from_outside(std::int64_t* out) {
    const int t = thread();
    out[t] = 0;
    if (t % 32 < 4) out[t] = __shfl_sync(0xf, std::int64_t(t), 9);
}

// --- memory

void shared_before_use(std::int64_t* out) {
    out[thread()] = reinterpret_cast<std::int64_t*>(dynamic_shared())[thread()];
}

void shared_overrun(std::int64_t* out) {
    out[thread()] = 0;
    if (thread() == 0) reinterpret_cast<std::int64_t*>(dynamic_shared())[blockDim.x] = 1;
}

// Two groups of copies: what has not been waited for has not arrived.
void copies(std::int64_t* out) {
    auto* at = reinterpret_cast<std::int64_t*>(dynamic_shared());
    const int t = thread(), threads = int(blockDim.x);
    out[2 * threads + 2 * t] = 10 + t, out[2 * threads + 2 * t + 1] = 20 + t;
    copy_async16(at + 4 * t, out + 2 * threads + 2 * t);
    copy_commit();
    copy_async4(at + 4 * t + 2, out + 2 * threads + 2 * t);
    copy_commit();
    copy_wait<1>();
    out[t] = at[4 * t] + at[4 * t + 1];
    out[threads + t] = at[4 * t + 2];
}

void misaligned_copy(std::int64_t* out) {
    copy_async16(dynamic_shared() + 8, out);
}

void counter(std::int64_t* out) {
    if (thread() == 0 && blockIdx.x == 0) out[1] = blockDim.y * 100 + gridDim.x;
    atomicAdd(out, std::int64_t(1));
}

// Blocks may be seen in any order: the last one to run leaves its number.
void last_block(std::int64_t* out) {
    out[0] = blockIdx.x;
}

constexpr Probe kProbes[] = {
    {"neighbours", neighbours<true>},
    {"neighbours without a barrier", neighbours<false>},
    {"ended", ended},
    {"missed block barrier", missed_block_barrier},
    {"missed warp barrier", missed_warp_barrier},
    {"foreign mask", foreign_mask},
    {"votes", votes},
    {"shuffles", shuffles},
    {"ballots", ballots},
    {"shuffle from outside", shuffle_from_outside},
    {"shared before use", shared_before_use},
    {"shared overrun", shared_overrun},
    {"copies", copies},
    {"misaligned copy", misaligned_copy},
    {"counter", counter},
    {"last block", last_block},
};

void probe(const std::string& name, py::array_t<std::int64_t, py::array::c_style> out, std::array<unsigned, 3> grid,
           std::array<unsigned, 3> block, std::size_t shared) {
    for (const Probe& probe : kProbes)
        if (name == probe.name) {
            launch(probe.name, probe.kernel, dim3(grid[0], grid[1], grid[2]), dim3(block[0], block[1], block[2]),
                   shared, nullptr, out.mutable_data());
            return;
        }
    throw std::invalid_argument("no probe of the name " + name);
}

}  // namespace

void bind_cuda_probe(py::module_& m) {
    m.def("probe", &probe, py::arg("name"), py::arg("out"), py::arg("grid"), py::arg("block"), py::arg("shared") = 0,
          "Runs a kernel of csrc/emulation/probe.cpp on `out`, an array of int64.");
}
