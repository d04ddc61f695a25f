// SPDX-License-Identifier: MIT
// Parts of rows that one thread writes: V columns of G rows. Always (w * row) * column, as on the CPU.
#pragma once
#include "orbit_elements.cuh"

namespace nnsym::cuda {
namespace {

// Rows that a panel interleaves: 16 bytes, or 8 in 16-bit storage, at one gathered column.
template <class S>
constexpr int kRows = sizeof(S) == 8 ? 2 : 4;
template <class S>
constexpr int kPackColumns = int(16 / sizeof(S));

// V neighbours, at an address that is aligned to 16 bytes or to all of them.
template <int V, class X>
__device__ __forceinline__ void load_vector(const X* p, X (&x)[V]) {
    constexpr int bytes = V * int(sizeof(X));
    if constexpr (bytes % 16 == 0) {
#pragma unroll
        for (int i = 0; i < bytes / 16; ++i) {
            const Pack<X> pack = load_pack(p + i * Pack<X>::count);
#pragma unroll
            for (int j = 0; j < Pack<X>::count; ++j) x[i * Pack<X>::count + j] = pack.at[j];
        }
    } else {
        struct alignas(bytes) Vector {
            X at[V];
        };
        const Vector v = *reinterpret_cast<const Vector*>(p);
#pragma unroll
        for (int j = 0; j < V; ++j) x[j] = v.at[j];
    }
}

template <class S, int V>
__device__ __forceinline__ void store_vector(S* p, const S (&x)[V]) {
    if constexpr (V * sizeof(S) == 16) {
        Pack<S> pack;
#pragma unroll
        for (int j = 0; j < V; ++j) pack.at[j] = x[j];
        store_pack(p, pack);
    } else {
        static_assert(V == 1);
        *p = x[0];
    }
}

template <class S, class T>
__device__ __forceinline__ S product(S w, T row, T column) {
    return narrow<S>((T(widen(w)) * row) * column);
}

// The columns' indices and factors from a record.
template <class T, int V>
__device__ __forceinline__ void load_columns(const char* record, std::int64_t index_at, std::int64_t factor_at,
                                             std::int32_t first, std::int32_t (&index)[V], T (&column)[V]) {
#pragma unroll
    for (int v = 0; v < V; ++v) column[v] = 1;
    if (factor_at >= 0) load_vector<V>(reinterpret_cast<const T*>(record + factor_at) + first, column);
    if (index_at < 0) {
#pragma unroll
        for (int v = 0; v < V; ++v) index[v] = first + v;
        return;
    }
    load_vector<V>(reinterpret_cast<const std::int32_t*>(record + index_at) + first, index);
#pragma unroll
    for (int v = 0; v < V; ++v) {
        if (index[v] < 0) column[v] = not_a_number<T>();
        index[v] = unit_of(index[v]);
    }
}

// G interleaved rows of a panel, gathered, to out[r] for the first `count` of them.
template <class S, class T, int V, int G>
__device__ __forceinline__ void write_gathered(const S* panel, const std::int32_t (&index)[V], const T (&column)[V],
                                               const T (&row)[G], S* const (&out)[G], int count) {
    struct alignas(G * sizeof(S)) Across {
        S at[G];
    };
    Across w[V];
#pragma unroll
    for (int v = 0; v < V; ++v) w[v] = reinterpret_cast<const Across*>(panel)[index[v]];
#pragma unroll
    for (int r = 0; r < G; ++r) {
        if (r >= count) break;
        S x[V];
#pragma unroll
        for (int v = 0; v < V; ++v) x[v] = product(w[v].at[r], row[r], column[v]);
        store_vector(out[r], x);
    }
}

}  // namespace
}  // namespace nnsym::cuda
