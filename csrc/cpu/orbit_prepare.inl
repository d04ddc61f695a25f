// SPDX-License-Identifier: MIT
// Group elements of one sample: permutations by stable argsort of keys, log-normal scales, and the arrays
// that the action reads, all into one record.
namespace {

using namespace nnsym::orbit;

// Stable argsort by counting: pos[i] = #{j : key_j < key_i, or equal and j < i}. n^2 / lanes comparisons, no branches.
// Equal keys are rare: they show in the sum of the ranks, and are then counted one by one.
void rank_by_counting(const std::int32_t* keys, std::int32_t n, std::int32_t* pos) {
    constexpr int L = kLanes<float>;
    I32 sum = {};
    auto keep = [&](I32 rank, std::int32_t i) {
        const std::int32_t count = n - i;
        if (count >= L) return store(pos + i, rank), void(sum += rank);
        for (int l = 0; l < count; ++l) pos[i + l] = rank[l], sum[l] += rank[l];
    };
    for (std::int32_t i = 0; i < n; i += 2 * L) {
        const I32 a = load<I32>(keys + i), b = load<I32>(keys + i + L);
        I32 rank_a = {}, rank_b = {};
#pragma GCC unroll 4
        for (std::int32_t j = 0; j < n; ++j) {
            const I32 other = splat<I32>(keys[j]);
            rank_a = other < a ? rank_a + 1 : rank_a;
            rank_b = other < b ? rank_b + 1 : rank_b;
        }
        keep(rank_a, i);
        keep(rank_b, i + L);
    }
    std::int64_t total = 0;
    for (int l = 0; l < L; ++l) total += sum[l];
    if (total == std::int64_t(n) * (n - 1) / 2) return;
    for (std::int32_t i = 0; i < n; ++i)
        for (std::int32_t j = 0; j < i; ++j) pos[i] += keys[j] == keys[i];
}

// Puts right what a sort by leading bits left: neighbours whose full keys are out of order. Uniform keys leave little.
void finish_by_insertion(const std::int32_t* keys, std::int32_t n, std::int32_t* order, std::int32_t* pos) {
    for (std::int32_t r = 1; r < n; ++r) {
        const std::int32_t i = order[r], key = keys[i];
        std::int32_t at = r;
        while (at > 0 && keys[order[at - 1]] > key) {
            order[at] = order[at - 1];
            --at;
        }
        order[at] = i;
    }
    for (std::int32_t r = 0; r < n; ++r) pos[order[r]] = r;
}

// Stable argsort of up to 2^16 keys: radix sort of (leading half of the key, index), a byte at a time.
void rank_by_radix(const std::int32_t* keys, std::int32_t n, std::int32_t* pos, std::int32_t* work) {
    std::uint32_t *a = reinterpret_cast<std::uint32_t*>(work), *b = a + n;
    std::int32_t low[257] = {}, high[257] = {};
    for (std::int32_t i = 0; i < n; ++i) {
        const std::uint32_t key = std::uint32_t(keys[i]) ^ 0x80000000u;
        a[i] = (key & 0xffff0000u) | std::uint32_t(i);
        ++low[(key >> 16 & 0xff) + 1];
        ++high[(key >> 24) + 1];
    }
    for (int d = 0; d < 256; ++d) low[d + 1] += low[d], high[d + 1] += high[d];
    for (std::int32_t i = 0; i < n; ++i) b[low[a[i] >> 16 & 0xff]++] = a[i];
    std::int32_t* order = work;
    for (std::int32_t i = 0; i < n; ++i) order[high[b[i] >> 24]++] = std::int32_t(b[i] & 0xffff);
    finish_by_insertion(keys, n, order, pos);
}

// Stable argsort of more: one bucket per element by the leading bits.
void rank_by_buckets(const std::int32_t* keys, std::int32_t n, std::int32_t* pos, std::int32_t* work) {
    const int shift = __builtin_clz(unsigned(n - 1));  // 2^(32 - shift) >= n buckets
    const std::int32_t buckets = std::int32_t(1) << (32 - shift);
    std::int32_t *start = work, *order = work + buckets + 1;
    auto bucket = [&](std::int32_t i) { return (std::uint32_t(keys[i]) ^ 0x80000000u) >> shift; };
    for (std::int32_t b = 0; b <= buckets; ++b) start[b] = 0;
    for (std::int32_t i = 0; i < n; ++i) ++start[bucket(i) + 1];
    for (std::int32_t b = 0; b < buckets; ++b) start[b + 1] += start[b];
    for (std::int32_t i = 0; i < n; ++i) order[start[bucket(i)]++] = i;
    finish_by_insertion(keys, n, order, pos);
}

constexpr std::int32_t kCountingLimit = 160;  // the faster of the two; benchmarks/test_orbit.py, elements

NNSYM_INLINE void ranks(const std::int32_t* keys, std::int32_t n, std::int32_t* pos, std::int32_t* work) {
    if (n <= kCountingLimit)
        rank_by_counting(keys, n, pos);
    else if (n <= 1 << 16)
        rank_by_radix(keys, n, pos, work);
    else
        rank_by_buckets(keys, n, pos, work);
}

// perm and its inverse pos from the keys of one site.
void draw_permutation(const Site& site, const Scratch& scratch, std::int32_t* perm, std::int32_t* pos) {
    const std::int32_t h = site.heads, m = site.head_size;
    std::int32_t *head_pos = scratch.order, *work = scratch.order + h + kPad;
    if (site.permute_heads)
        ranks(scratch.keys + 4 * site.heads_block, h, head_pos, work);
    else
        for (std::int32_t a = 0; a < h; ++a) head_pos[a] = a;
    // Unit k of result head a reads unit sigma_a(k) of head pi(a); pi inverts head_pos, and pos starts out as sigma's.
    const std::int32_t* keys = scratch.keys + 4 * site.permutation_block;
    for (std::int32_t source = 0; source < h; ++source) {
        const std::int32_t a = head_pos[source];
        std::int32_t* to = pos + std::int64_t(source) * m;
        if (site.permute_units)
            ranks(keys + std::int64_t(a) * m, m, to, work);
        else
            for (std::int32_t k = 0; k < m; ++k) to[k] = k;
        const std::int32_t out = a * m, in = source * m;
        for (std::int32_t k = 0; k < m; ++k) {
            to[k] += out;
            perm[to[k]] = in + k;
        }
    }
}

template <class T>
NNSYM_INLINE typename Vec<T>::F load_std(const double* p) {
    if constexpr (sizeof(T) == 8) {
        return load<typename Vec<T>::F>(p);
    } else {
        typedef Vec<double>::F D;
        constexpr int half = kLanes<double>;
        return join(__builtin_convertvector(load<D>(p), Vec<float>::Half),
                    __builtin_convertvector(load<D>(p + half), Vec<float>::Half), typename Iota<kLanes<float>>::type());
    }
}

// Scales of all sites together: Box-Muller on four words of a block, a = exp(std * normal), in natural order.
template <class T>
void draw_scales(const Plan& plan, const Scratch& scratch) {
    typedef typename Vec<T>::F F;
    T* out = static_cast<T*>(scratch.values);
    const std::uint32_t* w = scratch.words;
    const std::int64_t stride = plan.draws;
    for (std::int64_t b = plan.scale_begin; b < stride; b += kLanes<T>, out += 4 * kLanes<T>) {
        const F std = load_std<T>(plan.draw_std + (b - plan.scale_begin));
        F normal[4];
        box_muller<T>(w + b, stride, normal);
        store_interleaved(out, Math<T>::exp(std * normal[0]), Math<T>::exp(std * normal[1]),
                          Math<T>::exp(std * normal[2]), Math<T>::exp(std * normal[3]));
    }
}

template <class T>
T power_of(T a, double power) {
    const bool negative = a < 0 && __builtin_fmod(power, 2.0) != 0;
    const T magnitude = T(__builtin_pow(double(a < 0 ? -a : a), power));
    return negative ? -magnitude : magnitude;
}

// Unit j / repeat of position j, for a vector of positions: exact, since they are below 2^21.
template <class T>
NNSYM_INLINE typename Vec<T>::I32 units_of(typename Vec<T>::I32 position, float reciprocal) {
    typedef typename Vec<T>::I32 I;
    typedef float F __attribute__((vector_size(sizeof(I))));
    return __builtin_convertvector((__builtin_convertvector(position, F) + 0.5f) * reciprocal, I);
}
template <class T>
NNSYM_INLINE typename Vec<T>::I32 gather_units(const std::int32_t* base, typename Vec<T>::I32 i) {
    if constexpr (sizeof(T) == 4) {
        return reinterpret_cast<typename Vec<T>::I32>(gather(reinterpret_cast<const float*>(base), i));
    } else {
        for (int l = 0; l < kLanes<T>; ++l) i[l] = base[i[l]];
        return i;
    }
}

// The columns write whole vectors, into their padding; what they gather beyond a site's units is padding too.
void index_column(const std::int32_t* perm, std::int32_t* out, std::int64_t size, std::int32_t repeat) {
    const float reciprocal = 1.0f / float(repeat);
    for (std::int64_t j = 0; j < size; j += kLanes<float>) {
        const I32 position = iota<I32>() + std::int32_t(j);
        const I32 unit = units_of<float>(position, reciprocal);
        const I32 index = gather_units<float>(perm, unit) * repeat + (position - unit * repeat);
        store(out + j, position < splat<I32>(std::int32_t(size)) ? index : I32{});
    }
}

template <class T>
void factor_column(const Column& column, const T* value, const std::int32_t* pos, std::int64_t n, T* out) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I32 I;
    constexpr int L = kLanes<T>;
    const std::int64_t size = n * column.repeat;
    const float reciprocal = 1.0f / float(column.repeat);
    for (std::int64_t j = 0; j < size; j += L) {
        I unit;
        if (column.repeat == 1) {
            unit = pos ? load<I>(pos + j) : I{};
        } else {
            unit = units_of<T>(iota<I>() + std::int32_t(j), reciprocal);
            if (pos) unit = gather_units<T>(pos, unit);
        }
        F f = column.repeat == 1 && !pos ? load<F>(value + j) : gather(value, unit);
        if (column.power == 2)
            f = f * f;
        else if (column.power != 1)
            for (int l = 0; l < L; ++l) f[l] = power_of<T>(f[l], column.power);
        store(out + j, column.dual ? 1 / f : f);
    }
}

// A permutation that the caller brings, and its inverse; false if it is not one.
bool given_permutation(const std::int32_t* given, std::int64_t n, std::int32_t* perm, std::int32_t* pos) {
    if (!given) {
        for (std::int64_t u = 0; u < n; ++u) perm[u] = pos[u] = std::int32_t(u);
        return true;
    }
    std::memcpy(perm, given, std::size_t(n) * 4);
    for (std::int64_t u = 0; u < n; ++u) pos[u] = -1;
    for (std::int64_t u = 0; u < n; ++u) {
        if (perm[u] < 0 || perm[u] >= n || pos[perm[u]] >= 0) return false;
        pos[perm[u]] = std::int32_t(u);
    }
    return true;
}

// sign * scale of every unit.
template <class T>
void given_values(const GivenSite& given, std::int64_t k, std::int64_t n, T* value) {
    const T* scale = static_cast<const T*>(given.scale);
    for (std::int64_t u = 0; u < n; ++u)
        value[u] = (scale ? scale[k * n + u] : T(1)) * (given.sign ? T(given.sign[k * n + u]) : T(1));
}
template <class T>
void drawn_values(const Plan& plan, const Site& site, const Scratch& scratch, T* value) {
    const std::int64_t n = site.size();
    if (site.scales)
        std::memcpy(value, static_cast<const T*>(scratch.values) + 4 * (site.scale_block - plan.scale_begin),
                    std::size_t(n) * sizeof(T));
    else
        for (std::int64_t u = 0; u < n; ++u) value[u] = 1;
    if (!site.negates) return;
    for (std::int64_t u = 0; u < n; ++u) {
        const std::int64_t word = u >> 5;
        const std::uint32_t bits = scratch.words[(word & 3) * plan.draws + site.sign_block + (word >> 2)];
        value[u] = (bits >> (u & 31)) & 1 ? -value[u] : value[u];
    }
}

template <class T>
bool prepare(const Plan& plan, std::uint64_t seed, std::uint64_t sample, const GivenSite* given, std::int64_t k,
             char* record, const Scratch& scratch) {
    auto ints = [&](std::int64_t at) { return reinterpret_cast<std::int32_t*>(record + at); };
    auto reals = [&](std::int64_t at) { return reinterpret_cast<T*>(record + at); };
    if (!given) {
        philox(seed, sample, plan.draw_site, plan.draw_index, scratch.words, plan.draws);
        const std::uint32_t* w = scratch.words;
        for (std::int64_t b = 0; b < plan.key_draws; b += kLanes<float>) {
            const U32 bias = splat<U32>(0x80000000u);
            store_interleaved(scratch.keys + 4 * b, load<U32>(w + b) ^ bias, load<U32>(w + plan.draws + b) ^ bias,
                              load<U32>(w + 2 * plan.draws + b) ^ bias, load<U32>(w + 3 * plan.draws + b) ^ bias);
        }
    }
    for (std::int32_t i = 0; i < plan.site_count; ++i) {
        const Site& site = plan.sites[i];
        const std::int64_t n = site.size();
        if (site.perm_at < 0) continue;
        if (!given)
            draw_permutation(site, scratch, ints(site.perm_at), ints(site.pos_at));
        else if (!given_permutation(given[i].perm ? given[i].perm + k * n : nullptr, n, ints(site.perm_at),
                                    ints(site.pos_at)))
            return false;
    }
    // After the permutations, whose stores reach the cache meanwhile.
    if (!given) draw_scales<T>(plan, scratch);
    for (std::int32_t i = 0; i < plan.site_count; ++i) {
        const Site& site = plan.sites[i];
        if (site.value_at < 0) continue;
        if (given)
            given_values<T>(given[i], k, site.size(), reals(site.value_at));
        else
            drawn_values<T>(plan, site, scratch, reals(site.value_at));
    }
    for (std::int32_t i = 0; i < plan.column_count; ++i) {
        const Column& column = plan.columns[i];
        const Site& site = plan.sites[column.site];
        const std::int64_t n = site.size();
        if (!column.factor)
            index_column(ints(site.perm_at), ints(column.at), n * column.repeat, column.repeat);
        else
            factor_column<T>(column, reals(site.value_at),
                             column.source_order && site.perm_at >= 0 ? ints(site.pos_at) : nullptr, n,
                             reals(column.at));
    }
    return true;
}

}  // namespace
