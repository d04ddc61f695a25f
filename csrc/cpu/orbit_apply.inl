// SPDX-License-Identifier: MIT
// The action on one block: result row pos(r) = source row r gathered by index, times the row's factor, times the
// columns'. Always (w * row) * column, so every path gives the same bits.
namespace {

using namespace nnsym::orbit;

struct Bfloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

// One vector of the compute type T from storage S, and back with round-to-nearest-even.
template <class S, class T>
struct Convert;
template <class T>
struct Convert<T, T> {
    typedef typename Vec<T>::F Stored;
    static NNSYM_INLINE typename Vec<T>::F load(const T* p) { return ::load<typename Vec<T>::F>(p); }
    static NNSYM_INLINE Stored round(typename Vec<T>::F v) { return v; }
};
template <>
struct Convert<Bfloat16, float> {
    typedef Vec<float>::U16 Stored;
    static NNSYM_INLINE Vec<float>::F load(const Bfloat16* p) {
        return reinterpret_cast<Vec<float>::F>(__builtin_convertvector(::load<Stored>(p), U32) << 16);
    }
    static NNSYM_INLINE Stored round(Vec<float>::F v) { return __builtin_convertvector(nearest(v) >> 16, Stored); }
    // The upper half is the result. A NaN stays one: it comes from a multiplication, so it is quiet, and from bfloat16,
    // so its lower half is zero and the sum cannot carry into the sign.
    static NNSYM_INLINE U32 nearest(Vec<float>::F v) {
        U32 bits = reinterpret_cast<U32>(v);
        return bits + ((bits >> 16) & 1u) + 0x7fffu;
    }
};
template <>
struct Convert<Float16, float> {
    typedef Vec<float>::U16 Stored;
#if defined(__AVX512F__)
    static NNSYM_INLINE Vec<float>::F load(const Float16* p) {
        return reinterpret_cast<Vec<float>::F>(_mm512_cvtph_ps(::load<__m256i>(p)));
    }
    static NNSYM_INLINE Stored round(Vec<float>::F v) {
        return reinterpret_cast<Stored>(_mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#elif defined(__F16C__)
    static NNSYM_INLINE Vec<float>::F load(const Float16* p) {
        return reinterpret_cast<Vec<float>::F>(_mm256_cvtph_ps(::load<__m128i>(p)));
    }
    static NNSYM_INLINE Stored round(Vec<float>::F v) {
        return reinterpret_cast<Stored>(_mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#else
    static NNSYM_INLINE Vec<float>::F load(const Float16* p) {
        U32 h = __builtin_convertvector(::load<Stored>(p), U32);
        U32 sign = (h & 0x8000u) << 16, rest = (h & 0x7fffu) << 13;
        // The exponent is rebiased by a multiplication, which also normalises subnormals.
        Vec<float>::F x = reinterpret_cast<Vec<float>::F>(rest) * 0x1p112f;
        U32 special = rest | 0x7f800000u;
        U32 quiet = rest > splat<U32>(0x0f800000u) ? special | 0x00400000u : special;
        U32 bits = rest >= splat<U32>(0x0f800000u) ? quiet : reinterpret_cast<U32>(x);
        return reinterpret_cast<Vec<float>::F>(bits | sign);
    }
    static NNSYM_INLINE Stored round(Vec<float>::F v) {
        U32 bits = reinterpret_cast<U32>(v), sign = (bits >> 16) & 0x8000u, a = bits & 0x7fffffffu;
        // Normal: rebias and round. Subnormal: adding 1/2 leaves the rounded result in the low bits of the sum.
        U32 normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
        U32 tiny = reinterpret_cast<U32>(reinterpret_cast<Vec<float>::F>(a) + 0.5f) - 0x3f000000u;
        U32 out = a < splat<U32>(0x38800000u) ? tiny : normal;
        out = a >= splat<U32>(0x477ff000u) ? splat<U32>(0x7c00u) : out;
        out = a > splat<U32>(0x7f800000u) ? (a >> 13 & 0x3ffu) | splat<U32>(0x7e00u) : out;
        return __builtin_convertvector(out | sign, Stored);
    }
#endif
};
template <>
struct Convert<float, double> {
    typedef Vec<double>::Narrow Stored;
    static NNSYM_INLINE Vec<double>::F load(const float* p) {
        return __builtin_convertvector(::load<Stored>(p), Vec<double>::F);
    }
    static NNSYM_INLINE Stored round(Vec<double>::F v) { return __builtin_convertvector(v, Stored); }
};

NNSYM_INLINE std::int64_t to_boundary(const void* p, std::int64_t boundary) {
    return std::int64_t(-reinterpret_cast<std::uintptr_t>(p) & std::uintptr_t(boundary - 1));
}

void stream_copy(void* out, const void* in, std::int64_t bytes) {
    char* to = static_cast<char*>(out);
    const char* from = static_cast<const char*>(in);
    std::int64_t head = to_boundary(to, 64);
    if (head > bytes) head = bytes;
    std::memcpy(to, from, std::size_t(head));
    std::int64_t i = head;
    for (; i + 64 <= bytes; i += 64)
        for (int part = 0; part < 64; part += kVectorBytes) stream(to + i + part, load<I32>(from + i + part));
    std::memcpy(to + i, from + i, std::size_t(bytes - i));
}

void stream_fill(void* out, std::int64_t bytes, float value) {
    Vec<float>::F v = splat<Vec<float>::F>(value);
    char* to = static_cast<char*>(out);
    for (std::int64_t i = 0; i + kVectorBytes <= bytes; i += kVectorBytes) stream(to + i, v);
    stream_fence();
}

// A whole vector of storage, kWhole results, from value(j, lanes).
template <class S, class T>
constexpr int kWhole = kVectorBytes / int(sizeof(S));
template <class S, class T, class Value>
NNSYM_INLINE auto whole(std::int64_t j, Value value) {
    constexpr int L = kLanes<T>;
    if constexpr (kWhole<S, T> == L)
        return Convert<S, T>::round(value(j, L));
    else
        return join(Convert<S, T>::round(value(j, L)), Convert<S, T>::round(value(j + L, L)),
                    typename Iota<kWhole<S, T>>::type());
}

// out[0, width): the row's vectors one after another; unit(j) gives whole ones. With streaming, a first part reaches an
// aligned address. Vectors that would pass the end are stored in part, after reading at most kPad elements of padding
// (never past the end of the source).
template <class S, class T, class Unit, class Value>
NNSYM_INLINE void write_row(S* out, std::int64_t width, bool streaming, Unit unit, Value value) {
    constexpr int L = kLanes<T>, W = kWhole<S, T>;
    auto parts = [&](std::int64_t from, std::int64_t end) {
        for (; from < end; from += L) {
            const std::int64_t count = end - from < L ? end - from : L;
            auto v = Convert<S, T>::round(value(from, count));
            std::memcpy(out + from, &v, std::size_t(count) * sizeof(S));
        }
    };
    std::int64_t j = 0;
    if (streaming) {
        j = to_boundary(out, kVectorBytes) / std::int64_t(sizeof(S));
        if (j > width) j = width;
        parts(0, j);
        for (; j + W <= width; j += W) stream(out + j, unit(j));
    }
    for (; j + W <= width; j += W) store(out + j, unit(j));
    parts(j, width);
}

template <class S, class T>
NNSYM_INLINE typename Vec<T>::F load_part(const S* p, std::int64_t count) {
    constexpr int L = kLanes<T>;
    if (count == L) return Convert<S, T>::load(p);
    S whole[L] = {};
    std::memcpy(whole, p, std::size_t(count) * sizeof(S));
    return Convert<S, T>::load(whole);
}

// Two rounded columns in one: a in the lower halves, b in the upper.
template <class S>
NNSYM_INLINE U32 pair_columns(Vec<float>::F a, Vec<float>::F b) {
    if constexpr (std::is_same_v<S, Bfloat16>) {
        // As Convert::nearest, on both at once: the average's top bit is the carry of lower + 0x7fff + (upper & 1).
        const U32 x = reinterpret_cast<U32>(a), y = reinterpret_cast<U32>(b);
        const U32 upper = (x >> 16) | (y & 0xffff0000u), lower = (x & 0xffffu) | (y << 16);
        const U32 odd = (upper & 0x00010001u) | 0x7ffe7ffeu;
        return reinterpret_cast<U32>(reinterpret_cast<U16>(upper) +
                                     (average(reinterpret_cast<U16>(lower), reinterpret_cast<U16>(odd)) >> 15));
    } else
        return __builtin_convertvector(Convert<S, float>::round(a), U32) |
               (__builtin_convertvector(Convert<S, float>::round(b), U32) << 16);
}

template <class S, class T>
void copy_row(S* out, const S* in, T row, const T* column, std::int64_t width, bool streaming) {
    typedef typename Vec<T>::F F;
    const F r = splat<F>(row);
    auto plain = [&](std::int64_t j, std::int64_t count) { return load_part<S, T>(in + j, count) * r; };
    auto scaled = [&](std::int64_t j, std::int64_t count) { return plain(j, count) * load<F>(column + j); };
    if (column)
        return write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, scaled); }, scaled);
    if constexpr (std::is_same_v<S, Bfloat16>) {
        // Even and odd elements apart, without a shuffle.
        auto unit = [&](std::int64_t j) {
            const U32 bits = load<U32>(in + j);
            return pair_columns<S>(reinterpret_cast<F>(bits << 16) * r, reinterpret_cast<F>(bits & 0xffff0000u) * r);
        };
        return write_row<S, T>(out, width, streaming, unit, plain);
    }
    write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, plain); }, plain);
}

template <class S, class T>
void gather_row(S* out, const T* in, const std::int32_t* index, T row, const T* column, std::int64_t width,
                bool streaming) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I32 I;
    const F r = splat<F>(row);
    auto plain = [&](std::int64_t j, std::int64_t) { return gather(in, load<I>(index + j)) * r; };
    auto scaled = [&](std::int64_t j, std::int64_t count) { return plain(j, count) * load<F>(column + j); };
    if (column)
        write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, scaled); }, scaled);
    else
        write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, plain); }, plain);
}

// R rows at once. A panel holds them interleaved, panel[c * R + r] = row r at column c: a gathered column is one load,
// and a transpose in registers turns columns into rows. That costs less than gathers. Where storage and compute type
// agree, a vector holds two columns of R = lanes / 2 rows, so that one tile is a whole vector of every row, two tiles
// the two cache lines that streaming stores want next to each other, and nothing is staged. Otherwise R = lanes.
template <class S, class T>
constexpr bool kDirect = sizeof(S) == sizeof(T);
template <class S, class T>
constexpr int kPanelRows = kDirect<S, T> ? kLanes<T> / 2 : kLanes<T>;

template <class S, class T>
void pack_panel(T* panel, const S* const* rows, std::int64_t width) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>, R = kPanelRows<S, T>;
    F v[R];
    for (std::int64_t j = 0; j < width; j += L) {
        const std::int64_t count = width - j < L ? width - j : L;
        for (int r = 0; r < R; ++r) v[r] = load_part<S, T>(rows[r] + j, count);
        transpose<T, R>(v);
        T* const to = panel + j * R;  // past the width: zeros, into the padding
        if constexpr (R == L)
            for (int t = 0; t < R; ++t) store(to + t * R, v[t]);
        else
            for (int t = 0; t < R; ++t) store_halves(to + t * R, to + (R + t) * R, v[t]);
    }
}

// kLanes columns of R rows.
template <class T>
NNSYM_INLINE void direct_tile(typename Vec<T>::F* v, const T* panel, const std::int32_t* index, typename Vec<T>::F rows,
                              const T* column) {
    constexpr int R = kLanes<T> / 2;
    for (int t = 0; t < R; ++t)
        v[t] = load_halves(panel + std::int64_t(index[t]) * R, panel + std::int64_t(index[R + t]) * R) * rows;
    transpose<T, R>(v);
    if (column) {
        const auto c = load<typename Vec<T>::F>(column);
        for (int r = 0; r < R; ++r) v[r] = v[r] * c;
    }
}

template <class T>
void direct_rows(T* const* out, const T* panel, const std::int32_t* index, typename Vec<T>::F rows, const T* column,
                 std::int64_t width, bool streaming) {
    constexpr int L = kLanes<T>, R = L / 2;
    typename Vec<T>::F a[R], b[R];
    std::int64_t j = 0;
    for (; j + 2 * L <= width; j += 2 * L) {
        direct_tile(a, panel, index + j, rows, column ? column + j : nullptr);
        direct_tile(b, panel, index + j + L, rows, column ? column + j + L : nullptr);
        if (streaming)
            for (int r = 0; r < R; ++r) stream(out[r] + j, a[r]), stream(out[r] + j + L, b[r]);
        else
            for (int r = 0; r < R; ++r) store(out[r] + j, a[r]), store(out[r] + j + L, b[r]);
    }
    for (; j < width; j += L) {
        const std::int64_t count = width - j < L ? width - j : L;
        direct_tile(a, panel, index + j, rows, column ? column + j : nullptr);
        for (int r = 0; r < R; ++r) std::memcpy(out[r] + j, &a[r], std::size_t(count) * sizeof(T));
    }
}

// kTile columns of R rows to out[r] + at; 16-bit columns two at a time.
template <class S, class T>
constexpr int kTile = sizeof(S) == 2 ? 2 * kLanes<T> : kLanes<T>;

template <class S, class T>
NNSYM_INLINE void staged_tile(S* const* out, std::int64_t at, const T* panel, const std::int32_t* index,
                              typename Vec<T>::F rows, const T* column) {
    typedef typename Vec<T>::F F;
    constexpr int R = kPanelRows<S, T>;
    F v[R];
    if constexpr (kDirect<S, T>) {
        direct_tile(v, panel, index, rows, column);
        for (int r = 0; r < R; ++r) store(out[r] + at, v[r]);
    } else {
        auto value = [&](int t) {
            F x = load<F>(panel + std::int64_t(index[t]) * R) * rows;
            return column ? x * splat<F>(column[t]) : x;
        };
        if constexpr (sizeof(S) == 2) {
#pragma GCC unroll 16
            for (int t = 0; t < R; ++t) v[t] = reinterpret_cast<F>(pair_columns<S>(value(2 * t), value(2 * t + 1)));
            transpose<T>(v);
            for (int r = 0; r < R; ++r) store(out[r] + at, v[r]);
        } else {
            for (int t = 0; t < R; ++t) v[t] = value(t);
            transpose<T>(v);
            for (int r = 0; r < R; ++r) store(out[r] + at, Convert<S, T>::round(v[r]));
        }
    }
}

// Runs of two cache lines of a row: while memory takes those of one run, the tiles of the next are computed.
constexpr int kRunBytes = 128;

template <class S, class T>
void staged_stream(S* const* out, const T* panel, const std::int32_t* index, typename Vec<T>::F rows, const T* column,
                   std::int64_t width, S* stage) {
    constexpr int R = kPanelRows<S, T>, C = kTile<S, T>, run = kRunBytes / int(sizeof(S)), tiles = run / C;
    S *now[R], *before[R];
    for (int r = 0; r < R; ++r) now[r] = stage + r * run, before[r] = stage + (R + r) * run;
    auto flush = [&](int first, int last, std::int64_t at) {
        for (int r = first; r < last; ++r)
            for (int part = 0; part < kRunBytes; part += kVectorBytes)
                stream(reinterpret_cast<char*>(out[r] + at) + part,
                       load<I32>(reinterpret_cast<const char*>(before[r]) + part));
    };
    for (std::int64_t j = 0; j < width; j += run) {
        for (int t = 0; t < tiles; ++t) {
            staged_tile<S, T>(now, t * C, panel, index + j + t * C, rows, column ? column + j + t * C : nullptr);
            if (j) flush(t * R / tiles, (t + 1) * R / tiles, j - run);
        }
        for (int r = 0; r < R; ++r) {
            S* const old = now[r];
            now[r] = before[r], before[r] = old;
        }
    }
    flush(0, R, width - run);
}

template <class S, class T>
void panel_rows(S* const* out, const T* panel, const std::int32_t* index, const T* row, const T* column,
                std::int64_t width, bool streaming, S* stage) {
    typedef typename Vec<T>::F F;
    constexpr int R = kPanelRows<S, T>, C = kTile<S, T>;
    bool aligned = true;
    for (int r = 0; r < R; ++r) aligned = aligned && to_boundary(out[r], 64) == 0;
    if constexpr (kDirect<S, T>) {
        const F rows = load_halves(row, row);
        if (aligned || !streaming) return direct_rows<T>(out, panel, index, rows, column, width, streaming);
    }
    const F rows = kDirect<S, T> ? load_halves(row, row) : load<F>(row);
    if (streaming && aligned && width % (kRunBytes / int(sizeof(S))) == 0)
        return staged_stream<S, T>(out, panel, index, rows, column, width, stage);
    S* staged[R];
    for (int r = 0; r < R; ++r) staged[r] = stage + r * kStageWidth;
    for (std::int64_t begin = 0; begin < width; begin += kStageWidth) {
        const std::int64_t count = width - begin < kStageWidth ? width - begin : kStageWidth;
        for (std::int64_t j = 0; j < count; j += C)
            staged_tile<S, T>(staged, j, panel, index + begin + j, rows, column ? column + begin + j : nullptr);
        for (int r = 0; r < R; ++r) {
            if (streaming)
                stream_copy(out[r] + begin, staged[r], count * std::int64_t(sizeof(S)));
            else
                std::memcpy(out[r] + begin, staged[r], std::size_t(count) * sizeof(S));
        }
    }
}

// Where up to kMaxLanes source rows lie, by the digits of their number in the outer axes.
struct SourceRows {
    std::int64_t digit[kMaxOuter][kMaxLanes], at[kMaxLanes];
    int count;

    SourceRows(const Block& block, std::int64_t first, int rows) : count(rows) {
        for (int l = 0; l < count; ++l) {
            std::int64_t rest = first + l;
            at[l] = block.source_at;
            for (int d = block.outers - 1; d >= 0; --d) {
                const OuterAxis& axis = block.outer[d];
                digit[d][l] = d ? rest % axis.size : rest;
                rest = d ? rest / axis.size : 0;
                at[l] += digit[d][l] * axis.source_stride;
            }
        }
    }
};

// Where these rows go in one point, and their factors.
template <class S, class T>
NNSYM_INLINE void place_rows(const Block& block, const char* record, const SourceRows& from, S* result, S** out,
                             T* row) {
    for (int l = 0; l < from.count; ++l) out[l] = result, row[l] = 1;
    for (int d = 0; d < block.outers; ++d) {
        const OuterAxis& axis = block.outer[d];
        const std::int32_t* pos = reinterpret_cast<const std::int32_t*>(record + axis.pos_at);
        const T* factor = reinterpret_cast<const T*>(record + axis.factor_at);
        for (int l = 0; l < from.count; ++l) {
            const std::int64_t digit = from.digit[d][l];
            out[l] += (axis.pos_at >= 0 ? pos[digit] : digit) * axis.out_stride;
            if (axis.factor_at >= 0) row[l] *= factor[digit];
        }
    }
}
// The same for R rows of a block with one outer axis: neighbours in its arrays, whose padding may be read.
template <int R, class S, class T>
NNSYM_INLINE void place_neighbours(const OuterAxis& axis, const char* record, std::int64_t first, S* result, S** out,
                                   T* row) {
    const std::int32_t* pos = reinterpret_cast<const std::int32_t*>(record + axis.pos_at) + first;
    const T* factor = reinterpret_cast<const T*>(record + axis.factor_at) + first;
    if (axis.pos_at >= 0)
        for (int l = 0; l < R; ++l) out[l] = result + pos[l] * axis.out_stride;
    else
        for (int l = 0; l < R; ++l) out[l] = result + (first + l) * axis.out_stride;
    if (axis.factor_at >= 0)
        for (int l = 0; l < R; ++l) row[l] = factor[l];
    else
        for (int l = 0; l < R; ++l) row[l] = 1;
}

template <class S, class T>
void pack_rows(T* panel, const Block& block, const char* source, const SourceRows& from) {
    const S* rows[kMaxLanes];
    for (int r = 0; r < kPanelRows<S, T>; ++r) rows[r] = reinterpret_cast<const S*>(source) + from.at[r];
    pack_panel<S, T>(panel, rows, block.width);
}

// Elements of one panel: whole vectors of columns.
template <class S, class T>
NNSYM_INLINE std::int64_t panel_size(const Block& block) {
    constexpr int L = kLanes<T>;
    return (block.width + L - 1) / L * L * kPanelRows<S, T>;
}
template <class S, class T>
NNSYM_INLINE bool has_panels(const Block& block) {
    return block.index_at >= 0 && block.width >= kLanes<T> && block.width <= kPanelWidth;
}

template <class S, class T>
void pack(const Block& block, const char* source, void* panels) {
    constexpr int R = kPanelRows<S, T>;
    if (!has_panels<S, T>(block)) return;
    T* panel = static_cast<T*>(panels) + block.panels_at;
    for (std::int64_t r = 0; r + R <= block.rows; r += R, panel += panel_size<S, T>(block))
        pack_rows<S, T>(panel, block, source, SourceRows(block, r, R));
}

constexpr std::int64_t kPanelSamples = 3;  // packing for one task pays from so many samples on

template <class S, class T>
void apply(const Block& block, const Group& group, std::int64_t begin, std::int64_t end, const Scratch& scratch) {
    constexpr int L = kLanes<T>, R = kPanelRows<S, T>;
    const std::int64_t width = block.width;
    const bool gathered = block.index_at >= 0;
    const bool panels =
        has_panels<S, T>(block) && !group.source_stride && (group.panels || group.count >= kPanelSamples);
    const bool single = block.outers == 1;  // rows are neighbours in the arrays of their axis
    for (std::int64_t r = begin; r < end; r += R) {
        const int count = int(end - r < R ? end - r : R);
        const bool packed = panels && count == R;
        const bool kept = packed && group.panels;
        const SourceRows from(block, r, single && kept ? 0 : count);
        T* panel = static_cast<T*>(scratch.panel);
        if (kept)
            panel =
                const_cast<T*>(static_cast<const T*>(group.panels)) + block.panels_at + r / R * panel_size<S, T>(block);
        else if (packed)
            pack_rows<S, T>(panel, block, group.source, from);
        for (std::int64_t k = 0; k < group.count; ++k) {
            S* const result = reinterpret_cast<S*>(group.out + k * group.out_stride) + block.out_at;
            const char* record = group.records + k * group.record_bytes;
            S* out[kMaxLanes];
            T row[kMaxLanes];
            if (single)
                place_neighbours<R>(block.outer[0], record, r, result, out, row);
            else
                place_rows(block, record, from, result, out, row);
            const std::int32_t* index = reinterpret_cast<const std::int32_t*>(record + (gathered ? block.index_at : 0));
            const T* column = block.factor_at >= 0 ? reinterpret_cast<const T*>(record + block.factor_at) : nullptr;
            if (packed) {
                panel_rows<S, T>(out, panel, index, row, column, width, group.stream, static_cast<S*>(scratch.stage));
                continue;
            }
            const S* source = reinterpret_cast<const S*>(group.source + k * group.source_stride);
            for (int l = 0; l < count; ++l) {
                const S* in = source + from.at[l];
                if (!gathered) {
                    copy_row<S, T>(out[l], in, row[l], column, width, group.stream);
                } else if constexpr (kDirect<S, T>) {
                    gather_row<S, T>(out[l], in, index, row[l], column, width, group.stream);
                } else {
                    for (std::int64_t j = 0; j < width; j += L)
                        store(panel + j, load_part<S, T>(in + j, width - j < L ? width - j : L));
                    gather_row<S, T>(out[l], panel, index, row[l], column, width, group.stream);
                }
            }
        }
    }
}

}  // namespace
