// SPDX-License-Identifier: MIT
// Small networks: a warp draws the element of a sample into shared memory and writes all tensors of that sample.
#include <algorithm>

#include "orbit_rows.cuh"

namespace nnsym::cuda {
namespace {

using namespace nnsym::orbit;

constexpr int kThreads = kFusedWarps * kWarp;

struct alignas(16) Draw {
    std::uint32_t site, index;
    double std;
};

// One pack of a tensor with one row: where it goes for sample 0, and the bytes where its columns' entries lie.
struct alignas(16) Item {
    char* out;
    std::int32_t out_stride, panel_at;
    std::int32_t index_at, factor_at, first, unused;
};
static_assert(sizeof(Item) == kFusedItem);

// n / d for n, d < 2^16.
__device__ __forceinline__ std::int32_t divide(std::int32_t n, std::uint32_t magic) {
    return magic ? std::int32_t(__umulhi(std::uint32_t(n), magic)) : n;
}

// Rows of the source, interleaved where the block takes several at once. Copies may still be on their way.
template <class S, class Team>
__device__ __forceinline__ void pack(const Team& team, const FusedBlock& block, const char* from, S* panel) {
    constexpr int G = kRows<S>, P = kPackColumns<S>;
    const S* source = reinterpret_cast<const S*>(from) + block.source_at;
    const std::int32_t size = block.rows * block.width;
    if (block.async && block.path != 2) {
        for (std::int32_t e = team.rank * P; e < size; e += team.size * P) copy_async16(panel + e, source + e);
        return;
    }
    for (std::int32_t e = team.rank; e < size; e += team.size) {
        if (block.contiguous && block.path != 2) {
            panel[e] = source[e];
            continue;
        }
        const std::int32_t l = divide(e, block.width_magic), c = e - l * block.width;
        std::int32_t at = c, rest = l;
        for (int d = block.outers - 1; d >= 0; --d) {
            const std::int32_t next = d ? divide(rest, block.outer[d].magic) : 0;
            at += (rest - next * block.outer[d].size) * block.outer[d].source_stride;
            rest = next;
        }
        panel[block.path == 2 ? (l / G * block.width + c) * G + l % G : e] = source[at];
    }
}

__device__ __forceinline__ std::int32_t smaller_keys(const std::uint32_t* keys, std::int32_t n, std::uint32_t key) {
    std::int32_t count = 0, j = 0;
#pragma unroll 4
    for (; j + 4 <= n; j += 4) {
        const uint4 k = *reinterpret_cast<const uint4*>(keys + j);
        count += (k.x < key) + (k.y < key) + (k.z < key) + (k.w < key);
    }
    for (; j < n; ++j) count += keys[j] < key;
    return count;
}
__device__ std::int32_t stable_rank(const std::uint32_t* keys, std::int32_t n, std::int32_t i) {
    const std::uint32_t key = keys[i];
    std::int32_t count = 0;
    for (std::int32_t j = 0; j < n; ++j) count += keys[j] < key || (keys[j] == key && j < i);
    return count;
}

__device__ void draw_permutation(const WarpTeam& team, const FusedSite& site, const std::uint32_t* words,
                                 std::int32_t* pi, std::int32_t* perm, std::int32_t* pos) {
    const std::int32_t h = site.heads, m = site.head_size, n = h * m;
    const std::uint32_t* keys = words + site.keys;
    if (h == 1 && site.permute_units && !site.permute_heads) {
        for (std::int32_t u = team.rank; u < n; u += kWarp) {
            const std::int32_t rank = smaller_keys(keys, n, keys[u]);
            perm[rank] = u;
            pos[u] = rank;
        }
        // Equal keys, which are rare, have taken one place twice.
        bool wrong = false;
        team.sync();
        for (std::int32_t u = team.rank; u < n; u += kWarp) wrong = wrong || perm[pos[u]] != u;
        if (!team.any(wrong)) return;
        for (std::int32_t u = team.rank; u < n; u += kWarp) {
            const std::int32_t rank = stable_rank(keys, n, u);
            perm[rank] = u;
            pos[u] = rank;
        }
        return;
    }
    if (site.permute_heads) {
        for (std::int32_t j = team.rank; j < h; j += kWarp) pi[stable_rank(words + site.head_keys, h, j)] = j;
        team.sync();
    }
    for (std::int32_t u = team.rank; u < n; u += kWarp) {
        const std::int32_t a = u / m, i = u - a * m;
        const std::int32_t at = site.permute_units ? a * m + stable_rank(keys + a * m, m, i) : u;
        const std::int32_t from = site.permute_heads ? pi[a] * m + i : u;
        perm[at] = from;
        pos[from] = at;
    }
    team.sync();
}

template <class T>
__device__ __forceinline__ void draw(const WarpTeam& team, const FusedJob& job, std::uint64_t sample, const Draw* draws,
                                     unsigned char* record) {
    uint4* const blocks = reinterpret_cast<uint4*>(record);
    for (std::int32_t d = team.rank; d < job.draws; d += kWarp)
        blocks[d] = philox(job.seed, sample, draws[d].site, draws[d].index);
    team.sync();
    const std::uint32_t* const words = reinterpret_cast<const std::uint32_t*>(record);
    T* const drawn = reinterpret_cast<T*>(record + job.drawn_at);
    const std::int32_t pairs = 2 * (job.draws - job.scale_begin);
    for (std::int32_t p = team.rank; p < pairs; p += kWarp) {
        const std::uint32_t* w = words + 4 * job.scale_begin + 2 * p;
        const T std = T(draws[job.scale_begin + p / 2].std);
        T x, y;
        box_muller(w[0], w[1], x, y);
        drawn[2 * p] = exp(std * x);
        drawn[2 * p + 1] = exp(std * y);
    }
    for (std::int32_t s = 0; s < job.site_count; ++s) {
        const FusedSite& site = job.sites[s];
        if (site.perm_at >= 0)
            draw_permutation(team, site, words, reinterpret_cast<std::int32_t*>(record + job.heads_at),
                             reinterpret_cast<std::int32_t*>(record + site.perm_at),
                             reinterpret_cast<std::int32_t*>(record + site.pos_at));
        if (!site.negates) continue;
        team.sync();
        T* const value = reinterpret_cast<T*>(record + site.value_at);
        for (std::int32_t u = team.rank; u < site.heads * site.head_size; u += kWarp) {
            const T scale = site.scales ? value[u] : T(1);
            value[u] = words[site.signs + (u >> 5)] >> (u & 31) & 1u ? -scale : scale;
        }
    }
}

template <class T>
__device__ void take(const WarpTeam& team, const FusedJob& job, std::int64_t k, unsigned char* record) {
    for (std::int32_t s = 0; s < job.site_count; ++s) {
        const FusedSite& site = job.sites[s];
        const std::int32_t n = site.heads * site.head_size;
        if (site.perm_at >= 0)
            given_permutation(team, site.given.perm ? site.given.perm + k * n : nullptr, n,
                              reinterpret_cast<std::int32_t*>(record + site.perm_at),
                              reinterpret_cast<std::int32_t*>(record + site.pos_at));
        if (site.value_at < 0) continue;
        const T* scale = static_cast<const T*>(site.given.scale);
        for (std::int32_t u = team.rank; u < n; u += kWarp)
            reinterpret_cast<T*>(record + site.value_at)[u] =
                (scale ? scale[k * n + u] : T(1)) * (site.given.sign ? T(site.given.sign[k * n + u]) : T(1));
    }
}

template <class T>
__device__ __forceinline__ void derive(const WarpTeam& team, const FusedJob& job, unsigned char* record) {
    auto ints = [&](std::int32_t at) { return reinterpret_cast<std::int32_t*>(record + at); };
    auto reals = [&](std::int32_t at) { return reinterpret_cast<T*>(record + at); };
    for (std::int32_t i = 0; i < job.column_count; ++i) {
        const FusedColumn& column = job.columns[i];
        const FusedSite& site = job.sites[column.site];
        if (!column.factor) {
            for (std::int32_t j = team.rank; j < column.size; j += kWarp) {
                const std::int32_t u = divide(j, column.magic);
                ints(column.at)[j] = index_entry(ints(site.perm_at), u, j - u * column.repeat, column.repeat);
            }
            continue;
        }
        const std::int32_t* pos = column.source_order ? ints(site.pos_at) : nullptr;
        for (std::int32_t j = team.rank; j < column.size; j += kWarp)
            reals(column.at)[j] =
                factor_entry<T>(reals(site.value_at), pos, divide(j, column.magic), column.power, column.dual);
    }
}

// The items of one block: V columns of G rows each.
template <class S, class T, int V, int G>
__device__ __forceinline__ void write(const WarpTeam& team, const FusedBlock& block, const char* record, const S* panel,
                                      S* result) {
    const std::int32_t items = divide_up(block.rows, G) * block.packs;
    for (std::int32_t item = team.rank; item < items; item += kWarp) {
        const std::int32_t g = divide(item, block.magic), c = (item - g * block.packs) * V;
        std::int32_t index[V];
        T column[V];
        load_columns<T, V>(record, block.index_at, block.factor_at, c, index, column);
        T row[G];
        S* out[G];
        if (G > 1 && block.single) {
            std::int32_t to[G];
            const FusedOuter& axis = block.outer[0];
#pragma unroll
            for (int r = 0; r < G; ++r) to[r] = g * G + r, row[r] = 1;
            if (axis.pos_at >= 0)
                load_vector<G>(reinterpret_cast<const std::int32_t*>(record + axis.pos_at) + g * G, to);
            if (axis.factor_at >= 0) load_vector<G>(reinterpret_cast<const T*>(record + axis.factor_at) + g * G, row);
#pragma unroll
            for (int r = 0; r < G; ++r) {
                if (to[r] < 0) row[r] = not_a_number<T>();
                out[r] = result + (c + unit_of(to[r]) * axis.out_stride);
            }
            write_gathered<S, T, V, G>(panel + std::int32_t(g * block.width * G), index, column, row, out, G);
            continue;
        }
#pragma unroll
        for (int r = 0; r < G; ++r) {
            std::int32_t at = c, rest = G == 1 ? g : min(g * G + r, block.rows - 1);
            row[r] = 1;
            for (int d = block.outers - 1; d >= 0; --d) {
                const FusedOuter& axis = block.outer[d];
                const std::int32_t next = d ? divide(rest, axis.magic) : 0, digit = rest - next * axis.size;
                std::int32_t to = digit;
                if (axis.pos_at >= 0) to = reinterpret_cast<const std::int32_t*>(record + axis.pos_at)[digit];
                if (axis.factor_at >= 0) row[r] *= reinterpret_cast<const T*>(record + axis.factor_at)[digit];
                if (to < 0) row[r] = not_a_number<T>();
                at += unit_of(to) * axis.out_stride;
                rest = next;
            }
            out[r] = result + at;
        }
        if (G == 1 && block.index_at < 0) {
            S w[V];
            load_vector<V>(panel + (g * block.width + c), w);
#pragma unroll
            for (int v = 0; v < V; ++v) w[v] = product(w[v], row[0], column[v]);
            store_vector(out[0], w);
            continue;
        }
        write_gathered<S, T, V, G>(panel + std::int32_t(g * block.width * G), index, column, row, out,
                                   block.rows - g * G);
    }
}

// The packs of all tensors with one row.
template <class S, class T>
__device__ __forceinline__ void write_list(const WarpTeam& team, const Item* list, std::int32_t size, std::int64_t k,
                                           const char* record, const unsigned char* panels) {
    constexpr int V = kPackColumns<S>;
    for (std::int32_t i = team.rank; i < size; i += kWarp) {
        const Item item = list[i];
        std::int32_t index[V];
        T column[V];
        load_columns<T, V>(record, item.index_at, item.factor_at, 0, index, column);
        if (item.index_at < 0)
#pragma unroll
            for (int v = 0; v < V; ++v) index[v] = item.first + v;
        const T row[1] = {1};
        S* const out[1] = {reinterpret_cast<S*>(item.out + k * item.out_stride)};
        write_gathered<S, T, V, 1>(reinterpret_cast<const S*>(panels + item.panel_at), index, column, row, out, 1);
    }
}

template <class S, class T>
__global__ void __launch_bounds__(kThreads) fused(__grid_constant__ const FusedJob job) {
    const WarpTeam team;
    const int warp = int(threadIdx.x) / kWarp;
    unsigned char* const shared = dynamic_shared();
    Draw* const draws = reinterpret_cast<Draw*>(shared);
    Item* const list = reinterpret_cast<Item*>(shared + job.list_at);
    std::int32_t listed = 0;
    for (std::int32_t b = 0; b < job.block_count; ++b) {
        const FusedBlock& block = job.blocks[b];
        if (block.path != 3) continue;
        constexpr std::int32_t P = kPackColumns<S>;
        for (std::int32_t c = std::int32_t(threadIdx.x); c < block.packs; c += kThreads)
            list[listed + c] = {block.out + (block.out_at + c * P) * std::int32_t(sizeof(S)),
                                std::int32_t(block.out_stride),
                                block.panel_at,
                                block.index_at < 0 ? -1 : block.index_at + 4 * P * c,
                                block.factor_at < 0 ? -1 : block.factor_at + std::int32_t(sizeof(T)) * P * c,
                                P * c,
                                0};
        listed += block.packs;
    }
    for (std::int32_t d = std::int32_t(threadIdx.x); d < job.draws; d += kThreads) {
        std::int32_t s = job.segment_count - 1;
        while (job.segments[s].begin > d) --s;
        const FusedSegment& segment = job.segments[s];
        draws[d] = {std::uint32_t(segment.site), segment.draw | std::uint32_t(d - segment.begin), segment.std};
    }
    unsigned char* const panels = shared + job.panels_at + (job.stacked ? warp * job.panel_bytes : 0);
    unsigned char* const record = shared + job.records_at + warp * job.record_bytes;
    if (!job.stacked)
        for (std::int32_t b = 0; b < job.block_count; ++b)
            pack(BlockTeam(), job.blocks[b], job.blocks[b].source,
                 reinterpret_cast<S*>(panels + job.blocks[b].panel_at));
    copy_commit();
    copy_wait();
    __syncthreads();
    for (std::int64_t k = std::int64_t(blockIdx.x) * kFusedWarps + warp; k < job.count;
         k += std::int64_t(gridDim.x) * kFusedWarps) {
        for (std::int32_t b = 0; job.stacked && b < job.block_count; ++b)
            pack(team, job.blocks[b], job.blocks[b].source + k * job.blocks[b].source_stride,
                 reinterpret_cast<S*>(panels + job.blocks[b].panel_at));
        copy_commit();
        if (job.given)
            take<T>(team, job, k, record);
        else
            draw<T>(team, job, job.first + std::uint64_t(k) * std::uint64_t(job.step), draws, record);
        team.sync();
        derive<T>(team, job, record);
        copy_wait();
        team.sync();
        write_list<S, T>(team, list, job.list_size, k, reinterpret_cast<const char*>(record), panels);
        for (std::int32_t b = 0; b < job.block_count; ++b) {
            const FusedBlock& block = job.blocks[b];
            if (block.path == 3) continue;
            const char* at = reinterpret_cast<const char*>(record);
            const S* panel = reinterpret_cast<const S*>(panels + block.panel_at);
            S* result = reinterpret_cast<S*>(block.out + k * block.out_stride) + block.out_at;
            if (block.path == 2)
                write<S, T, kPackColumns<S>, kRows<S>>(team, block, at, panel, result);
            else if (block.path == 1)
                write<S, T, kPackColumns<S>, 1>(team, block, at, panel, result);
            else
                write<S, T, 1, 1>(team, block, at, panel, result);
        }
        team.sync();
    }
}

template <class S, class T>
void start(const FusedJob& job, std::size_t shared, Stream stream) {
    const std::int64_t fits =
        std::int64_t(multiprocessors()) * std::max(1, blocks_per_multiprocessor(fused<S, T>, kThreads, shared));
    const std::int64_t blocks = std::min(fits, divide_up(job.count, kFusedWarps));
    launch("orbit: small network", fused<S, T>, dim3(unsigned(blocks)), dim3(kThreads), shared, stream, job);
}

}  // namespace

void launch_fused(const FusedJob& job, Dtype dtype, std::size_t shared, Stream stream) {
    visit_storage(dtype, [&](auto s) {
        typedef decltype(s) S;
        start<S, typename ComputeOf<S>::type>(job, shared, stream);
    });
}

}  // namespace nnsym::cuda
