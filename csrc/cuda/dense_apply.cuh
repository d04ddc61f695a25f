// SPDX-License-Identifier: MIT
// out = matrix x source on the blocks of an axis, in tiles: a block of threads computes kM units of one block by kN
// columns, the indices of all other axes in a row. Either the columns are contiguous in memory, or (row-wise) the
// units. Every entry is a sum of fused products in the order of the source's units, whatever the tile.
#pragma once
#include <cstring>

#include "../core/dense.h"
#include "storage.cuh"

namespace nnsym::cuda::tiles {

using dense::Pass;

constexpr int kThreads = 128;
constexpr std::int32_t kLargest = 46340;  // units, whose square is an int

// How one pass is cut. Quads: four neighbours at once, aligned.
struct Cut {
    std::int64_t first, columns;  // the launch's first sample; outer * inner
    unsigned m, n;                // tiles of units and of columns
    bool quads_in, quads_out, quads_matrix, streaming;
};

// Four stored numbers as they lie in memory: they widen when they are used, so that loads do not wait for each other.
template <class S>
struct alignas(4 * sizeof(S) < 16 ? 4 * sizeof(S) : 16) Quad {
    unsigned words[sizeof(S)];
};

template <class S>
__device__ __forceinline__ Quad<S> no_quad() {
    Quad<S> quad;
#pragma unroll
    for (unsigned& w : quad.words) w = 0;
    return quad;
}
template <class S>
__device__ __forceinline__ Quad<S> load_quad(const S* p) {
    Quad<S> quad;
    if constexpr (sizeof(S) == 2) {
        const uint2 a = *reinterpret_cast<const uint2*>(p);
        quad.words[0] = a.x, quad.words[1] = a.y;
    } else {
#pragma unroll
        for (int i = 0; i < int(sizeof(S)) / 4; ++i) {
            const uint4 a = reinterpret_cast<const uint4*>(p)[i];
            quad.words[4 * i] = a.x, quad.words[4 * i + 1] = a.y;
            quad.words[4 * i + 2] = a.z, quad.words[4 * i + 3] = a.w;
        }
    }
    return quad;
}
template <class S>
__device__ __forceinline__ void store_quad(S* p, const Quad<S>& quad, bool streaming) {
    if constexpr (sizeof(S) == 2) {
        const uint2 a = {quad.words[0], quad.words[1]};
        if (streaming)
            store_streaming(reinterpret_cast<uint2*>(p), a);
        else
            *reinterpret_cast<uint2*>(p) = a;
    } else {
#pragma unroll
        for (int i = 0; i < int(sizeof(S)) / 4; ++i) {
            const uint4 a = {quad.words[4 * i], quad.words[4 * i + 1], quad.words[4 * i + 2], quad.words[4 * i + 3]};
            if (streaming)
                store_streaming(reinterpret_cast<uint4*>(p) + i, a);
            else
                reinterpret_cast<uint4*>(p)[i] = a;
        }
    }
}
template <class S>
__device__ __forceinline__ void insert(Quad<S>& quad, int e, S value) {
    if constexpr (sizeof(S) == 2) {
        quad.words[e / 2] |= unsigned(value.bits) << 16 * (e % 2);
    } else {
        std::memcpy(quad.words + e * int(sizeof(S)) / 4, &value, sizeof(S));
    }
}
template <class T, class S>
__device__ __forceinline__ T extract(const Quad<S>& quad, int e) {
    S value;
    if constexpr (sizeof(S) == 2)
        value.bits = std::uint16_t(quad.words[e / 2] >> 16 * (e % 2));
    else
        std::memcpy(&value, quad.words + e * int(sizeof(S)) / 4, sizeof(S));
    return T(widen(value));
}
// Four numbers from shared memory, and back; p aligned to 16.
template <class T>
__device__ __forceinline__ void load_four(const T* p, T* to) {
    const Quad<T> quad = load_quad(p);
#pragma unroll
    for (int e = 0; e < 4; ++e) to[e] = extract<T>(quad, e);
}
template <class T>
__device__ __forceinline__ void store_four(T* p, const T* from) {
    Quad<T> quad = no_quad<T>();
#pragma unroll
    for (int e = 0; e < 4; ++e) insert(quad, e, from[e]);
    store_quad(p, quad, false);
}

// Up to `count` of four numbers to elements at[e] of a tensor of storage D; quads: all four from at[0] on.
template <class D, class T, class At>
__device__ __forceinline__ void put_as(char* out, const T* values, int count, At at, bool quads, bool streaming) {
    D* const p = reinterpret_cast<D*>(out);
    if (quads && count >= 4) {
        Quad<D> quad = no_quad<D>();
#pragma unroll
        for (int e = 0; e < 4; ++e) insert(quad, e, narrow<D>(values[e]));
        store_quad(p + at(0), quad, streaming);
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e)
        if (e < count) p[at(e)] = narrow<D>(values[e]);
}
template <class T, class At>
__device__ __forceinline__ void put(char* out, orbit::Dtype type, const T* values, int count, At at, bool quads,
                                    bool streaming) {
    if constexpr (sizeof(T) == 8) {
        if (type == orbit::kFloat64)
            put_as<double>(out, values, count, at, quads, streaming);
        else
            put_as<float>(out, values, count, at, quads, streaming);
    } else {
        if (type == orbit::kFloat32)
            put_as<float>(out, values, count, at, quads, streaming);
        else if (type == orbit::kBfloat16)
            put_as<Bfloat16>(out, values, count, at, quads, streaming);
        else
            put_as<Float16>(out, values, count, at, quads, streaming);
    }
}

__device__ __forceinline__ int at_most(std::int64_t left, int most) {
    return left < most ? int(left) : most;
}

// Where column n of the flattened other axes begins.
__device__ __forceinline__ std::int64_t column_offset(const Pass& pass, std::int64_t n) {
    std::int64_t outer, x;
    if (((n | pass.inner) >> 32) == 0) {
        outer = unsigned(n) / unsigned(pass.inner), x = unsigned(n) % unsigned(pass.inner);
    } else {
        outer = n / pass.inner, x = n % pass.inner;
    }
    return outer * pass.outer_stride + x;
}

// T computes, S is stored. kM x kN: the tile; TM x TN: one thread's part of it, in quads that lie apart.
template <class T, class S, int kM, int kN, int TM, int TN, bool kRowWise>
struct Tile {
    static constexpr int kDepth = sizeof(T) == 4 || kM == 32 ? 16 : 8;
    static constexpr int kLeadM = kM + 4, kLeadN = kN + 4;
    static constexpr int kBuffer = kDepth * (kLeadM + kLeadN);
    static constexpr std::size_t kShared = 2 * kBuffer * sizeof(T) + (kRowWise ? 0 : kN * sizeof(std::int64_t));
    static constexpr int kMatrixQuads = kM * kDepth / 4 / kThreads, kSourceQuads = kN * kDepth / 4 / kThreads;
    static constexpr int kAlongM = kM / TM, kAlongN = kN / TN;  // threads
    static_assert(kAlongM * kAlongN == kThreads && kMatrixQuads >= 1 && kSourceQuads >= 1);
    static_assert(kThreads % (kN / 4) == 0 && kThreads % (kM / 4) == 0);
    static_assert(kMatrixQuads * 4 * kThreads == kM * kDepth && kSourceQuads * 4 * kThreads == kN * kDepth);

    // Quad `q` of the tile of the matrix, depth j0: its first unit i and depth j inside the tile.
    static __device__ __forceinline__ void matrix_place(bool dual, int q, int& i, int& j) {
        if (dual)
            i = 4 * (q % (kM / 4)), j = q / (kM / 4);
        else
            i = q / (kDepth / 4), j = 4 * (q % (kDepth / 4));
    }
    static __device__ __forceinline__ void source_place(int q, int& n, int& j) {
        if (kRowWise)
            n = q / (kDepth / 4), j = 4 * (q % (kDepth / 4));
        else
            n = 4 * (q % (kN / 4)), j = q / (kN / 4);
    }
};

template <class T, class S, int kM, int kN, int TM, int TN, bool kRowWise>
__global__ void __launch_bounds__(kThreads, kM == 32 ? 4 : 3) multiply(const Pass pass, const Cut cut) {
    typedef Tile<T, S, kM, kN, TM, TN, kRowWise> Shape;
    constexpr int kDepth = Shape::kDepth, kLeadM = Shape::kLeadM, kLeadN = Shape::kLeadN;
    T* const shared = reinterpret_cast<T*>(dynamic_shared());
    std::int64_t* const offsets = reinterpret_cast<std::int64_t*>(shared + 2 * Shape::kBuffer);
    const int tid = int(threadIdx.x), m = pass.size;
    unsigned tile = blockIdx.x;
    const int m0 = int(tile % cut.m) * kM;
    tile /= cut.m;
    const std::int64_t n0 = std::int64_t(tile % cut.n) * kN;
    tile /= cut.n;
    const int b = int(tile % unsigned(pass.blocks));
    const std::int64_t k = cut.first + tile / unsigned(pass.blocks);

    const int origin = pass.order ? pass.order[k * pass.blocks + b] : b;
    const bool known = unsigned(origin) < unsigned(pass.blocks);
    const S* const source = reinterpret_cast<const S*>(pass.source + k * pass.source_stride) + pass.offset +
                            std::int64_t(known ? origin : 0) * m * pass.axis_stride;
    const T* const matrix =
        static_cast<const T*>(pass.matrix) + (k * (pass.blocks / pass.copies) + b / pass.copies) * std::int64_t(m) * m;
    if (!kRowWise) {
        for (int n = tid; n < kN; n += kThreads) offsets[n] = n0 + n < cut.columns ? column_offset(pass, n0 + n) : 0;
        __syncthreads();
    }

    Quad<T> matrix_quads[Shape::kMatrixQuads];
    Quad<S> source_quads[Shape::kSourceQuads];
    auto fetch = [&](int j0) {
#pragma unroll
        for (int s = 0; s < Shape::kMatrixQuads; ++s) {
            int i, j;
            Shape::matrix_place(pass.dual, tid + s * kThreads, i, j);
            i += m0, j += j0;
            Quad<T> quad = no_quad<T>();
            const int count = i >= m || j >= m ? 0 : min(4, m - (pass.dual ? i : j));
            const T* const p = matrix + (pass.dual ? unsigned(j * m + i) : unsigned(i * m + j));
            if (cut.quads_matrix) {
                if (count) quad = load_quad(p);
            } else {
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (e < count) insert(quad, e, p[e]);
            }
            matrix_quads[s] = quad;
        }
#pragma unroll
        for (int s = 0; s < Shape::kSourceQuads; ++s) {
            int n, j;
            Shape::source_place(tid + s * kThreads, n, j);
            j += j0;
            Quad<S> quad = no_quad<S>();
            const std::int64_t left = cut.columns - n0 - n;
            if (known && j < m && left > 0) {
                if (kRowWise) {
                    const S* const p = source + (n0 + n) * pass.outer_stride + j;
                    if (cut.quads_in) {
                        quad = load_quad(p);
                    } else {
#pragma unroll
                        for (int e = 0; e < 4; ++e)
                            if (e < m - j) insert(quad, e, p[e]);
                    }
                } else {
                    const S* const p = source + j * pass.axis_stride;
                    if (cut.quads_in) {
                        quad = load_quad(p + offsets[n]);
                    } else {
#pragma unroll
                        for (int e = 0; e < 4; ++e)
                            if (e < left) insert(quad, e, p[offsets[n + e]]);
                    }
                }
            }
            source_quads[s] = quad;
        }
    };
    auto place = [&](T* buffer) {
        T *const left = buffer, *const right = buffer + kDepth * kLeadM;
#pragma unroll
        for (int s = 0; s < Shape::kMatrixQuads; ++s) {
            int i, j;
            Shape::matrix_place(pass.dual, tid + s * kThreads, i, j);
            if (pass.dual) {
                store_quad(left + j * kLeadM + i, matrix_quads[s], false);
            } else {
#pragma unroll
                for (int e = 0; e < 4; ++e) left[(j + e) * kLeadM + i] = extract<T>(matrix_quads[s], e);
            }
        }
#pragma unroll
        for (int s = 0; s < Shape::kSourceQuads; ++s) {
            int n, j;
            Shape::source_place(tid + s * kThreads, n, j);
            if (kRowWise) {
#pragma unroll
                for (int e = 0; e < 4; ++e) right[(j + e) * kLeadN + n] = extract<T>(source_quads[s], e);
            } else {
                T four[4];
#pragma unroll
                for (int e = 0; e < 4; ++e) four[e] = extract<T>(source_quads[s], e);
                store_four(right + j * kLeadN + n, four);
            }
        }
    };

    // Eight lanes lie along the contiguous direction of the result.
    constexpr int kFast = kRowWise ? Shape::kAlongM : Shape::kAlongN, kLanes = 8;
    static_assert(kFast % kLanes == 0);
    const int lane = tid % kWarp, warp = tid / kWarp;
    const int fast = lane % kLanes + kLanes * (warp % (kFast / kLanes));
    const int slow = lane / kLanes + kWarp / kLanes * (warp / (kFast / kLanes));
    const int mi = 4 * (kRowWise ? fast : slow), ni = 4 * (kRowWise ? slow : fast);
    constexpr int kApartM = 4 * Shape::kAlongM, kApartN = 4 * Shape::kAlongN;
    const bool active = m0 + mi < m && n0 + ni < cut.columns;

    T sum[TM][TN];
#pragma unroll
    for (int r = 0; r < TM; ++r)
#pragma unroll
        for (int c = 0; c < TN; ++c) sum[r][c] = 0;

    fetch(0);
    place(shared);
    __syncthreads();
    int buffer = 0;
    for (int j0 = 0; j0 < m; j0 += kDepth, buffer ^= 1) {
        const bool more = j0 + kDepth < m;
        if (more) fetch(j0 + kDepth);
        if (active) {
            const T* const left = shared + buffer * Shape::kBuffer + mi;
            const T* const right = shared + buffer * Shape::kBuffer + kDepth * kLeadM + ni;
            const int depth = min(kDepth, m - j0);  // to the next multiple of four there are zeros
#pragma unroll 1
            for (int j = 0; j < depth; j += 4) {
#pragma unroll
                for (int u = 0; u < 4; ++u) {
                    T a[TM], c[TN];
#pragma unroll
                    for (int q = 0; q < TM / 4; ++q) load_four(left + (j + u) * kLeadM + q * kApartM, a + 4 * q);
#pragma unroll
                    for (int q = 0; q < TN / 4; ++q) load_four(right + (j + u) * kLeadN + q * kApartN, c + 4 * q);
#pragma unroll
                    for (int r = 0; r < TM; ++r)
#pragma unroll
                        for (int s = 0; s < TN; ++s) sum[r][s] = fma(a[r], c[s], sum[r][s]);
                }
            }
        }
        if (more) place(shared + (buffer ^ 1) * Shape::kBuffer);
        __syncthreads();
    }
    if (!active) return;

    char* const out = pass.out + k * pass.out_stride;
    const T* const shift =
        pass.shift ? static_cast<const T*>(pass.shift) + (k * pass.blocks + b) * std::int64_t(m) : nullptr;
    auto finished = [&](T value, int i) {
        if (!known) return T(__uint_as_float(0x7fc00000u));
        return shift ? value + shift[i] : value;
    };
    if (kRowWise) {
#pragma unroll
        for (int c = 0; c < TN; ++c) {
            const std::int64_t n = n0 + c / 4 * kApartN + ni + c % 4;
            if (n >= cut.columns) continue;
#pragma unroll
            for (int q = 0; q < TM / 4; ++q) {
                const int i = m0 + q * kApartM + mi, count = min(4, m - i);
                if (count <= 0) continue;
                T four[4];
#pragma unroll
                for (int e = 0; e < 4; ++e) four[e] = e < count ? finished(sum[4 * q + e][c], i + e) : T(0);
                const std::int64_t at = pass.offset + n * pass.outer_stride + std::int64_t(b) * m + i;
                put(out, pass.out_type, four, count, [&](int e) { return at + e; }, cut.quads_out, cut.streaming);
            }
        }
    } else {
#pragma unroll
        for (int q = 0; q < TN / 4; ++q) {
            const int n = q * kApartN + ni, count = at_most(cut.columns - n0 - n, 4);
            if (count <= 0) continue;
            std::int64_t place[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) place[e] = offsets[n + e];
#pragma unroll
            for (int r = 0; r < TM; ++r) {
                const int i = m0 + r / 4 * kApartM + mi + r % 4;
                if (i >= m) continue;
                const std::int64_t row = pass.offset + (std::int64_t(b) * m + i) * pass.axis_stride;
                T four[4];
#pragma unroll
                for (int e = 0; e < 4; ++e) four[e] = finished(sum[r][4 * q + e], i);
                put(
                    out, pass.out_type, four, count, [&](int e) { return row + place[e]; }, cut.quads_out,
                    cut.streaming);
            }
        }
    }
}

inline bool by_rows(const Pass& pass) {
    return pass.inner == 1 && pass.axis_stride == 1;
}

template <class T, class S, int kM, int kN, int TM, int TN, bool kRowWise>
void launch_tiles(const Pass& pass, Cut cut, std::int64_t samples, Stream stream) {
    typedef Tile<T, S, kM, kN, TM, TN, kRowWise> Shape;
    cut.m = unsigned(divide_up(pass.size, kM));
    if (pass.size > kLargest) throw std::invalid_argument("dense: matrices of more numbers than 32 bits can count");
    const std::int64_t n = divide_up(cut.columns, kN), per_sample = n * cut.m * pass.blocks;
    if (per_sample > 0x7fffffff)
        throw std::invalid_argument("dense: a tensor of more numbers than one launch can take");
    cut.n = unsigned(n);
    const std::int64_t at_once = 0x7fffffff / per_sample;
    for (cut.first = 0; cut.first < samples; cut.first += at_once) {
        const std::int64_t now = samples - cut.first < at_once ? samples - cut.first : at_once;
        launch("dense: product", multiply<T, S, kM, kN, TM, TN, kRowWise>, dim3(unsigned(now * per_sample)),
               dim3(kThreads), Shape::kShared, stream, pass, cut);
    }
}

// For one type of the arithmetic and one of the source.
template <class T, class S>
void launch_multiply(const Pass& pass, const Cut& cut, std::int64_t samples, Stream stream) {
    constexpr int kN = sizeof(T) == 4 ? 128 : 64, TN = sizeof(T) == 4 ? 8 : 4;
    const bool rows = by_rows(pass);
    if (pass.size > 32)
        (rows ? launch_tiles<T, S, 64, kN, 8, TN, true> : launch_tiles<T, S, 64, kN, 8, TN, false>)(pass, cut, samples,
                                                                                                    stream);
    else
        (rows ? launch_tiles<T, S, 32, kN, 4, TN, true> : launch_tiles<T, S, 32, kN, 4, TN, false>)(pass, cut, samples,
                                                                                                    stream);
}

void multiply_float_float(const Pass&, const Cut&, std::int64_t, Stream);
void multiply_float_bfloat16(const Pass&, const Cut&, std::int64_t, Stream);
void multiply_float_float16(const Pass&, const Cut&, std::int64_t, Stream);
void multiply_double_double(const Pass&, const Cut&, std::int64_t, Stream);
void multiply_double_float(const Pass&, const Cut&, std::int64_t, Stream);

}  // namespace nnsym::cuda::tiles
