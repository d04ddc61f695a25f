// SPDX-License-Identifier: MIT
// A warp at work on its paths: what it reads from and writes to memory, in steps of a path.
#pragma once
#include "wilson.h"
#include "wilson_small_matrix.cuh"

namespace nnsym::cuda {
namespace {

using wilson::Job;

// --- global memory, by way of shared memory

// Numbers of every step of a path, `unit` bytes a step. A warp brings blocks of steps of all its paths at a time.
struct Feed {
    const unsigned char* base;   // null: nothing to bring
    std::int64_t path, segment;  // bytes
    int unit, pitch;             // bytes of a step, and from path to path in shared memory
    int lanes_log;               // log2 of the lanes that bring one path's
    int wide;                    // 16 bytes at a time
    int rows, at;                // where in the warp's shared memory: addresses of the paths, two buffers
};
// What leaves: `unit` bytes of every path at a time.
struct Drain {
    unsigned char* base;
    std::int64_t path, segment;
    int unit, pitch, lanes_log, wide, rows, at;
};

struct Params {
    Job job;
    Feed w, states;
    Drain out;
    int block_log;  // log2 of the steps of a block
    int warp_bytes;
    int chunks;   // of columns, D at a time; a state of more than one lives in `space`
    void* space;  // [i][j][part][group]
    std::int64_t groups;
    const void* carried;  // backward: gradient of the last state, [path][d][c], in place of `grad`; or null
    std::int64_t gdt_path;
};

template <class S>
struct Worker {
    typedef typename S::T T;
    static constexpr int F = S::F, R = S::R, D = S::D, L = S::L;

    const Params& p;
    int lane, l, group;
    std::int64_t first, v, path, segment, slot_group;
    int live;  // paths of the warp
    bool here;
    unsigned char* memory;
    int buffer = 0, step = 0, count = 0;  // of the block at hand
    std::int64_t coming = 0;
    const T* dt;
    T fixed = 1;  // step size, where it is the same for all steps

    __device__ __forceinline__ explicit Worker(const Params& params) : p(params) {
        const int warp = int(threadIdx.x) / kWarp;
        lane = int(threadIdx.x) % kWarp, l = lane % L, group = lane / L;
        const std::int64_t total = p.job.paths * p.job.segments;
        first = (std::int64_t(blockIdx.x) * (int(blockDim.x) / kWarp) + warp) * S::kGroups;
        slot_group = first + group;
        const std::int64_t left = total - first;
        live = left < 0 ? 0 : left < S::kGroups ? int(left) : S::kGroups;
        here = group < live;
        memory = dynamic_shared() + warp * p.warp_bytes;
        locate(slot_group, v, path, segment);
        if (lane < S::kGroups) {
            std::int64_t u, n, s;
            locate(first + lane, u, n, s);
            enter(p.w, n, s), enter(p.states, n, s), enter(p.out, n, s);
        }
        dt = static_cast<const T*>(p.job.dt);
        if (dt) {
            dt += path * p.job.dt_path + segment * p.job.steps * p.job.dt_step;
            if (p.job.dt_step == 0) fixed = *dt;
        }
        __syncwarp();
    }
    // A path past the last is read as the last.
    __device__ __forceinline__ void locate(std::int64_t index, std::int64_t& u, std::int64_t& n,
                                           std::int64_t& s) const {
        const std::int64_t total = p.job.paths * p.job.segments;
        u = index < total ? index : total - 1;
        n = p.job.segments == 1 ? u : u / p.job.segments;
        s = p.job.segments == 1 ? 0 : u - n * p.job.segments;
    }
    template <class Way>
    __device__ __forceinline__ void enter(const Way& way, std::int64_t n, std::int64_t s) const {
        if (way.base)
            reinterpret_cast<const unsigned char**>(memory + way.rows)[lane] =
                way.base + n * way.path + s * way.segment;
    }

    // --- in

    __device__ __forceinline__ void bring(const Feed& feed, int to, std::int64_t block) const {
        if (!feed.base) return;
        const std::int64_t begin = block << p.block_log, left = p.job.steps - begin;
        const int bytes = int(left < (1 << p.block_log) ? left : (1 << p.block_log)) * feed.unit;
        const int pieces = feed.wide ? bytes >> 4 : 0, width = 1 << feed.lanes_log, sub = lane & (width - 1);
        unsigned char* shared = memory + feed.at + to * (S::kGroups * feed.pitch);
        for (int row = lane >> feed.lanes_log; row < S::kGroups; row += kWarp >> feed.lanes_log) {
            const unsigned char* from =
                reinterpret_cast<const unsigned char* const*>(memory + feed.rows)[row] + begin * feed.unit;
            unsigned char* here_to = shared + row * feed.pitch;
            for (int i = sub; i < pieces; i += width) copy_async16(here_to + 16 * i, from + 16 * i);
            for (int i = 4 * pieces + sub; i < bytes >> 2; i += width) copy_async4(here_to + 4 * i, from + 4 * i);
        }
    }
    __device__ __forceinline__ void bring(int to, std::int64_t block) const {
        bring(p.w, to, block), bring(p.states, to, block);
        copy_commit();
    }
    // Steps come one by one, up (way 1) from the first or down (way -1) from the last.
    __device__ __forceinline__ void open(int way) {
        if (p.job.steps == 0) return;
        coming = way > 0 ? 0 : (p.job.steps - 1) >> p.block_log;
        bring(1, coming);
    }
    __device__ __forceinline__ void next(int way) {
        step += way;
        if (unsigned(step) >= unsigned(count)) turn(way);
    }
    // The next block is there, the one after it on its way.
    __device__ __forceinline__ void turn(int way) {
        copy_wait();
        __syncwarp();
        buffer ^= 1;
        const std::int64_t left = p.job.steps - (coming << p.block_log);
        count = int(left < (1 << p.block_log) ? left : 1 << p.block_log);
        step = way > 0 ? 0 : count - 1;
        coming += way;
        if (coming >= 0 && (coming << p.block_log) < p.job.steps) bring(buffer ^ 1, coming);
    }
    __device__ __forceinline__ const T* at(const Feed& feed) const {
        return reinterpret_cast<const T*>(memory + feed.at + (buffer * S::kGroups + group) * feed.pitch +
                                          step * feed.unit);
    }

    // --- matrices in memory

    __device__ __forceinline__ int row_of(int i) const { return l * R + i; }
    __device__ __forceinline__ int col_of(int j) const { return ((j / R) ^ l) * R + j % R; }
    __device__ __forceinline__ int own() const { return p.job.d - l * R; }  // rows that this lane really has

    static constexpr int kRun = L == 1 ? D * D * S::kNumber : R * S::kNumber;  // bytes in one piece
    static constexpr int kVector = kRun % 16 == 0 ? 16 : kRun % 8 == 0 ? 8 : int(sizeof(T));
    struct alignas(kVector) Piece {
        T at[kVector / int(sizeof(T))];
    };
    static constexpr int kNumbers = kVector / int(sizeof(T));

    // scale times the d x d matrix at `a` in shared memory, which begins at a multiple of its pieces.
    __device__ __forceinline__ void read(Mat<S>& m, const T* a, T by) const {
        if (p.job.d == D && kVector > int(sizeof(T))) {
            constexpr int runs = L == 1 ? 1 : R * L, pieces = kRun / kVector;
#pragma unroll
            for (int run = 0; run < runs; ++run) {
                const T* from = L == 1 ? a : a + (row_of(run / L) * D + col_of(run % L * R)) * F;
#pragma unroll
                for (int n = 0; n < pieces; ++n) {
                    const Piece piece = reinterpret_cast<const Piece*>(from)[n];
#pragma unroll
                    for (int e = 0; e < kNumbers; ++e) {
                        const int number = n * kNumbers + e, entry = number / F, u = number % F;
                        if (L == 1)
                            m.at[u][entry / D][entry % D] = piece.at[e] * by;
                        else
                            m.at[u][run / L][run % L * R + entry] = piece.at[e] * by;
                    }
                }
            }
            return;
        }
        load(m, a, p.job.d, 0, by);
    }
    // Columns [begin, begin + D) of the d x columns matrix at `a`, anywhere.
    __device__ __forceinline__ void load(Mat<S>& m, const T* a, int columns, int begin, T by = 1) const {
        each<S, 1>([&](int u, int i, int j) {
            const int row = row_of(i), col = begin + col_of(j);
            m.at[u][i][j] = row < p.job.d && col < columns ? a[(row * columns + col) * F + u] * by : T(0);
        });
    }
    // The adjoint of these columns.
    __device__ __forceinline__ void load_adjoint(Mat<S>& m, const T* a, int columns, int begin, T by = 1) const {
        each<S, 1>([&](int u, int i, int j) {
            const int col = begin + row_of(i), row = col_of(j);
            const T x = row < p.job.d && col < columns ? a[(row * columns + col) * F + u] * by : T(0);
            m.at[u][i][j] = u ? -x : x;
        });
    }
    __device__ __forceinline__ void store(const Mat<S>& m, T* a, int columns, int begin, T by = 1) const {
        each<S, 1>([&](int u, int i, int j) {
            const int row = row_of(i), col = begin + col_of(j);
            if (row < p.job.d && col < columns) a[(row * columns + col) * F + u] = m.at[u][i][j] * by;
        });
    }

    // --- out

    __device__ __forceinline__ T* tile() const { return reinterpret_cast<T*>(memory + p.out.at + group * p.out.pitch); }
    // by m, d x columns, into the tile.
    __device__ __forceinline__ void put(const Mat<S>& m, T* a, int columns, T by = 1) const {
        if (p.job.d == D && columns == D && kVector > int(sizeof(T))) {
            constexpr int runs = L == 1 ? 1 : R * L, pieces = kRun / kVector;
#pragma unroll
            for (int run = 0; run < runs; ++run) {
                T* to = L == 1 ? a : a + (row_of(run / L) * D + col_of(run % L * R)) * F;
#pragma unroll
                for (int n = 0; n < pieces; ++n) {
                    Piece piece;
#pragma unroll
                    for (int e = 0; e < kNumbers; ++e) {
                        const int number = n * kNumbers + e, entry = number / F, u = number % F;
                        piece.at[e] =
                            by * (L == 1 ? m.at[u][entry / D][entry % D] : m.at[u][run / L][run % L * R + entry]);
                    }
                    reinterpret_cast<Piece*>(to)[n] = piece;
                }
            }
            return;
        }
        store(m, a, columns, 0, by);
    }
    // The tiles of the warp as entry k of their paths.
    __device__ __forceinline__ void leave(std::int64_t k) const {
        const Drain& out = p.out;
        __syncwarp();
        const int pieces = out.wide ? out.unit >> 4 : 0, width = 1 << out.lanes_log, sub = lane & (width - 1);
        for (int row = lane >> out.lanes_log; row < live; row += kWarp >> out.lanes_log) {
            unsigned char* to = reinterpret_cast<unsigned char* const*>(memory + out.rows)[row] + k * out.unit;
            const unsigned char* from = memory + out.at + row * out.pitch;
            for (int i = sub; i < pieces; i += width)
                store_streaming(reinterpret_cast<uint4*>(to) + i, reinterpret_cast<const uint4*>(from)[i]);
            for (int i = 4 * pieces + sub; i < out.unit >> 2; i += width)
                reinterpret_cast<unsigned*>(to)[i] = reinterpret_cast<const unsigned*>(from)[i];
        }
        __syncwarp();
    }

    // --- states of many columns

    __device__ __forceinline__ T* cell(int row, int col, int u) const {
        return static_cast<T*>(p.space) + ((std::int64_t(row) * p.job.c + col) * F + u) * p.groups + slot_group;
    }
    __device__ __forceinline__ void keep(const Mat<S>& m, int chunk) const {
        each<S, 1>([&](int u, int i, int j) {
            const int row = row_of(i), col = chunk * D + col_of(j);
            if (row < p.job.d && col < p.job.c) *cell(row, col, u) = m.at[u][i][j];
        });
    }
    __device__ __forceinline__ void recall(Mat<S>& m, int chunk) const {
        each<S, 1>([&](int u, int i, int j) {
            const int row = row_of(i), col = chunk * D + col_of(j);
            m.at[u][i][j] = row < p.job.d && col < p.job.c ? *cell(row, col, u) : T(0);
        });
    }

    // --- parts of the job

    __device__ __forceinline__ T step_size(std::int64_t k) const {
        return dt && p.job.dt_step ? dt[k * p.job.dt_step] : fixed;
    }
    __device__ __forceinline__ void start(Mat<S>& x, int chunk) const {
        if (p.job.x0) {
            load(x, static_cast<const T*>(p.job.x0) + v * p.job.d * p.job.c * F, p.job.c, chunk * D);
            return;
        }
        each<S, 1>([&](int u, int i, int j) { x.at[u][i][j] = u == 0 && i == j && i < own() ? T(1) : T(0); });
    }
    __device__ __forceinline__ T largest(const Mat<S>& x) const {
        T result = 0;
        each<S, 1>([&](int u, int i, int j) { result = largest_of(result, magnitude(x.at[u][i][j])); });
        return result;
    }
    __device__ __forceinline__ void shift(Mat<S>& x, std::int64_t k) const {
        const TwoPowers<T> down(-p.job.shift[path * p.job.shift_path + k]);
        each<S, 1>([&](int u, int i, int j) { x.at[u][i][j] = down.of(x.at[u][i][j]); });
    }
    // U_k as m + f 1.
    template <bool Exp>
    __device__ __forceinline__ void link(Mat<S>& m, T& f, std::int64_t k) const {
        if constexpr (Exp) {
            Mat<S> a;
            read(a, at(p.w), step_size(k));
            Exponential<S, 1>::run(m, a, f, own());
        } else {
            read(m, at(p.w), T(1));
            f = 0;
        }
    }
    template <bool Exp>
    __device__ __forceinline__ void advance(Mat<S>& x, const Mat<S>& m, T f) const {
        Mat<S> next;
        each<S, 1>([&](int u, int i, int j) { next.at[u][i][j] = Exp ? f * x.at[u][i][j] : T(0); });
        multiply(next, m, x);
        x = next;
    }
};

}  // namespace
}  // namespace nnsym::cuda
