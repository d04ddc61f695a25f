// SPDX-License-Identifier: MIT
// Rows in bulk: gathering columns of several rows at once, by transposing in registers.
namespace {

// R rows at once. A panel holds them interleaved, panel[c * R + r] = row r at column c: a gathered column is one load,
// and a transpose in registers turns columns into rows. That costs less than gathers.
// A vector holds two columns of R = lanes / 2 rows, so that one tile is a whole vector of every row, 16-bit columns two
// to a lane, and two tiles are the two cache lines that streaming stores want next to each other. Only float32 storage
// of a float64 computation has R = lanes, and a stage.
template <class S, class T>
constexpr bool kDirect = sizeof(S) == sizeof(T) || sizeof(S) == 2;
template <class S, class T>
constexpr int kPanelRows = kDirect<S, T> ? kLanes<T> / 2 : kLanes<T>;
// Columns of a tile.
template <class S, class T>
constexpr int kTile = sizeof(S) == 2 ? 2 * kLanes<T> : kLanes<T>;

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

// kTile columns of R rows as they are stored; `rows` holds the factors of the rows, once in each half.
template <class S, class T>
NNSYM_INLINE void direct_tile(typename Vec<T>::F* v, const T* panel, const std::int32_t* index, typename Vec<T>::F rows,
                              const T* column) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>, R = L / 2;
    auto columns = [&](int low, int high) {
        return load_halves(panel + std::int64_t(index[low]) * R, panel + std::int64_t(index[high]) * R) * rows;
    };
    if constexpr (sizeof(S) == 2) {
        auto value = [&](int low, int high) {
            const F x = columns(low, high);
            return column ? x * splat_halves(column[low], column[high]) : x;
        };
#pragma GCC unroll 8
        for (int t = 0; t < R; ++t)
            v[t] = reinterpret_cast<F>(pair_columns<S>(value(2 * t, L + 2 * t), value(2 * t + 1, L + 2 * t + 1)));
        transpose<T, R>(v);
    } else {
        for (int t = 0; t < R; ++t) v[t] = columns(t, R + t);
        transpose<T, R>(v);
        if (column) {
            const F c = load<F>(column);
            for (int r = 0; r < R; ++r) v[r] = v[r] * c;
        }
    }
}

template <class S, class T>
void direct_rows(S* const* out, const T* panel, const std::int32_t* index, typename Vec<T>::F rows, const T* column,
                 std::int64_t width, bool streaming) {
    constexpr int R = kPanelRows<S, T>, C = kTile<S, T>;
    typename Vec<T>::F a[R], b[R];
    std::int64_t j = 0;
    for (; j + 2 * C <= width; j += 2 * C) {
        direct_tile<S, T>(a, panel, index + j, rows, column ? column + j : nullptr);
        direct_tile<S, T>(b, panel, index + j + C, rows, column ? column + j + C : nullptr);
        if (streaming)
            for (int r = 0; r < R; ++r) stream(out[r] + j, a[r]), stream(out[r] + j + C, b[r]);
        else
            for (int r = 0; r < R; ++r) store(out[r] + j, a[r]), store(out[r] + j + C, b[r]);
    }
    for (; j < width; j += C) {
        const std::int64_t count = width - j < C ? width - j : C;
        direct_tile<S, T>(a, panel, index + j, rows, column ? column + j : nullptr);
        for (int r = 0; r < R; ++r) std::memcpy(out[r] + j, &a[r], std::size_t(count) * sizeof(S));
    }
}

// kTile columns of R rows to out[r] + at.
template <class S, class T>
NNSYM_INLINE void staged_tile(S* const* out, std::int64_t at, const T* panel, const std::int32_t* index,
                              typename Vec<T>::F rows, const T* column) {
    typedef typename Vec<T>::F F;
    constexpr int R = kPanelRows<S, T>;
    F v[R];
    if constexpr (kDirect<S, T>) {
        direct_tile<S, T>(v, panel, index, rows, column);
        for (int r = 0; r < R; ++r) store(out[r] + at, v[r]);
    } else {
        for (int t = 0; t < R; ++t) {
            v[t] = load<F>(panel + std::int64_t(index[t]) * R) * rows;
            if (column) v[t] = v[t] * column[t];
        }
        transpose<T>(v);
        for (int r = 0; r < R; ++r) store(out[r] + at, Convert<S, T>::round(v[r]));
    }
}

template <class S, class T>
void panel_rows(S* const* out, const T* panel, const std::int32_t* index, const T* row, const T* column,
                std::int64_t width, bool streaming, S* stage) {
    constexpr int R = kPanelRows<S, T>, C = kTile<S, T>;
    typename Vec<T>::F rows;
    if constexpr (kDirect<S, T>) {
        rows = load_halves(row, row);
        bool aligned = true;
        for (int r = 0; r < R; ++r) aligned = aligned && to_boundary(out[r], 64) == 0;
        if (aligned || !streaming) return direct_rows<S, T>(out, panel, index, rows, column, width, streaming);
    } else {
        rows = load<typename Vec<T>::F>(row);
    }
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

}  // namespace
