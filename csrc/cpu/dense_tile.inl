// SPDX-License-Identifier: MIT
// C = A B with a small B or a small A: the product that drawing and applying dense elements share.
namespace {

#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int kSums = 24;  // of 32 registers
#else
constexpr int kSums = 12;  // of 16
#endif
// Rows of C at a time, for N vectors of columns.
template <int N>
constexpr int kTileRows = N == 1 ? 8 : kSums / N;

// A matrix whose entry (r, k) is at p[r * row + k * column].
template <class T>
struct View {
    T* p;
    std::int64_t row, column;
};

// Row r of the R that begin at p: from every fourth one, whose address the loop keeps.
template <class T>
NNSYM_INLINE T* row_at(T* const* fourth, std::int64_t row, int r) {
    return fourth[r / 4] + (r % 4) * row;
}

// Columns [x, x + N vectors) of R rows of C; Partial: `count` columns of one vector, no byte past them is touched.
template <class T, int R, int N, bool Partial>
NNSYM_INLINE void tile(View<const T> a, View<const T> b, std::int64_t depth, View<T> c, std::int64_t x,
                       std::int64_t count, bool streaming) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>, Q = (R + 3) / 4;
    F sum[R][N];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) sum[r][n] = F{};
    const T* left[Q];
#pragma GCC unroll 3
    for (int q = 0; q < Q; ++q) left[q] = a.p + 4 * q * a.row;
    const T* right = b.p + x;
    for (std::int64_t k = 0; k < depth; ++k) {
        F v[N];
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) v[n] = Partial ? load_part<T, T>(right, count) : load<F>(right + n * L);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const F factor = splat<F>(*row_at(left, a.row, r));
#pragma GCC unroll 3
            for (int n = 0; n < N; ++n) sum[r][n] += factor * v[n];
        }
#pragma GCC unroll 3
        for (int q = 0; q < Q; ++q) left[q] += a.column;
        right += b.row;
    }
    T* out[Q];
#pragma GCC unroll 3
    for (int q = 0; q < Q; ++q) out[q] = c.p + 4 * q * c.row + x;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) {
            T* const to = row_at(out, c.row, r) + n * L;
            if (Partial)
                std::memcpy(to, &sum[r][n], std::size_t(count) * sizeof(T));
            else if (streaming)
                stream(to, sum[r][n]);
            else
                store(to, sum[r][n]);
        }
}

// N vectors of columns (Partial: `count` columns) of all rows: this strip of B stays in the first cache.
template <class T, int N, bool Partial>
NNSYM_INLINE void strip(View<const T> a, View<const T> b, std::int64_t depth, View<T> c, std::int64_t rows,
                        std::int64_t x, std::int64_t count, bool streaming) {
    auto next = [&](int some) { a.p += some * a.row, c.p += some * c.row, rows -= some; };
    for (; rows >= kTileRows<N>; next(kTileRows<N>))
        tile<T, kTileRows<N>, N, Partial>(a, b, depth, c, x, count, streaming);
    for (; rows >= 4; next(4)) tile<T, 4, N, Partial>(a, b, depth, c, x, count, streaming);
    for (; rows >= 1; next(1)) tile<T, 1, N, Partial>(a, b, depth, c, x, count, streaming);
}

// C = A B for `rows` rows and `width` columns of C. The rows of B and C are contiguous.
template <class T>
void multiply(View<const T> a, View<const T> b, std::int64_t depth, View<T> c, std::int64_t rows, std::int64_t width,
              bool streaming) {
    constexpr int L = kLanes<T>;
    std::int64_t x = 0;
    // Three vectors at a time; four are two and two.
    for (; x + 3 * L <= width && width - x != 4 * L; x += 3 * L)
        strip<T, 3, false>(a, b, depth, c, rows, x, 0, streaming);
    for (; x + 2 * L <= width; x += 2 * L) strip<T, 2, false>(a, b, depth, c, rows, x, 0, streaming);
    for (; x + L <= width; x += L) strip<T, 1, false>(a, b, depth, c, rows, x, 0, streaming);
    if (x < width) strip<T, 1, true>(a, b, depth, c, rows, x, width - x, streaming);
}

// n x n numbers with their rows and columns exchanged.
template <class T>
void transposed(T* out, std::int64_t out_stride, const T* in, std::int64_t in_stride, std::int64_t n) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>;
    const std::int64_t whole = n / L * L;
    for (std::int64_t i = 0; i < whole; i += L)
        for (std::int64_t j = 0; j < whole; j += L) {
            F v[L];
            for (int l = 0; l < L; ++l) v[l] = load<F>(in + (i + l) * in_stride + j);
            transpose<T>(v);
            for (int l = 0; l < L; ++l) store(out + (j + l) * out_stride + i, v[l]);
        }
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = i < whole ? whole : 0; j < n; ++j) out[j * out_stride + i] = in[i * in_stride + j];
}

}  // namespace
