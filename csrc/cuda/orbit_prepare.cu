// SPDX-License-Identifier: MIT
// Elements of many samples, a thread block for each site of each: permutations by stable argsort of keys, signs,
// scales, and the columns that the action reads.
#include <algorithm>

#include "orbit_elements.cuh"

namespace nnsym::cuda {
namespace {

using namespace nnsym::orbit;

// Sums of the entries before each, in place.
__device__ void exclusive_scan(const BlockTeam& team, std::int32_t* x, std::int32_t n) {
    __shared__ std::int32_t totals[kWarp];
    const std::int32_t each = divide_up(n, team.size);
    const std::int32_t begin = min(n, team.rank * each), end = min(n, begin + each);
    const int lane = team.rank % kWarp, warp = team.rank / kWarp;
    std::int32_t sum = 0;
    for (std::int32_t i = begin; i < end; ++i) sum += x[i];
    std::int32_t before = sum;
    for (int step = 1; step < kWarp; step *= 2) {
        const std::int32_t other = __shfl_up_sync(kAll, before, step);
        if (lane >= step) before += other;
    }
    if (lane == kWarp - 1) totals[warp] = before;
    team.sync();
    before -= sum;
    for (int w = 0; w < warp; ++w) before += totals[w];
    for (std::int32_t i = begin; i < end; ++i) {
        const std::int32_t count = x[i];
        x[i] = before;
        before += count;
    }
    team.sync();
}

__device__ void draw_keys(const BlockTeam& team, std::uint64_t seed, std::uint64_t sample, std::uint32_t site,
                          DrawPart part, std::int32_t n, std::uint32_t* keys) {
    for (std::int32_t b = team.rank; b < (n + 3) / 4; b += team.size) {
        const uint4 words = philox(seed, sample, site, draw_index(part, b));
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (4 * b + i < n) keys[4 * b + i] = word(words, i);
    }
    team.sync();
}

// Stable argsort of `segments` runs of m keys: emit(i, rank), both counted over all runs. By leading bits into buckets
// of one or two keys each, and by comparison inside a bucket, in whatever order they came to lie there.
template <class Emit>
__device__ void rank_keys(const BlockTeam& team, const std::uint32_t* keys, std::int32_t segments, std::int32_t m,
                          std::int32_t* ends, std::int32_t* order, Emit emit) {
    const std::int32_t n = segments * m, bits = 31 - __clz(m), buckets = segments << bits;
    auto bucket = [&](std::int32_t i) {
        const std::int32_t leading = bits ? std::int32_t(keys[i] >> (32 - bits)) : 0;
        return segments == 1 ? leading : ((i / m) << bits) + leading;
    };
    for (std::int32_t b = team.rank; b < buckets; b += team.size) ends[b] = 0;
    team.sync();
    for (std::int32_t i = team.rank; i < n; i += team.size) atomicAdd(&ends[bucket(i)], 1);
    team.sync();
    exclusive_scan(team, ends, buckets);
    for (std::int32_t i = team.rank; i < n; i += team.size) order[atomicAdd(&ends[bucket(i)], 1)] = i;
    team.sync();
    for (std::int32_t i = team.rank; i < n; i += team.size) {
        const std::int32_t b = bucket(i), begin = b ? ends[b - 1] : 0, end = ends[b];
        const std::uint32_t key = keys[i];
        std::int32_t rank = begin;
        for (std::int32_t s = begin; s < end; ++s) {
            const std::int32_t other = order[s];
            rank += keys[other] < key || (keys[other] == key && other < i);
        }
        emit(i, rank);
    }
    team.sync();
}

// Unit k of result head a reads unit sigma_a(k) of head pi(a).
__device__ void draw_permutation(const BlockTeam& team, const Site& site, std::uint64_t seed, std::uint64_t sample,
                                 std::int32_t* scratch, std::int32_t* perm, std::int32_t* pos) {
    const std::int32_t h = site.heads, m = site.head_size, n = h * m;
    std::uint32_t* keys = reinterpret_cast<std::uint32_t*>(scratch);
    std::int32_t *ends = scratch + n, *order = ends + n, *pi = order + n;
    if (site.permute_heads) {
        draw_keys(team, seed, sample, site.head_index, kHeads, h, keys);
        rank_keys(team, keys, 1, h, ends, order, [&](std::int32_t i, std::int32_t rank) { pi[rank] = i; });
    }
    auto set = [&](std::int32_t at, std::int32_t from) {
        perm[at] = from;
        if (pos) pos[from] = at;
    };
    auto moved = [&](std::int32_t i) { return site.permute_heads ? pi[i / m] * m + i % m : i; };
    if (site.permute_units) {
        draw_keys(team, seed, sample, site.index, kPermutation, n, keys);
        rank_keys(team, keys, h, m, ends, order, [&](std::int32_t i, std::int32_t rank) { set(rank, moved(i)); });
    } else {
        for (std::int32_t i = team.rank; i < n; i += team.size) set(i, moved(i));
        team.sync();
    }
}

// emit(u, negative, scale) for every unit.
template <class T, class Emit>
__device__ void draw_values(const BlockTeam& team, const Site& site, std::uint64_t seed, std::uint64_t sample,
                            Emit emit) {
    const std::int32_t n = site.heads * site.head_size;
    for (std::int32_t b = team.rank; b < (n + 3) / 4; b += team.size) {
        T scale[4] = {1, 1, 1, 1};
        std::uint32_t bits = 0;
        if (site.scales) {
            const uint4 w = philox(seed, sample, site.index, draw_index(kScale, b));
            box_muller(w.x, w.y, scale[0], scale[1]);
            box_muller(w.z, w.w, scale[2], scale[3]);
#pragma unroll
            for (int i = 0; i < 4; ++i) scale[i] = exp(T(site.scale_std) * scale[i]);
        }
        if (site.negates) {
            const std::int32_t at = b >> 3;  // the word of 32 signs
            bits = word(philox(seed, sample, site.index, draw_index(kSign, at >> 2)), at & 3) >> (4 * b & 31);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (4 * b + i < n) emit(4 * b + i, (bits >> i & 1) != 0, scale[i]);
    }
}

template <class T>
__global__ void __launch_bounds__(1024) prepare(__grid_constant__ const SiteBatch batch) {
    const BlockTeam team;
    const SiteJob& job = batch.sites[blockIdx.y];
    const Site& site = job.site;
    const std::int64_t k = blockIdx.x;
    const std::int32_t n = site.heads * site.head_size;
    const std::uint64_t sample = batch.first + std::uint64_t(k) * std::uint64_t(batch.step);
    char* const record = batch.records + k * batch.record_bytes;
    auto ints = [&](std::int64_t at) {
        return batch.records && at >= 0 ? reinterpret_cast<std::int32_t*>(record + at) : nullptr;
    };
    auto reals = [&](std::int64_t at) {
        return batch.records && at >= 0 ? reinterpret_cast<T*>(record + at) : nullptr;
    };
    std::int32_t* const perm = job.out.perm ? job.out.perm + k * n : ints(site.perm_at);
    std::int32_t* const pos = ints(site.pos_at);
    T* const value = reals(site.value_at);
    if (!job.prepared) {
        std::int32_t* scratch = ints(job.scratch_at);
        if (!scratch) scratch = reinterpret_cast<std::int32_t*>(dynamic_shared());
        if (!perm)
            ;
        else if (job.is_given)
            given_permutation(team, job.given.perm ? job.given.perm + k * n : nullptr, n, perm, pos);
        else
            draw_permutation(team, site, batch.seed, sample, scratch, perm, pos);
        if (job.is_given) {
            const T* scale = static_cast<const T*>(job.given.scale);
            for (std::int32_t u = team.rank; value && u < n; u += team.size)
                value[u] = (scale ? scale[k * n + u] : T(1)) * (job.given.sign ? T(job.given.sign[k * n + u]) : T(1));
        } else if (site.scales || site.negates) {
            draw_values<T>(team, site, batch.seed, sample, [&](std::int32_t u, bool negative, T scale) {
                if (value) value[u] = negative ? -scale : scale;
                if (job.out.sign) job.out.sign[k * n + u] = negative ? -1 : 1;
                if (job.out.scale) static_cast<T*>(job.out.scale)[k * n + u] = scale;
            });
        }
        team.sync();
    }
    for (std::int32_t c = job.column_begin; c < job.column_end; ++c) {
        const Column& column = batch.columns[c];
        const std::int32_t size = n * column.repeat;
        for (std::int32_t j = team.rank; j < size; j += team.size) {
            const std::int32_t u = column.repeat == 1 ? j : j / column.repeat;
            if (column.factor)
                reals(column.at)[j] =
                    factor_entry<T>(value, column.source_order ? pos : nullptr, u, column.power, column.dual);
            else
                ints(column.at)[j] = index_entry(perm, u, j - u * column.repeat, column.repeat);
        }
    }
}

}  // namespace

void launch_prepare(const SiteBatch& batch, std::int32_t sites, bool wide, Stream stream) {
    std::int64_t largest = 1, shared = 0;
    for (std::int32_t i = 0; i < sites; ++i) {
        const SiteJob& job = batch.sites[i];
        largest = std::max(largest, job.site.size());
        if (job.scratch_at < 0 && !job.is_given && !job.prepared && job.site.permutes())
            shared = std::max(shared, 16 * job.site.size());
    }
    const int threads = largest > kSharedUnits ? 1024 : int(std::min<std::int64_t>(256, divide_up(largest, 32) * 32));
    launch("orbit: elements", wide ? prepare<double> : prepare<float>, dim3(unsigned(batch.count), unsigned(sites)),
           dim3(unsigned(threads)), std::size_t(shared), stream, batch);
}

}  // namespace nnsym::cuda
