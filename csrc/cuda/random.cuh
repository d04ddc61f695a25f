// SPDX-License-Identifier: MIT
// Random numbers from counters, as csrc/cpu/random.inl: Philox words bit for bit, normals to a few ulp.
#pragma once
#include "device.h"

namespace nnsym::cuda {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011) of the counter (sample, site, draw).
__device__ __forceinline__ uint4 philox(std::uint64_t seed, std::uint64_t sample, std::uint32_t site,
                                        std::uint32_t draw) {
    std::uint32_t k0 = std::uint32_t(seed), k1 = std::uint32_t(seed >> 32);
    uint4 c = {std::uint32_t(sample), std::uint32_t(sample >> 32), site, draw};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const std::uint32_t high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
        const std::uint32_t high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
        c = {high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0};
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return c;
}

__device__ __forceinline__ std::uint32_t word(const uint4& words, int i) {
    return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// -ln u, sin and cos of 2 pi u for u = (x + 1/2) 2^-32.
template <class T>
__device__ __forceinline__ T log_uniform(std::uint32_t x) {
    if constexpr (sizeof(T) == 8) {
        return log((double(x) + 0.5) * 0x1p-32);
    } else {
        // Near one, u rounds to it: there ln u = log1p(u - 1), whose argument is exact.
        if (x >= 0x80000000u) return log1pf(-(float(~x) + 0.5f) * 0x1p-32f);
        return logf((float(x) + 0.5f) * 0x1p-32f);
    }
}
template <class T>
__device__ __forceinline__ void sincos_turn(std::uint32_t x, T& s, T& c) {
    if constexpr (sizeof(T) == 8) {
        sincospi((double(x) + 0.5) * 0x1p-31, &s, &c);
    } else {
        // In eighths of a turn about the nearest quarter, exact to a rounding of the small angle.
        const std::uint32_t quarter = (x + 0x20000000u) >> 30;
        const float angle = (float(std::int32_t(x - (quarter << 30))) + 0.5f) * 0x1p-31f;
        float u, v;
        sincospif(angle, &u, &v);
        s = quarter == 0 ? u : quarter == 1 ? v : quarter == 2 ? -u : -v;
        c = quarter == 0 ? v : quarter == 1 ? -u : quarter == 2 ? -v : u;
    }
}

// Two standard normals of two words.
template <class T>
__device__ __forceinline__ void box_muller(std::uint32_t x, std::uint32_t y, T& first, T& second) {
    T s, c;
    const T radius = sqrt(T(-2) * log_uniform<T>(x));
    sincos_turn(y, s, c);
    first = radius * c, second = radius * s;
}

}  // namespace nnsym::cuda
