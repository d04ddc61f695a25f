// SPDX-License-Identifier: MIT
// One matrix at a time, its columns in the lanes: panels two vectors wide, the last one perhaps one wide, each with its
// rows one after the other. So every matrix can be either operand of the register-blocked product as it is. The columns
// past the last one hold zeros.
#pragma once

namespace {

template <class T, int Field>
struct Tiles {
    typedef typename Vec<T>::F V;
    typedef typename Vec<T>::I I;
    static constexpr int kBatch = 1;
    static constexpr int kField = Field;
    static constexpr int L = kLanes<T>;
    static constexpr int kRows = kVectorBytes == 64 ? 8 : 4;  // of a tile two vectors wide

    int d_;
    explicit Tiles(int d) : d_(d) {}
    int d() const { return d_; }
    static std::int64_t columns(std::int64_t cols) { return (cols + L - 1) / L; }
    static std::int64_t vectors(std::int64_t rows, std::int64_t cols) { return rows * columns(cols); }
    std::int64_t square() const { return vectors(d_, d_); }

    // Vectors before row i of the panel that holds column vector w, and the panel's width.
    static std::int64_t place(std::int64_t rows, std::int64_t all, std::int64_t i, std::int64_t w) {
        const std::int64_t first = w / 2 * 2, width = all - first < 2 ? 1 : 2;
        return first * rows + i * width + (w - first);
    }

    template <int Algebra, bool Init, int R, int C>
    static NNSYM_INLINE void tile(V* out, const V* a, const V* b, int rows, int inner, std::int64_t at, int i, V f,
                                  const V* c0, std::int64_t a_plane, std::int64_t b_plane, std::int64_t out_plane,
                                  std::int64_t b_at) {
        const std::int64_t a_columns = columns(inner);
        for (int t = 0; t < Algebra; ++t)
            for (int w = 0; w < Field; ++w) {
                V acc[R][C];
                const std::int64_t to = plane<Field>(t, w) * out_plane + at;
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
                    for (int s = 0; s < C; ++s) acc[r][s] = Init ? f * c0[to + r * C + s] : V{};
#pragma GCC unroll 2
                for (int x = 0; x <= t; ++x)
#pragma GCC unroll 2
                    for (int u = 0; u < Field; ++u) {
                        const V* pa = a + plane<Field>(x, u) * a_plane;
                        const V* q = b + plane<Field>(t - x, u ^ w) * b_plane + b_at;
                        const bool minus = u & (u ^ w);
                        for (std::int64_t first = 0; first < a_columns; first += 2) {
                            const std::int64_t width = a_columns - first < 2 ? 1 : 2;
                            const T* p = reinterpret_cast<const T*>(pa + first * rows + i * width);
                            const std::int64_t row = width * L;
                            const std::int64_t left = inner - first * L;
                            const std::int64_t count = left < row ? left : row;
                            for (std::int64_t k = 0; k < count; ++k, q += C) {
                                V y[C];
#pragma GCC unroll 2
                                for (int s = 0; s < C; ++s) y[s] = q[s];
#pragma GCC unroll 16
                                for (int r = 0; r < R; ++r) {
                                    const V z = splat<V>(p[r * row + k]);
#pragma GCC unroll 2
                                    for (int s = 0; s < C; ++s)
                                        acc[r][s] = minus ? acc[r][s] - z * y[s] : acc[r][s] + z * y[s];
                                }
                            }
                        }
                    }
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
                    for (int s = 0; s < C; ++s) out[to + r * C + s] = acc[r][s];
            }
    }

    template <int Algebra, bool Init, int C>
    static __attribute__((noinline)) void panel(V* out, const V* a, const V* b, int rows, int inner, std::int64_t first,
                                                V f, const V* c0, std::int64_t a_plane, std::int64_t b_plane,
                                                std::int64_t out_plane) {
        constexpr int kMost = C == 2 ? kRows : 2 * kRows;
        const std::int64_t b_at = first * inner, at = first * rows;
        int i = 0;
        for (; i + kMost <= rows; i += kMost)
            tile<Algebra, Init, kMost, C>(out, a, b, rows, inner, at + i * C, i, f, c0, a_plane, b_plane, out_plane,
                                          b_at);
        if (i + kMost / 2 <= rows) {
            tile<Algebra, Init, kMost / 2, C>(out, a, b, rows, inner, at + i * C, i, f, c0, a_plane, b_plane, out_plane,
                                              b_at);
            i += kMost / 2;
        }
        for (; i + 2 <= rows; i += 2)
            tile<Algebra, Init, 2, C>(out, a, b, rows, inner, at + i * C, i, f, c0, a_plane, b_plane, out_plane, b_at);
        if (i < rows)
            tile<Algebra, Init, 1, C>(out, a, b, rows, inner, at + i * C, i, f, c0, a_plane, b_plane, out_plane, b_at);
    }

    template <int Algebra, bool Init>
    static void any_product(V* out, const V* a, const V* b, int rows, int inner, int cols, V f, const V* c0) {
        const std::int64_t all = columns(cols);
        const std::int64_t a_plane = vectors(rows, inner), b_plane = vectors(inner, cols), out_plane = rows * all;
        std::int64_t w = 0;
        for (; w + 2 <= all; w += 2)
            panel<Algebra, Init, 2>(out, a, b, rows, inner, w, f, c0, a_plane, b_plane, out_plane);
        if (w < all) panel<Algebra, Init, 1>(out, a, b, rows, inner, w, f, c0, a_plane, b_plane, out_plane);
    }

    // out = a b, or a b + f c0. out may be c0, but neither a nor b.
    template <int Algebra, bool Init>
    void product(V* out, const V* a, const V* b, V f = V{}, const V* c0 = nullptr) const {
        any_product<Algebra, Init>(out, a, b, d_, d_, d_, f, c0);
    }
    template <bool Init>
    void product(V* out, const V* a, const V* b, int rows, int inner, int cols, V f = V{},
                 const V* c0 = nullptr) const {
        any_product<1, Init>(out, a, b, rows, inner, cols, f, c0);
    }

    static V whole(V x, V (*combine)(V, V)) {
        T lanes[L];
        std::memcpy(lanes, &x, sizeof x);
        V y = splat<V>(lanes[0]);
        for (int l = 1; l < L; ++l) y = combine(y, splat<V>(lanes[l]));
        return y;
    }
    static V add(V a, V b) { return a + b; }

    // call(first vector, vectors to the next row) for every column of vectors of a square matrix.
    template <class Call>
    void for_columns(Call call) const {
        const std::int64_t all = columns(d_);
        for (std::int64_t w = 0; w < all; ++w) call(w, place(d_, all, 0, w), all - w / 2 * 2 < 2 ? 1 : 2);
    }
    V norm(const V* a, V& poison) const {
        const std::int64_t n = square();
        V norm = {}, nan = {};
        for_columns([&](std::int64_t, std::int64_t at, std::int64_t row) {
            V sum = {};
            for (int i = 0; i < d_; ++i) sum += modulus<Field>(a, n, at + i * row);
            norm = maximum(norm, sum);
            nan += sum * 0;
        });
        if (any(nan != nan)) poison += whole(nan, add);
        return whole(norm, maximum);
    }
    V norm_from_one(const V* a) const {
        const std::int64_t n = square();
        V norm = {};
        for_columns([&](std::int64_t w, std::int64_t at, std::int64_t row) {
            V sum = {};
            for (int i = 0; i < d_; ++i) {
                const V re = a[at + i * row] + unit(i - w * L);
                sum += Field == 1 ? magnitude(re) : modulus_of(re, a[n + at + i * row]);
            }
            norm = maximum(norm, sum);
        });
        return whole(norm, maximum);
    }
    // One in a lane, if there is such a lane.
    static V unit(std::int64_t lane) { return iota<I>() == splat<I>(decltype(I{}[0])(lane)) ? splat<V>(T(1)) : V{}; }

    void add_identity(V* a, V s) const {
        for_columns([&](std::int64_t w, std::int64_t at, std::int64_t row) {
            for (std::int64_t i = w * L; i < d_ && i < (w + 1) * L; ++i) a[at + i * row] += s * unit(i - w * L);
        });
    }
    void adjoint(V* out, const V* a, int rows, int cols) const {
        const std::int64_t from = columns(cols), to = columns(rows);
        for (int p = 0; p < Field; ++p)
            for (std::int64_t w = 0; w < to; ++w)          // column vectors of the result: rows of a
                for (std::int64_t z = 0; z < from; ++z) {  // column vectors of a: rows of the result
                    V v[L];
                    for (int l = 0; l < L; ++l)
                        v[l] = w * L + l < rows ? a[(p * rows) * from + place(rows, from, w * L + l, z)] : V{};
                    transpose<T>(v);
                    for (int l = 0; l < L && z * L + l < cols; ++l)
                        out[(p * cols) * to + place(cols, to, z * L + l, w)] = p ? -v[l] : v[l];
                }
    }

    struct Stream {
        T* base[1];
        std::int64_t unit;
        int way;
    };
    static std::int64_t stream_vectors(std::int64_t, std::int64_t) { return 0; }
    static void open(Stream& s, V*&, std::int64_t unit, std::int64_t) { s.unit = unit; }
    static void finish(Stream&) {}

    static void fetch(V* out, Stream& s, std::int64_t k, std::int64_t offset, int rows, int cols, V f) {
        const T* p = s.base[0] + k * s.unit + offset;
        const std::int64_t all = columns(cols), n = rows * all;
        for (std::int64_t w = 0; w < all; ++w) {
            const std::int64_t left = (cols - w * L) * Field, row = all - w / 2 * 2 < 2 ? 1 : 2;
            std::int64_t at = place(rows, all, 0, w);
            const T* q = p + w * L * Field;
            for (int i = 0; i < rows; ++i, q += cols * Field, at += row) {
                if constexpr (Field == 1)
                    out[at] = (left >= L ? load<V>(q) : load_part<T, T>(q, left)) * f;
                else {
                    const V x = left >= L ? load<V>(q) : load_part<T, T>(q, left);
                    const V y = left >= 2 * L ? load<V>(q + L) : left > L ? load_part<T, T>(q + L, left - L) : V{};
                    out[at] = shuffle<Unzip<L, false>>(x, y) * f;
                    out[n + at] = shuffle<Unzip<L, true>>(x, y) * f;
                }
            }
        }
    }
    void fetch_adjoint(V* out, Stream& s, std::int64_t k, std::int64_t offset, int rows, int cols, V f, V* room) const {
        fetch(room, s, k, offset, rows, cols, f);
        adjoint(out, room, rows, cols);
    }
    // The matrix of step k as a left operand, whose entries are read one by one: rows that fill a panel lie right in
    // place.
    static const V* operand(V* room, Stream& s, std::int64_t k, int rows, int cols) {
        if (Field == 1 && (cols == L || cols == 2 * L)) return reinterpret_cast<const V*>(s.base[0] + k * s.unit);
        return view(room, s, k, rows, cols);
    }
    static const V* view(V* room, Stream& s, std::int64_t k, int rows, int cols) {
        fetch(room, s, k, 0, rows, cols, splat<V>(T(1)));
        return room;
    }
    static void store_some(T* p, V x, std::int64_t n) {
        if (n >= L)
            store(p, x);
        else if (n > 0)
            std::memcpy(p, &x, std::size_t(n) * sizeof(T));
    }
    static void put(Stream& s, std::int64_t k, std::int64_t offset, int rows, int cols, const V* a, V f) {
        T* p = s.base[0] + k * s.unit + offset;
        const std::int64_t all = columns(cols), n = rows * all;
        for (std::int64_t w = 0; w < all; ++w) {
            const std::int64_t left = (cols - w * L) * Field, row = all - w / 2 * 2 < 2 ? 1 : 2;
            std::int64_t at = place(rows, all, 0, w);
            T* q = p + w * L * Field;
            for (int i = 0; i < rows; ++i, q += cols * Field, at += row) {
                if constexpr (Field == 1)
                    store_some(q, a[at] * f, left);
                else {
                    const V re = a[at] * f, im = a[n + at] * f;
                    store_some(q, shuffle<Zip<L, false>>(re, im), left);
                    store_some(q + L, shuffle<Zip<L, true>>(re, im), left - L);
                }
            }
        }
    }
    static V scalar(Stream& s, std::int64_t k) { return splat<V>(s.base[0][k * s.unit]); }
    static void put_scalar(Stream& s, std::int64_t k, V x) { s.base[0][k * s.unit] = x[0]; }
};

}  // namespace
