// SPDX-License-Identifier: MIT
// Batch-interleaved layout: entry (i, j) of as many matrices as a vector has lanes in one vector, matrix l of the batch
// in lane l. Nothing is wasted on any d, and every operation on entries is one on vectors.
//
// A matrix has planes, one after the other: real, or real and imaginary part; a matrix with a tangent has two such
// sets.
#pragma once

namespace {

// The product of planes: out[t][u ^ v] gets (-1)^(u & v) a[x][u] b[t - x][v], with x <= t <= 1 the order in the
// tangent and u, v <= 1 the imaginary parts.
template <int Field>
constexpr int plane(int tangent, int imaginary) {
    return tangent * Field + imaginary;
}

template <class T>
struct LaneStreams {
    typedef typename Vec<T>::F V;
    static constexpr int kBatch = kLanes<T>;

    // A run of numbers for each lane, of `unit` numbers a step, brought into the lanes block by block. Kept whole in
    // lines: a block is a multiple of a vector where it can be.
    struct Stream {
        T* base[kBatch];
        V* stage;
        std::int64_t unit, steps, block, at, low, high;
        int way;  // of the steps to come: 1, or -1
    };
    static std::int64_t block_steps(std::int64_t unit, std::int64_t steps) {
        constexpr std::int64_t kStaged = 256;
        std::int64_t q = 1;
        while ((q * unit) % kBatch && 2 * q * unit <= kStaged) q *= 2;
        return q < steps ? q : steps ? steps : 1;
    }
    static std::int64_t stream_vectors(std::int64_t unit, std::int64_t steps) {
        return block_steps(unit, steps) * unit + kBatch;
    }
    static void open(Stream& s, V*& arena, std::int64_t unit, std::int64_t steps) {
        s.unit = unit, s.steps = steps, s.block = block_steps(unit, steps), s.at = -1, s.low = s.high = 0, s.way = 1;
        s.stage = arena;
        arena += stream_vectors(unit, steps);
    }

    static const V* staged(Stream& s, std::int64_t k) {
        const std::int64_t block = k / s.block;
        if (block != s.at) load_block(s, block);
        return s.stage + (k - block * s.block) * s.unit;
    }
    static __attribute__((noinline)) void load_block(Stream& s, std::int64_t block) {
        const std::int64_t first = block * s.block, steps = s.steps - first < s.block ? s.steps - first : s.block;
        const std::int64_t count = steps * s.unit, from = first * s.unit;
        V* stage = s.stage;
        std::int64_t e = 0;
        for (; e + kBatch <= count; e += kBatch) load_transposed<T>(s.base, from + e, stage + e);
        if (e < count) {
            V v[kBatch];
            for (int l = 0; l < kBatch; ++l) v[l] = load_part<T, T>(s.base[l] + from + e, count - e);
            transpose<T>(v);
            for (int l = 0; l < kBatch; ++l) stage[e + l] = v[l];
        }
        s.at = block;
        // The next block comes while this one is worked on: no hardware follows so many streams.
        const std::int64_t next = (block + s.way) * s.block;
        if (next < 0 || next >= s.steps) return;
        const std::int64_t room = (s.steps - next < s.block ? s.steps - next : s.block) * s.unit;
        for (int l = 0; l < kBatch; ++l)
            for (std::int64_t i = 0; i < room; i += 64 / std::int64_t(sizeof(T)))
                __builtin_prefetch(s.base[l] + next * s.unit + i, 0, 2);
    }
    static __attribute__((noinline)) void store_block(Stream& s) {
        if (s.low == s.high) return;
        const std::int64_t from = s.low * s.unit, count = (s.high - s.low) * s.unit;
        const V* stage = s.stage + (s.low - s.at * s.block) * s.unit;
        std::int64_t e = 0;
        for (; e + kBatch <= count; e += kBatch) store_transposed<T>(s.base, from + e, stage + e);
        if (e < count) {
            V v[kBatch];
            for (int l = 0; l < kBatch; ++l) v[l] = stage[e + l];
            transpose<T>(v);
            for (int l = 0; l < kBatch; ++l)
                if (s.base[l]) std::memcpy(s.base[l] + from + e, &v[l], std::size_t(count - e) * sizeof(T));
        }
        s.low = s.high = 0;
    }
    static V* slot(Stream& s, std::int64_t k) {
        const std::int64_t block = k / s.block;
        if (block != s.at) store_block(s), s.at = block;
        if (s.low == s.high) s.low = k, s.high = k + 1;
        s.low = k < s.low ? k : s.low;
        s.high = k + 1 > s.high ? k + 1 : s.high;
        return s.stage + (k - block * s.block) * s.unit;
    }
    static void finish(Stream& s) { store_block(s); }
};

template <class T, int Field, int D>
struct Lanes : LaneStreams<T> {
    typedef typename Vec<T>::F V;
    typedef typename Vec<T>::I I;
    typedef LaneStreams<T> Streams;
    typedef typename Streams::Stream Stream;
    using Streams::kBatch;
    using Streams::slot;
    using Streams::staged;
    static constexpr int kField = Field;
    static constexpr int kRows = 4, kCols = kVectorBytes == 64 ? 4 : 2;  // of a tile that stays in registers

    int d_;
    explicit Lanes(int d) : d_(d) {}
    int d() const { return D ? D : d_; }
    static std::int64_t vectors(std::int64_t rows, std::int64_t cols) { return rows * cols; }
    std::int64_t square() const { return D ? D * D : std::int64_t(d_) * d_; }

    template <int Algebra, bool Init, int R, int C>
    static NNSYM_INLINE void tile(V* out, const V* a, const V* b, int rows, int inner, int cols, int i, int j, V f,
                                  const V* c0) {
        for (int t = 0; t < Algebra; ++t)
            for (int w = 0; w < Field; ++w) {
                V acc[R][C];
                const std::int64_t at = std::int64_t(plane<Field>(t, w)) * rows * cols + std::int64_t(i) * cols + j;
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                    for (int s = 0; s < C; ++s) acc[r][s] = Init ? f * c0[at + r * cols + s] : V{};
#pragma GCC unroll 2
                for (int x = 0; x <= t; ++x)
#pragma GCC unroll 2
                    for (int u = 0; u < Field; ++u) {
                        const V* p = a + std::int64_t(plane<Field>(x, u)) * rows * inner + std::int64_t(i) * inner;
                        const V* q = b + std::int64_t(plane<Field>(t - x, u ^ w)) * inner * cols + j;
                        const bool minus = u & (u ^ w);
                        for (int k = 0; k < inner; ++k) {
                            V y[C];
#pragma GCC unroll 8
                            for (int s = 0; s < C; ++s) y[s] = q[k * cols + s];
#pragma GCC unroll 8
                            for (int r = 0; r < R; ++r) {
                                const V z = p[r * inner + k];
#pragma GCC unroll 8
                                for (int s = 0; s < C; ++s)
                                    acc[r][s] = minus ? acc[r][s] - z * y[s] : acc[r][s] + z * y[s];
                            }
                        }
                    }
#pragma GCC unroll 8
                for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
                    for (int s = 0; s < C; ++s) out[at + r * cols + s] = acc[r][s];
            }
    }

    template <int Algebra, bool Init, int R>
    static NNSYM_INLINE void rows_of(V* out, const V* a, const V* b, int rows, int inner, int cols, int i, V f,
                                     const V* c0) {
        int j = 0;
        for (; j + kCols <= cols; j += kCols) tile<Algebra, Init, R, kCols>(out, a, b, rows, inner, cols, i, j, f, c0);
        if (kCols > 2 && j + 2 <= cols) tile<Algebra, Init, R, 2>(out, a, b, rows, inner, cols, i, j, f, c0), j += 2;
        if (j < cols) tile<Algebra, Init, R, 1>(out, a, b, rows, inner, cols, i, j, f, c0);
    }

    template <int Algebra, bool Init>
    static __attribute__((noinline)) void any_product(V* out, const V* a, const V* b, int rows, int inner, int cols,
                                                      V f, const V* c0) {
        int i = 0;
        for (; i + kRows <= rows; i += kRows) rows_of<Algebra, Init, kRows>(out, a, b, rows, inner, cols, i, f, c0);
        if (i + 2 <= rows) rows_of<Algebra, Init, 2>(out, a, b, rows, inner, cols, i, f, c0), i += 2;
        if (i < rows) rows_of<Algebra, Init, 1>(out, a, b, rows, inner, cols, i, f, c0);
    }

    template <int Algebra, bool Init>
    static __attribute__((noinline)) void fixed_product(V* out, const V* a, const V* b, V f, const V* c0) {
        for (int i = 0; i < D; i += kRows) rows_of<Algebra, Init, kRows>(out, a, b, D, D, D, i, f, c0);
    }

    // out = a b, or a b + f c0 with a factor for each lane. out may be c0, but neither a nor b.
    template <int Algebra, bool Init>
    NNSYM_INLINE void product(V* out, const V* a, const V* b, V f = V{}, const V* c0 = nullptr) const {
        if constexpr (D >= 1 && D <= 3)
            tile<Algebra, Init, D, D>(out, a, b, D, D, D, 0, 0, f, c0);
        else if constexpr (D)
            fixed_product<Algebra, Init>(out, a, b, f, c0);
        else
            any_product<Algebra, Init>(out, a, b, d_, d_, d_, f, c0);
    }
    template <bool Init>
    void product(V* out, const V* a, const V* b, int rows, int inner, int cols, V f = V{},
                 const V* c0 = nullptr) const {
        if (D && rows == D && inner == D && cols == D) return product<1, Init>(out, a, b, f, c0);
        Lanes<T, Field, 0>::template any_product<1, Init>(out, a, b, rows, inner, cols, f, c0);
    }

    V norm(const V* a, V& poison) const {
        const int n = d();
        V norm = {};
        for (int j = 0; j < n; ++j) {
            V sum = {};
            for (int i = 0; i < n; ++i) sum += modulus<Field>(a, square(), i * n + j);
            norm = maximum(norm, sum);
            poison += sum * 0;
        }
        return norm;
    }
    // 1-norm of 1 + a
    V norm_from_one(const V* a) const {
        const int n = d();
        V norm = {};
        for (int j = 0; j < n; ++j) {
            V sum = {};
            for (int i = 0; i < n; ++i) {
                const V re = a[i * n + j] + (i == j ? T(1) : T(0));
                sum += Field == 1 ? magnitude(re) : modulus_of(re, a[square() + i * n + j]);
            }
            norm = maximum(norm, sum);
        }
        return norm;
    }
    static V whole(V x, V (*)(V, V)) { return x; }  // a number for each matrix from its lanes: they are apart

    void add_identity(V* a, V s) const {
        const int n = d();
        for (int i = 0; i < n; ++i) a[i * n + i] += s;
    }
    void adjoint(V* out, const V* a, int rows, int cols) const {
        for (int p = 0; p < Field; ++p)
            for (int i = 0; i < rows; ++i)
                for (int j = 0; j < cols; ++j) {
                    const V x = a[(p * rows + i) * cols + j];
                    out[(p * cols + j) * rows + i] = p ? -x : x;
                }
    }

    // f times the matrix at `offset` numbers into step k, in planes.
    static void fetch(V* out, Stream& s, std::int64_t k, std::int64_t offset, int rows, int cols, V f) {
        const V* p = staged(s, k) + offset;
        const std::int64_t n = std::int64_t(rows) * cols;
        for (std::int64_t e = 0; e < n; ++e)
            for (int u = 0; u < Field; ++u) out[u * n + e] = p[e * Field + u] * f;
    }
    // The adjoint of f times the matrix.
    void fetch_adjoint(V* out, Stream& s, std::int64_t k, std::int64_t offset, int rows, int cols, V f, V*) const {
        const V* p = staged(s, k) + offset;
        const std::int64_t n = std::int64_t(rows) * cols;
        for (int j = 0; j < cols; ++j)
            for (int i = 0; i < rows; ++i)
                for (int u = 0; u < Field; ++u) {
                    const V x = p[(std::int64_t(i) * cols + j) * Field + u] * f;
                    out[u * n + std::int64_t(j) * rows + i] = u ? -x : x;
                }
    }
    static const V* operand(V* room, Stream& s, std::int64_t k, int rows, int cols) {
        return view(room, s, k, rows, cols);
    }
    static const V* view(V* room, Stream& s, std::int64_t k, int rows, int cols) {
        if (Field == 1) return staged(s, k);
        fetch(room, s, k, 0, rows, cols, splat<V>(T(1)));
        return room;
    }
    static void put(Stream& s, std::int64_t k, std::int64_t offset, int rows, int cols, const V* a, V f) {
        V* p = slot(s, k) + offset;
        const std::int64_t n = std::int64_t(rows) * cols;
        for (std::int64_t e = 0; e < n; ++e)
            for (int u = 0; u < Field; ++u) p[e * Field + u] = a[u * n + e] * f;
    }
    static V scalar(Stream& s, std::int64_t k) { return *staged(s, k); }
    static void put_scalar(Stream& s, std::int64_t k, V x) { *slot(s, k) = x; }
};

}  // namespace
