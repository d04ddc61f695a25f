// SPDX-License-Identifier: MIT
// The action on one block for many samples, from records. A source row that was read serves all samples of a thread
// block.
#pragma once
#include <algorithm>

#include "orbit_rows.cuh"

namespace nnsym::cuda {
namespace {

using namespace nnsym::orbit;

constexpr int kThreads = 256;
constexpr std::int64_t kPanelBytes = 32 << 10;  // of a tile: several thread blocks share a multiprocessor

// Where a source row lies, its digits in the outer axes, and where it goes.
__device__ __forceinline__ std::int64_t source_of(const Block& block, std::int64_t row) {
    std::int64_t at = block.source_at;
    std::uint32_t rest = std::uint32_t(row);
    for (int d = block.outers - 1; d >= 0; --d) {
        const std::uint32_t size = std::uint32_t(block.outer[d].size), next = d ? rest / size : 0;
        at += std::int64_t(rest - next * size) * block.outer[d].source_stride;
        rest = next;
    }
    return at;
}

template <class T>
__device__ __forceinline__ void step_axis(const OuterAxis& axis, const char* record, std::uint32_t digit,
                                          std::int64_t& at, T& factor) {
    std::int32_t to = std::int32_t(digit);
    if (axis.pos_at >= 0) to = reinterpret_cast<const std::int32_t*>(record + axis.pos_at)[digit];
    if (axis.factor_at >= 0) factor *= reinterpret_cast<const T*>(record + axis.factor_at)[digit];
    if (to < 0) factor = not_a_number<T>();
    at += std::int64_t(unit_of(to)) * axis.out_stride;
}

// Rows gathered by index, from panels in shared memory.
template <class S, class T, int V>
__global__ void __launch_bounds__(kThreads, 4) gather_rows(__grid_constant__ const ApplyJob job) {
    constexpr int G = kRows<S>;
    const Block& block = job.block;
    const std::int32_t width = std::int32_t(block.width), tile = std::int32_t(job.tile_rows);
    const std::int64_t first = std::int64_t(blockIdx.x) * tile;
    const std::int32_t rows = std::int32_t(min(std::int64_t(tile), block.rows - first));
    // From[tile], digits[outers][tile], the panels.
    std::int64_t* const from = reinterpret_cast<std::int64_t*>(dynamic_shared());
    std::int32_t* const digits = reinterpret_cast<std::int32_t*>(from + tile);
    S* const panels = reinterpret_cast<S*>(digits + divide_up(block.outers * tile, 4) * 4);
    for (std::int32_t l = std::int32_t(threadIdx.x); l < rows; l += kThreads) {
        from[l] = source_of(block, first + l);
        std::uint32_t rest = std::uint32_t(first + l);
        for (int d = block.outers - 1; d >= 0; --d) {
            const std::uint32_t size = std::uint32_t(block.outer[d].size), next = d ? rest / size : 0;
            digits[d * tile + l] = std::int32_t(rest - next * size);
            rest = next;
        }
    }
    const std::int32_t packs = width / V, across = min(packs, kThreads), down = kThreads / across;
    const std::int32_t groups = divide_up(rows, G), c0 = std::int32_t(threadIdx.x) % across;
    const std::int32_t g0 = std::int32_t(threadIdx.x) / across;
    const std::int64_t begin = std::int64_t(blockIdx.y) * job.samples, end = min(job.count, begin + job.samples);
    for (std::int64_t k = begin; k < end; ++k) {
        if (k == begin || job.source_stride) {
            __syncthreads();
            const S* source = reinterpret_cast<const S*>(job.source + k * job.source_stride);
            for (std::int32_t e = std::int32_t(threadIdx.x); e < rows * width; e += kThreads) {
                const std::int32_t l = e / width, c = e - l * width;
                panels[(l / G * width + c) * G + l % G] = source[from[l] + c];
            }
            __syncthreads();
        }
        const char* record = job.records + k * job.record_bytes;
        S* const result = reinterpret_cast<S*>(job.out + k * job.out_stride) + block.out_at;
        for (std::int32_t c = c0; g0 < down && c < packs; c += across) {
            std::int32_t index[V];
            T column[V];
            load_columns<T, V>(record, block.index_at, block.factor_at, c * V, index, column);
            for (std::int32_t g = g0; g < groups; g += down) {
                T row[G];
                S* out[G];
#pragma unroll
                for (int r = 0; r < G; ++r) {
                    std::int64_t at = c * V;
                    row[r] = 1;
                    const std::int32_t l = min(g * G + r, rows - 1);
                    for (int d = block.outers - 1; d >= 0; --d)
                        step_axis(block.outer[d], record, std::uint32_t(digits[d * tile + l]), at, row[r]);
                    out[r] = result + at;
                }
                write_gathered<S, T, V, G>(panels + std::int64_t(g) * width * G, index, column, row, out, rows - g * G);
            }
        }
    }
}

// Rows as they are, V columns of G rows to a thread, which keeps them for all its samples; or, with kIndexed, gathered
// from memory, where a row is too wide for a panel.
template <class S, class T, int V, bool kIndexed>
__global__ void __launch_bounds__(kThreads, (sizeof(S) == 2 ? 2 : 3)) move_rows(__grid_constant__ const ApplyJob job) {
    constexpr int G = kRows<S>;
    const Block& block = job.block;
    const std::int64_t packs = block.width / V, item = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const std::int64_t g = item / packs;
    const std::int32_t c = std::int32_t(item - g * packs) * V;
    if (g * G >= block.rows) return;
    const int count = int(min(std::int64_t(G), block.rows - g * G));
    std::int64_t from[G];
    std::uint32_t first[G];
#pragma unroll
    for (int r = 0; r < G; ++r) {
        first[r] = std::uint32_t(g * G + (r < count ? r : 0));
        from[r] = source_of(block, first[r]);
    }
    S w[G][V];
    const std::int64_t begin = std::int64_t(blockIdx.y) * job.samples, end = min(job.count, begin + job.samples);
    for (std::int64_t k = begin; k < end; ++k) {
        const char* record = job.records + k * job.record_bytes;
        std::int32_t index[V];
        T column[V];
        load_columns<T, V>(record, block.index_at, block.factor_at, c, index, column);
        if (k == begin || job.source_stride || kIndexed) {
            const S* source = reinterpret_cast<const S*>(job.source + k * job.source_stride);
#pragma unroll
            for (int r = 0; r < G; ++r) {
                if (V > 1 && !kIndexed && job.source_packs) {
                    load_vector<V>(source + from[r] + c, w[r]);
                    continue;
                }
#pragma unroll
                for (int v = 0; v < V; ++v) w[r][v] = source[from[r] + (kIndexed ? index[v] : c + v)];
            }
        }
        S* const result = reinterpret_cast<S*>(job.out + k * job.out_stride) + block.out_at;
#pragma unroll
        for (int r = 0; r < G; ++r) {
            if (r >= count) break;
            std::int64_t at = c;
            T row = 1;
            std::uint32_t rest = first[r];
            for (int d = block.outers - 1; d >= 0; --d) {
                const std::uint32_t size = std::uint32_t(block.outer[d].size), next = d ? rest / size : 0;
                step_axis(block.outer[d], record, rest - next * size, at, row);
                rest = next;
            }
            S x[V];
#pragma unroll
            for (int v = 0; v < V; ++v) x[v] = product(w[r][v], row, column[v]);
            store_vector(result + at, x);
        }
    }
}

template <class S, class T>
void apply(ApplyJob job, Stream stream) {
    constexpr int G = kRows<S>, P = kPackColumns<S>;
    const Block& block = job.block;
    if (!block.rows || !block.width) return;
    bool packs = reinterpret_cast<std::uintptr_t>(job.out) % 16 == 0 && job.out_stride % 16 == 0 &&
                 block.out_at % P == 0 && block.width % P == 0;
    job.source_packs = reinterpret_cast<std::uintptr_t>(job.source) % 16 == 0 && job.source_stride % 16 == 0 &&
                       block.source_at % P == 0;
    for (int d = 0; d < block.outers; ++d) {
        packs = packs && block.outer[d].out_stride % P == 0;
        job.source_packs = job.source_packs && block.outer[d].source_stride % P == 0;
    }
    const std::int64_t wanted = job.samples;  // thread blocks that fill the device
    auto split = [&](std::int64_t tiles) {
        const std::int64_t least = divide_up(job.count, 65535);
        job.samples = std::max(least, std::clamp<std::int64_t>(job.count * tiles / wanted, 1, 32));
        return dim3(unsigned(tiles), unsigned(divide_up(job.count, job.samples)));
    };
    const std::int64_t row_bytes = block.width * std::int64_t(sizeof(S));
    auto shared_of = [&](std::int64_t rows) {
        return divide_up(rows, G) * G * row_bytes + rows * 8 + divide_up(block.outers * rows, 4) * 16 + 16;
    };
    const bool gathered = block.index_at >= 0;
    if (gathered && shared_of(G) <= std::int64_t(shared_limit())) {
        job.tile_rows = std::clamp<std::int64_t>(kPanelBytes / row_bytes / G, 1, 16) * G;
        job.tile_rows = std::min(job.tile_rows, divide_up(block.rows, G) * G);
        const dim3 grid = split(divide_up(block.rows, job.tile_rows));
        launch("orbit: gathered rows", packs ? gather_rows<S, T, P> : gather_rows<S, T, 1>, grid, dim3(kThreads),
               std::size_t(shared_of(job.tile_rows)), stream, job);
        return;
    }
    const bool wide = packs && !gathered;
    const std::int64_t items = divide_up(block.rows, G) * (wide ? block.width / P : block.width);
    const dim3 grid = split(divide_up(items, kThreads));
    launch(gathered ? "orbit: wide rows" : "orbit: moved rows",
           gathered ? move_rows<S, T, 1, true>
           : wide   ? move_rows<S, T, P, false>
                    : move_rows<S, T, 1, false>,
           grid, dim3(kThreads), 0, stream, job);
}

}  // namespace
}  // namespace nnsym::cuda
