// SPDX-License-Identifier: MIT
// One matrix of up to D x D numbers held by the registers of G threads, a group: products of matrices that lie in
// shared memory, reductions over the group, and copies to and from memory of several layouts.
//
// Operands lie in shared memory by rows of S numbers, complex numbers as pairs; rows end 16 bytes past a multiple of
// the banks, so that 16-byte reads of neighbouring rows meet no bank twice. A thread's rows are GR apart and its
// columns come in vectors GC apart, so a group's reads of one row have no gaps. What lies past the rows and columns of
// a smaller matrix may hold anything: no product reads it as an inner index, and no reduction counts it.
#pragma once
#include "device.h"
#include "wilson_math.cuh"

namespace nnsym::cuda {
namespace {

// --- numbers

template <class T, int n>
struct alignas(n * sizeof(T)) Vector {
    T at[n];
};
template <int n, class T>
__device__ __forceinline__ Vector<T, n> load(const T* p) {
    return *reinterpret_cast<const Vector<T, n>*>(p);
}
template <int n, class T>
__device__ __forceinline__ void store(T* p, const Vector<T, n>& x) {
    *reinterpret_cast<Vector<T, n>*>(p) = x;
}

// --- shapes

// Tiles of R x C numbers (pairs where F is 2) in GR x GC threads.
template <class T_, int F_, int R_, int C_, int GR_, int GC_>
struct Shape {
    typedef T_ T;
    static constexpr int F = F_, R = R_, C = C_, GR = GR_, GC = GC_;
    static constexpr int D = R * GR, G = GR * GC, N = R * C * F;
    static constexpr int kPack = int(16 / sizeof(T));  // numbers of 16 bytes
    static constexpr int VC = C % 4 == 0 && 4 * F <= kPack ? 4 : C % 2 == 0 && 2 * F <= kPack ? 2 : 1;  // columns
    static constexpr int V = VC * F;                                                // numbers of a vector
    static constexpr int K = kPack / F;                                             // entries of 16 bytes
    static constexpr int S = D * F + kPack, M = D * S;                              // numbers
    static constexpr int W = N % kPack == 0 ? kPack : N % 2 == 0 ? 2 : 1;           // numbers, in slots
    static constexpr int kThreads = G < kWarp ? kWarp : G, kGroups = kThreads / G;  // of a block
    static constexpr int kReduction = G > kWarp ? (G / kWarp) * D : 0;              // numbers of a block
    static_assert(D == C * GC && D % 8 == 0 && (G & (G - 1)) == 0 && GC <= kWarp);
};

template <class S>
struct Tile {
    typename S::T at[S::N];
};

template <class Sh>
struct Group {
    typedef typename Sh::T T;
    typedef nnsym::cuda::Tile<Sh> Tile;
    static constexpr int F = Sh::F, R = Sh::R, C = Sh::C, GR = Sh::GR, GC = Sh::GC, G = Sh::G, N = Sh::N, S = Sh::S;
    static constexpr int V = Sh::V, VC = Sh::VC, W = Sh::W;

    int thread, rg, cg;  // within the group
    unsigned mask;       // of the group's lanes
    T* reduction;        // shared, of groups larger than a warp

    __device__ __forceinline__ explicit Group(T* shared)
        : thread(int(threadIdx.x) % G), rg(thread / GC), cg(thread % GC), mask(kAll), reduction(shared) {
        if constexpr (G < kWarp) mask = ((1u << G) - 1) << (int(threadIdx.x) / G * G);
    }
    __device__ __forceinline__ void sync() const {
        if constexpr (G <= kWarp)
            __syncwarp(mask);
        else
            __syncthreads();
    }
    __device__ __forceinline__ int row(int r) const { return rg + r * GR; }
    __device__ __forceinline__ int column(int c) const { return (c / VC * GC + cg) * VC + c % VC; }

    // --- the tile

    static __device__ __forceinline__ void clear(Tile& x) {
#pragma unroll
        for (int e = 0; e < N; ++e) x.at[e] = T(0);
    }
    static __device__ __forceinline__ void add(Tile& x, T factor, const Tile& y) {
#pragma unroll
        for (int e = 0; e < N; ++e) x.at[e] += factor * y.at[e];
    }
    static __device__ __forceinline__ void scale(Tile& x, T factor) {
#pragma unroll
        for (int e = 0; e < N; ++e) x.at[e] *= factor;
    }
    __device__ __forceinline__ void add_identity(Tile& x, T factor) const {
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < C; ++c)
                if (row(r) == column(c)) x.at[(r * C + c) * F] += factor;
    }

    // acc += a b, or acc -= a b, of inner columns and rows; both in shared memory.
    template <bool Minus = false>
    __device__ __forceinline__ void multiply(Tile& acc, const T* a, const T* b, int inner) const {
        const T* pa = a + rg * S;
        const T* pb = b + cg * V;
        int k = 0;
#pragma unroll 1
        for (; k + Sh::K <= inner; k += Sh::K) {
            Vector<T, Sh::kPack> x[R];
#pragma unroll
            for (int r = 0; r < R; ++r) x[r] = load<Sh::kPack>(pa + r * (GR * S) + k * F);
#pragma unroll
            for (int i = 0; i < Sh::K; ++i) {
                T left[R][F];
#pragma unroll
                for (int r = 0; r < R; ++r)
#pragma unroll
                    for (int f = 0; f < F; ++f) left[r][f] = x[r].at[i * F + f];
                rank_one<Minus>(acc, left, pb + (k + i) * S);
            }
        }
        if constexpr (Sh::K > 1) {
#pragma unroll 1
            for (; k < inner; ++k) {
                T left[R][F];
#pragma unroll
                for (int r = 0; r < R; ++r)
#pragma unroll
                    for (int f = 0; f < F; ++f) left[r][f] = pa[r * (GR * S) + k * F + f];
                rank_one<Minus>(acc, left, pb + k * S);
            }
        }
    }
    template <bool Minus>
    static __device__ __forceinline__ void rank_one(Tile& acc, const T (&left)[R][F], const T* right) {
        Vector<T, V> y[C / VC];
#pragma unroll
        for (int v = 0; v < C / VC; ++v) y[v] = load<V>(right + v * (GC * V));
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < C; ++c) {
                T* to = &acc.at[(r * C + c) * F];
                const T* q = &y[c / VC].at[c % VC * F];
                const T re = Minus ? -left[r][0] : left[r][0];
                to[0] += re * q[0];
                if constexpr (F == 2) {
                    const T im = Minus ? -left[r][1] : left[r][1];
                    to[0] -= im * q[1];
                    to[1] += re * q[1];
                    to[1] += im * q[0];
                }
            }
    }

    // --- operands in shared memory: each thread its own entries

    __device__ __forceinline__ void put(T* operand, const Tile& x) const {
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int v = 0; v < C / VC; ++v) {
                Vector<T, V> y;
#pragma unroll
                for (int e = 0; e < V; ++e) y.at[e] = x.at[(r * C + v * VC) * F + e];
                store<V>(operand + row(r) * S + (v * GC + cg) * V, y);
            }
    }
    __device__ __forceinline__ void get(Tile& x, const T* operand) const {
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int v = 0; v < C / VC; ++v) {
                const Vector<T, V> y = load<V>(operand + row(r) * S + (v * GC + cg) * V);
#pragma unroll
                for (int e = 0; e < V; ++e) x.at[(r * C + v * VC) * F + e] = y.at[e];
            }
    }
    // The conjugate transpose: not a thread's own entries.
    __device__ __forceinline__ void put_adjoint(T* operand, const Tile& x) const {
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < C; ++c) {
                T* p = operand + column(c) * S + row(r) * F;
                p[0] = x.at[(r * C + c) * F];
                if constexpr (F == 2) p[1] = -x.at[(r * C + c) * F + 1];
            }
    }

    // --- slots: a thread's entries, that no other thread reads, in shared or global memory

    __device__ __forceinline__ void save(T* slot, const Tile& x) const {
#pragma unroll
        for (int e = 0; e < N; e += W) {
            Vector<T, W> y;
#pragma unroll
            for (int i = 0; i < W; ++i) y.at[i] = x.at[e + i];
            store<W>(slot + e * G + thread * W, y);
        }
    }
    // x += factor slot.
    __device__ __forceinline__ void add_slot(Tile& x, T factor, const T* slot) const {
#pragma unroll
        for (int e = 0; e < N; e += W) {
            const Vector<T, W> y = load<W>(slot + e * G + thread * W);
#pragma unroll
            for (int i = 0; i < W; ++i) x.at[e + i] += factor * y.at[i];
        }
    }

    // --- matrices in global memory, rows x cols numbers in C order; a tile has zeros past them

    static __device__ __forceinline__ bool vectors(const T* p, int cols) {
        constexpr unsigned bytes = V * sizeof(T);
        return (reinterpret_cast<std::uintptr_t>(p) | std::uintptr_t(cols) * (F * sizeof(T))) % bytes == 0;
    }
    // x += factor p.
    __device__ __forceinline__ void add_matrix(Tile& x, T factor, const T* p, int rows, int cols) const {
        const bool whole = vectors(p, cols);
#pragma unroll
        for (int r = 0; r < R; ++r) {
            if (row(r) >= rows) continue;
            const T* q = p + std::int64_t(row(r)) * (cols * F);
#pragma unroll
            for (int v = 0; v < C / VC; ++v) {
                const int first = (v * GC + cg) * VC;
                T* to = &x.at[(r * C + v * VC) * F];
                if (whole) {
                    if (first >= cols) continue;
                    const Vector<T, V> y = load<V>(q + first * F);
#pragma unroll
                    for (int e = 0; e < V; ++e) to[e] += factor * y.at[e];
                } else {
#pragma unroll
                    for (int e = 0; e < V; ++e)
                        if (first + e / F < cols) to[e] += factor * q[first * F + e];
                }
            }
        }
    }
    __device__ __forceinline__ void fetch(Tile& x, const T* p, int rows, int cols) const {
        clear(x);
        add_matrix(x, T(1), p, rows, cols);
    }
    __device__ __forceinline__ void write(T* p, const Tile& x, int rows, int cols) const {
        const bool whole = vectors(p, cols);
#pragma unroll
        for (int r = 0; r < R; ++r) {
            if (row(r) >= rows) continue;
            T* q = p + std::int64_t(row(r)) * (cols * F);
#pragma unroll
            for (int v = 0; v < C / VC; ++v) {
                const int first = (v * GC + cg) * VC;
                const T* from = &x.at[(r * C + v * VC) * F];
                if (whole) {
                    if (first >= cols) continue;
                    Vector<T, V> y;
#pragma unroll
                    for (int e = 0; e < V; ++e) y.at[e] = from[e];
                    store<V>(q + first * F, y);
                } else {
#pragma unroll
                    for (int e = 0; e < V; ++e)
                        if (first + e / F < cols) q[first * F + e] = from[e];
                }
            }
        }
    }
    // To an operand in shared memory, arriving after copy_wait() and sync(). Rows and columns past d stay as they are.
    __device__ __forceinline__ void copy_to(T* operand, const T* p, int d) const {
        const int bytes = d * int(F * sizeof(T));
        const bool wide = (reinterpret_cast<std::uintptr_t>(p) | unsigned(bytes)) % 16 == 0;
        for (int i = rg; i < d; i += GR) {
            const char* from = reinterpret_cast<const char*>(p) + std::int64_t(i) * bytes;
            char* to = reinterpret_cast<char*>(operand + i * S);
            if (wide)
                for (int j = cg * 16; j < bytes; j += GC * 16) copy_async16(to + j, from + j);
            else
                for (int j = cg * 4; j < bytes; j += GC * 4) copy_async4(to + j, from + j);
        }
    }

    // --- over the group: the same number in all its threads

    template <class Op>
    __device__ __forceinline__ T whole(T x, Op op) const {
#pragma unroll
        for (int bit = 1; bit < (G < kWarp ? G : kWarp); bit *= 2) x = op(x, __shfl_xor_sync(mask, x, bit));
        if constexpr (G > kWarp) {
            sync();
            if (thread % kWarp == 0) reduction[thread / kWarp] = x;
            sync();
            x = reduction[0];
#pragma unroll
            for (int w = 1; w < G / kWarp; ++w) x = op(x, reduction[w]);
            sync();
        }
        return x;
    }
    __device__ __forceinline__ T sum(T x) const {
        return whole(x, [](T a, T b) { return a + b; });
    }
    __device__ __forceinline__ T maximum(T x) const {
        return whole(x, [](T a, T b) { return largest_of(a, b); });
    }
    // The largest real or imaginary part of the first rows and columns, NaN if one is NaN.
    __device__ __forceinline__ T largest(const Tile& x, int rows, int cols) const {
        T most = T(0);
#pragma unroll
        for (int r = 0; r < R; ++r)
#pragma unroll
            for (int c = 0; c < C; ++c) {
                if (row(r) >= rows || column(c) >= cols) continue;
#pragma unroll
                for (int f = 0; f < F; ++f) most = largest_of(most, magnitude(x.at[(r * C + c) * F + f]));
            }
        return maximum(most);
    }
    // The 1-norm of the d x d matrix x + diagonal 1, by the bound of moduli; NaN if an entry is NaN.
    __device__ __forceinline__ T norm(const Tile& x, T diagonal, int d) const {
        T sums[C];
#pragma unroll
        for (int c = 0; c < C; ++c) {
            sums[c] = T(0);
#pragma unroll
            for (int r = 0; r < R; ++r) {
                const T re = x.at[(r * C + c) * F] + (row(r) == column(c) ? diagonal : T(0));
                T size;
                if constexpr (F == 2)
                    size = modulus_of(re, x.at[(r * C + c) * F + 1]);
                else
                    size = magnitude(re);
                sums[c] += row(r) < d ? size : T(0);
            }
#pragma unroll
            for (int bit = GC; bit < (G < kWarp ? G : kWarp); bit *= 2) sums[c] += __shfl_xor_sync(mask, sums[c], bit);
        }
        if constexpr (G > kWarp) {
            constexpr int kWarps = G / kWarp;
            sync();
            if (thread % kWarp < GC)
#pragma unroll
                for (int c = 0; c < C; ++c) reduction[thread / kWarp * Sh::D + column(c)] = sums[c];
            sync();
#pragma unroll
            for (int c = 0; c < C; ++c) {
                sums[c] = reduction[column(c)];
#pragma unroll
                for (int w = 1; w < kWarps; ++w) sums[c] += reduction[w * Sh::D + column(c)];
            }
        }
        T most = T(0);
#pragma unroll
        for (int c = 0; c < C; ++c)
            if (column(c) < d) most = largest_of(most, sums[c]);
#pragma unroll
        for (int bit = 1; bit < GC; bit *= 2) most = largest_of(most, __shfl_xor_sync(mask, most, bit));
        return most;
    }
};

}  // namespace
}  // namespace nnsym::cuda
