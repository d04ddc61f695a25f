// SPDX-License-Identifier: MIT
// Products of Householder reflections with the columns of the result in registers; nnsym_fast/reference/dense.py is the
// definition. A column of N = R P entries lies in P neighbouring lanes, R entries in each, in quads: entry 4 (P i + p)
// + e is number 4 i + e of lane p. A matrix of n units lies in the corner behind `lead` entries, a multiple of four,
// and is followed by less than four. The vectors v_k lie in shared memory, in rows from the block of 4 P entries on
// that k lies in; what is before entry k is zero, so that v_k leaves the columns before k as they are.
#pragma once
#include <cstring>

#include "../core/dense.h"
#include "random.cuh"
#include "storage.cuh"

namespace nnsym::cuda::haar {

using dense::Draw;

template <class T>
struct alignas(16) Four {
    T at[4];
};
template <class T>
__device__ __forceinline__ Four<T> load_four(const T* p) {
    Four<T> four;
    if constexpr (sizeof(T) == 4) {
        const float4 a = *reinterpret_cast<const float4*>(p);
        four.at[0] = a.x, four.at[1] = a.y, four.at[2] = a.z, four.at[3] = a.w;
    } else {
        const double2 a = *reinterpret_cast<const double2*>(p), b = *reinterpret_cast<const double2*>(p + 2);
        four.at[0] = a.x, four.at[1] = a.y, four.at[2] = b.x, four.at[3] = b.y;
    }
    return four;
}
template <class T>
__device__ __forceinline__ void store_four(T* p, const Four<T>& four) {
    if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<float4*>(p) = make_float4(four.at[0], four.at[1], four.at[2], four.at[3]);
    } else {
        *reinterpret_cast<double2*>(p) = make_double2(four.at[0], four.at[1]);
        *reinterpret_cast<double2*>(p + 2) = make_double2(four.at[2], four.at[3]);
    }
}
// Past the caches.
template <class T>
__device__ __forceinline__ void stream_four(T* p, const Four<T>& four) {
    if constexpr (sizeof(T) == 4) {
        store_streaming(reinterpret_cast<float4*>(p), make_float4(four.at[0], four.at[1], four.at[2], four.at[3]));
    } else {
        store_streaming(reinterpret_cast<double2*>(p), make_double2(four.at[0], four.at[1]));
        store_streaming(reinterpret_cast<double2*>(p) + 1, make_double2(four.at[2], four.at[3]));
    }
}

// Rows of vectors: those of block s (rows s B .. s B + B - 1, B = 4 P) have N - s B entries and begin at begin(s).
template <int R, int P>
struct Rows {
    static constexpr int Q = R / 4, B = 4 * P, N = R * P;
    static constexpr __host__ __device__ int begin(int s) { return B * B * (s * Q - s * (s - 1) / 2); }
    static constexpr __host__ __device__ int width(int s) { return (Q - s) * B; }
    static constexpr __host__ __device__ int row(int k) { return begin(k / B) + k % B * width(k / B); }
};

__host__ __device__ constexpr int lead(int size, int n) {
    return size - (n + 3) / 4 * 4;
}

// Philox block of the first row of the Gaussian matrix number `which` of a head.
__device__ __forceinline__ unsigned gaussian_block(const Draw& draw, std::int64_t head, int which) {
    return dense::kMatrixPart + unsigned(head * draw.head_blocks) + unsigned((draw.pairs + 3) / 4) +
           unsigned(which) * unsigned(draw.haar) * unsigned((draw.haar + 3) / 4);
}
template <class T>
__device__ __forceinline__ Four<T> four_normals(const Draw& draw, std::uint64_t sample, unsigned block) {
    const uint4 words = philox(draw.seed, sample, draw.site, block);
    Four<T> four;
    box_muller(words.x, words.y, four.at[0], four.at[1]);
    box_muller(words.z, words.w, four.at[2], four.at[3]);
    return four;
}
template <class T>
__device__ __forceinline__ T one_normal(const Draw& draw, std::uint64_t sample, unsigned block, int word) {
    const Four<T> four = four_normals<T>(draw, sample, block);
    return word == 0 ? four.at[0] : word == 1 ? four.at[1] : word == 2 ? four.at[2] : four.at[3];
}
// log s of unit `unit` of all heads.
template <class T>
__device__ __forceinline__ T log_scale(const Draw& draw, std::uint64_t sample, std::int64_t unit) {
    return T(draw.scale_std) * one_normal<T>(draw, sample,
                                             (unsigned(orbit::kScale) << orbit::kDrawShift) + unsigned(unit / 4),
                                             int(unit % 4));
}

// Rows first .. last - 1 (multiples of four, from the lead on) of Gaussian vectors, by threads begin, begin + step,
// ...; v begins with the first of them. A row of the Gaussian matrix has whole blocks of four numbers.
template <class T, int R, int P>
__device__ __forceinline__ void gaussian_rows(const Draw& draw, std::uint64_t sample, unsigned block, int n, int first,
                                              int last, T* v, int begin, int step) {
    typedef Rows<R, P> Layout;
    constexpr int N = Layout::N;
    const int front = lead(N, n), row_blocks = (n + 3) / 4, base = Layout::row(first);
    // Four rows are a group; its quads are numbered with the row in front.
    int group = first / 4, quad = begin;
    while (4 * group < last) {
        const int s = group / P, many = 4 * (N / 4 - s * P);
        if (quad >= many) {
            quad -= many, ++group;
            continue;
        }
        const int row = 4 * group + quad % 4, at = s * P + quad / 4;  // at: quad of the row, from its entry 0
        Four<T> four;
#pragma unroll
        for (int e = 0; e < 4; ++e) four.at[e] = 0;
        if (at >= row / 4 && row - front < n) {
            const Four<T> drawn = four_normals<T>(
                draw, sample, block + unsigned(row - front) * unsigned(row_blocks) + unsigned(at - front / 4));
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int entry = 4 * at + e;
                if (entry >= row && entry - front < n) four.at[e] = drawn.at[e];
            }
        }
        store_four(v + Layout::row(row) - base + 4 * (at - s * P), four);
        quad += step;
    }
}

// From |x|^2 of a Gaussian vector and its first entry, which becomes that of v: tau = 2 / |v|^2.
template <class T>
__device__ __forceinline__ T reflection(T square, T& first) {
    const T norm = sqrt(square), size = fabs(first);
    first = first < 0 ? first - norm : first + norm;
    return T(1) / (norm * norm + size * norm);
}

// A lane's part of a column through the reflections last - 1 .. first; v begins with row `base`.
template <class T, int R, int P>
__device__ __forceinline__ void reflect(T (&column)[R], const T* v, const T* tau, int first, int last, int base,
                                        int part) {
    typedef Rows<R, P> Layout;
    constexpr int Q = Layout::Q, B = Layout::B;
    constexpr bool kKeep = sizeof(T) == 4 || R <= 16;  // the vector stays in registers between its two uses
    const T* const from = v - Layout::row(base) + 4 * part;
#pragma unroll
    for (int s = Q - 1; s >= 0; --s) {
        const int stop = first > s * B ? first : s * B;
#pragma unroll 1
        for (int k = (last < (s + 1) * B ? last : (s + 1) * B) - 1; k >= stop; --k) {
            const T* const row = from + Layout::begin(s) + (k - s * B) * Layout::width(s);
            Four<T> kept[kKeep ? Q : 1];
            T sum[4] = {0, 0, 0, 0};
#pragma unroll
            for (int i = s; i < Q; ++i) {
                const Four<T> four = load_four(row + (i - s) * B);
                if (kKeep) kept[kKeep ? i : 0] = four;
#pragma unroll
                for (int e = 0; e < 4; ++e) sum[e] = fma(four.at[e], column[4 * i + e], sum[e]);
            }
            T product = (sum[0] + sum[1]) + (sum[2] + sum[3]);
#pragma unroll
            for (int d = 1; d < P; d *= 2) product += __shfl_xor_sync(kAll, product, d);
            product *= -tau[k];
#pragma unroll
            for (int i = s; i < Q; ++i) {
                const Four<T> four = kKeep ? kept[kKeep ? i : 0] : load_four(row + (i - s) * B);
#pragma unroll
                for (int e = 0; e < 4; ++e) column[4 * i + e] = fma(four.at[e], product, column[4 * i + e]);
            }
        }
    }
}

// Whether the reflection of row k, with its sign, has determinant -1; `negative`: its vector's first entry.
__device__ __forceinline__ bool turns(int n, int k, bool negative) {
    return !((n - k) % 2 && !negative);
}

}  // namespace nnsym::cuda::haar
