// SPDX-License-Identifier: MIT
// Elements of one sample by a team of threads: parts that block and warp share.
#pragma once
#include "orbit.h"
#include "random.cuh"
#include "storage.cuh"

namespace nnsym::cuda {
namespace {

struct BlockTeam {
    int rank = int(threadIdx.x), size = int(blockDim.x);
    __device__ __forceinline__ void sync() const { __syncthreads(); }
    __device__ __forceinline__ bool any(bool x) const { return __syncthreads_or(x); }
};
struct WarpTeam {
    int rank = int(threadIdx.x) % kWarp;
    static constexpr int size = kWarp;
    __device__ __forceinline__ void sync() const { __syncwarp(); }
    __device__ __forceinline__ bool any(bool x) const {
        __syncwarp();
        return __any_sync(kAll, x);
    }
};

__device__ __forceinline__ std::uint32_t draw_index(orbit::DrawPart part, std::int64_t block) {
    return std::uint32_t(part) << orbit::kDrawShift | std::uint32_t(block);
}

template <class T>
__device__ __forceinline__ T not_a_number() {
    return T(__uint_as_float(0x7fc00000u));
}

// What is no permutation is recorded as ~u for every unit u: everybody reads from his own place, and multiplies by NaN.
__device__ __forceinline__ std::int32_t unit_of(std::int32_t entry) {
    return entry < 0 ? ~entry : entry;
}

template <class T>
__device__ __forceinline__ T power_of(T a, double power) {
    if (power == 1) return a;
    if (power == 2) return a * a;
    const bool negative = a < 0 && fmod(power, 2.0) != 0;
    const T magnitude = T(pow(double(a < 0 ? -a : a), power));
    return negative ? -magnitude : magnitude;
}

template <class Team>
__device__ void given_permutation(const Team& team, const std::int32_t* given, std::int32_t n, std::int32_t* perm,
                                  std::int32_t* pos) {
    bool wrong = false;
    for (std::int32_t u = team.rank; u < n; u += team.size) pos[u] = given ? -1 : u;
    team.sync();
    for (std::int32_t u = team.rank; u < n; u += team.size) {
        const std::int32_t p = given ? given[u] : u;
        perm[u] = p;
        if (!given) continue;
        wrong = wrong || p < 0 || p >= n || atomicCAS(&pos[p < 0 || p >= n ? 0 : p], -1, u) != -1;
    }
    if (team.any(wrong)) {
        for (std::int32_t u = team.rank; u < n; u += team.size) perm[u] = pos[u] = ~u;
        team.sync();
    }
}

// Entry j of a column whose unit is u = j / repeat.
__device__ __forceinline__ std::int32_t index_entry(const std::int32_t* perm, std::int32_t u, std::int32_t rest,
                                                    std::int32_t repeat) {
    const std::int32_t p = perm[u], at = unit_of(p) * repeat + rest;
    return p < 0 ? ~at : at;
}
template <class T>
__device__ __forceinline__ T factor_entry(const T* value, const std::int32_t* pos, std::int32_t u, double power,
                                          bool dual) {
    const T f = power_of(value[pos ? unit_of(pos[u]) : u], power);
    return dual ? 1 / f : f;
}

}  // namespace
}  // namespace nnsym::cuda
