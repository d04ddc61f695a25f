// SPDX-License-Identifier: MIT
// C = A B for a few rows of C: the product that drawing and applying dense elements share.
namespace {

#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int kTileRows = 8;  // times three vectors of columns: 24 of 32 registers
#else
constexpr int kTileRows = 4;  // 12 of 16
#endif

// How the entries of A lie: row r at a[r], column k at k * a_step.
template <class T>
struct Left {
    const T* const* a;
    std::int64_t a_step;
};

// Columns [x, x + N vectors) of R rows; Partial: `count` columns of one vector, no byte past them is read or written.
template <class T, int R, int N, bool Partial>
NNSYM_INLINE void tile(Left<T> left, const T* b, std::int64_t b_stride, std::int64_t depth, T* const* out,
                       std::int64_t x, std::int64_t count, bool streaming) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>;
    F sum[R][N];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) sum[r][n] = F{};
    for (std::int64_t k = 0; k < depth; ++k) {
        const T* const row = b + k * b_stride + x;
        F right[N];
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) right[n] = Partial ? load_part<T, T>(row, count) : load<F>(row + n * L);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const F factor = splat<F>(left.a[r][k * left.a_step]);
#pragma GCC unroll 3
            for (int n = 0; n < N; ++n) sum[r][n] += factor * right[n];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
        for (int n = 0; n < N; ++n) {
            if (Partial)
                std::memcpy(out[r] + x, &sum[r][n], std::size_t(count) * sizeof(T));
            else if (streaming)
                stream(out[r] + x + n * L, sum[r][n]);
            else
                store(out[r] + x + n * L, sum[r][n]);
        }
}

// N vectors of columns (Partial: `count` columns) of all rows: this strip of B stays in the first cache.
template <class T, int N, bool Partial, class A, class Out>
NNSYM_INLINE void strip(A a, std::int64_t a_step, const T* b, std::int64_t b_stride, std::int64_t depth, Out out,
                        std::int64_t rows, std::int64_t x, std::int64_t count, bool streaming) {
    const T* left[kTileRows];
    T* to[kTileRows];
    std::int64_t r = 0;
    auto take = [&](int some) {
        for (int i = 0; i < some; ++i) left[i] = a(r + i), to[i] = out(r + i);
        r += some;
        return Left<T>{left, a_step};
    };
    while (rows - r >= kTileRows) {
        const Left<T> l = take(kTileRows);
        tile<T, kTileRows, N, Partial>(l, b, b_stride, depth, to, x, count, streaming);
    }
    while (rows - r >= 2) {
        const Left<T> l = take(2);
        tile<T, 2, N, Partial>(l, b, b_stride, depth, to, x, count, streaming);
    }
    if (rows - r >= 1) {
        const Left<T> l = take(1);
        tile<T, 1, N, Partial>(l, b, b_stride, depth, to, x, count, streaming);
    }
}

// C = A B: out(r)[0, width) = sum_k a(r)[k a_step] b[k b_stride + ..], k < depth, for rows [0, rows).
template <class T, class A, class Out>
NNSYM_INLINE void multiply(A a, std::int64_t a_step, const T* b, std::int64_t b_stride, std::int64_t depth, Out out,
                           std::int64_t rows, std::int64_t width, bool streaming) {
    constexpr int L = kLanes<T>;
    std::int64_t x = 0;
    // Three vectors at a time; four are two and two.
    for (; x + 3 * L <= width && width - x != 4 * L; x += 3 * L)
        strip<T, 3, false>(a, a_step, b, b_stride, depth, out, rows, x, 0, streaming);
    for (; x + 2 * L <= width; x += 2 * L)
        strip<T, 2, false>(a, a_step, b, b_stride, depth, out, rows, x, 0, streaming);
    for (; x + L <= width; x += L)
        strip<T, 1, false>(a, a_step, b, b_stride, depth, out, rows, x, 0, streaming);
    if (x < width) strip<T, 1, true>(a, a_step, b, b_stride, depth, out, rows, x, width - x, streaming);
}

}  // namespace
