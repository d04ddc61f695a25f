// SPDX-License-Identifier: MIT
// Random matrices of the dense groups; nnsym_fast/reference/dense.py is their definition.
namespace {

using namespace nnsym;
using dense::Draw;

// Rows of n numbers begin at multiples of the lanes.
template <class T>
NNSYM_INLINE std::int64_t leading(const Draw& draw) {
    return (draw.size + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// S = H_0 (sign_1 + H_1 (sign_2 + ...)): reflections from the innermost to the outermost, on whole vectors of columns.
// Q is S times the product of all signs up to each reflection, which is kept for the end. x: the Gaussian vectors,
// which become those of the reflections. Returns the determinant's sign.
template <class T>
int haar(T* q, std::int64_t stride, std::int64_t n, T* numbers, const std::int32_t* row) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>;
    for (std::int64_t i = 0; i < n * stride; i += L) store(q + i, F{});
    T sign = 1;
    int determinant = 1;
    for (std::int64_t k = n - 1; k >= 0; --k) {
        const std::int64_t d = n - k;
        T* const x = numbers + row[k];
        F squares = {};
        for (std::int64_t i = 0; i < d; i += L) {
            const F v = load_part<T, T>(x + i, d - i < L ? d - i : L);
            squares += v * v;
        }
        T total = 0;
        for (int l = 0; l < L; ++l) total += squares[l];
        const T norm = square_root(splat<F>(total))[0];
        const bool negative = x[0] < 0;
        const T size = negative ? -x[0] : x[0];
        const T tau = 1 / (norm * norm + size * norm);
        x[0] = negative ? x[0] - norm : x[0] + norm;
        T* const block = q + k * stride;
        block[k] = sign;
        std::int64_t c = k / L * L;
        auto reflect = [&](auto vectors) {
            constexpr int N = decltype(vectors)::value;
            F w[4][N] = {};
            std::int64_t i = 0;
            for (; i + 4 <= d; i += 4)
#pragma GCC unroll 4
                for (int u = 0; u < 4; ++u) {
                    const F v = splat<F>(x[i + u]);
#pragma GCC unroll 2
                    for (int m = 0; m < N; ++m) w[u][m] += v * load<F>(block + (i + u) * stride + c + m * L);
                }
            for (; i < d; ++i)
                for (int m = 0; m < N; ++m) w[0][m] += splat<F>(x[i]) * load<F>(block + i * stride + c + m * L);
            for (int m = 0; m < N; ++m) w[0][m] = ((w[0][m] + w[1][m]) + (w[2][m] + w[3][m])) * tau;
            for (i = 0; i < d; ++i) {
                const F v = splat<F>(x[i]);
#pragma GCC unroll 2
                for (int m = 0; m < N; ++m) {
                    T* const at = block + i * stride + c + m * L;
                    store(at, load<F>(at) - v * w[0][m]);
                }
            }
            c += N * L;
        };
        while (c + 2 * L <= stride) reflect(std::integral_constant<int, 2>());
        while (c < stride) reflect(std::integral_constant<int, 1>());
        if (!negative) sign = -sign;
        if (d % 2 ? negative : true) determinant = -determinant;
    }
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t c = 0; c < stride; c += L) store(q + i * stride + c, load<F>(q + i * stride + c) * sign);
    return determinant;
}

// Whole vectors, the last one in part: rows of results have no padding.
template <class T>
NNSYM_INLINE void store_row(T* out, const T* in, std::int64_t n) {
    std::memcpy(out, in, std::size_t(n) * sizeof(T));
}

template <class T>
void transposed(T* out, std::int64_t out_stride, const T* in, std::int64_t in_stride, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = 0; j < n; ++j) out[j * out_stride + i] = in[i * in_stride + j];
}

template <class T>
struct DrawScratch {
    T *numbers, *first, *second, *scaled, *product, *logs;
    static std::int64_t size(const Draw& draw) {
        const std::int64_t n = leading<T>(draw), rows = draw.size + 8;
        return 4 * draw.numbers + 4 * n * rows + 6 * n + 8 * 4 * kLanes<float>;
    }
    DrawScratch(const Draw& draw, void* scratch) {
        const std::int64_t n = leading<T>(draw), square = n * (draw.size + 8);
        numbers = static_cast<T*>(scratch);
        first = numbers + 4 * draw.numbers + 4 * kLanes<float>;
        second = first + square, scaled = second + square, product = scaled + square, logs = product + square;
    }
};

template <class T>
T exponential(T x) {
    return Math<T>::exp(splat<typename Vec<T>::F>(x))[0];
}

// K1 diag(s) K2 and the transpose of its inverse, K1 diag(1/s) K2, both of `n` units, to places with the stride of
// whole heads. logs: log s.
template <class T>
void linear(const Draw& draw, std::uint64_t sample, std::uint32_t block, const DrawScratch<T>& s, const T* logs,
            T* matrix, T* inverse) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>;
    const std::int64_t n = draw.haar, stride = leading<T>(draw), row_blocks = (n + 3) / 4;
    int sign = 1;
    for (int which = 0; which < 2; ++which) {
        normals<T>(draw.seed, sample, draw.site, block + std::uint32_t(which * n * row_blocks), draw.number,
                   draw.numbers, s.numbers);
        sign *= haar<T>(which ? s.second : s.first, stride, n, s.numbers, draw.row);
    }
    if (draw.kind == dense::kSpecial && sign < 0)
        for (std::int64_t c = 0; c < stride; c += L)
            store(s.second + (n - 1) * stride + c, -load<F>(s.second + (n - 1) * stride + c));
    for (int which = 0; which < 2; ++which) {
        for (std::int64_t i = 0; i < n; ++i)
            for (std::int64_t c = 0; c < stride; c += L) {
                const F log = load<F>(logs + c);
                store(s.scaled + i * stride + c, load<F>(s.first + i * stride + c) * Math<T>::exp(which ? -log : log));
            }
        auto left = [&](std::int64_t i) { return s.scaled + i * stride; };
        if (which == 0) {
            multiply<T>(
                left, 1, s.second, stride, n, [&](std::int64_t i) { return matrix + i * draw.size; }, n, n, false);
        } else {
            multiply<T>(
                left, 1, s.second, stride, n, [&](std::int64_t i) { return s.product + i * stride; }, n,
                whole_vectors<T>(n), false);
            transposed<T>(inverse, draw.size, s.product, stride, n);
        }
    }
}

// U diag(sign, B) U with the reflection U = 1 - beta u u^T that exchanges the first axis and the direction of ones.
template <class T>
void keep_mean(const Draw& draw, const DrawScratch<T>& s, T sign, T* matrix) {
    const std::int64_t m = draw.size, stride = leading<T>(draw);
    if (m == 1) return void(matrix[0] = sign);
    const T root = 1 / square_root(splat<typename Vec<T>::F>(T(m)))[0], beta = 1 / (1 - root);
    auto u = [&](std::int64_t i) { return i ? -root : 1 - root; };
    auto middle = [&](std::int64_t i, std::int64_t j) {
        if (i == 0 || j == 0) return i == j ? sign : T(0);
        return s.first[(i - 1) * stride + j - 1];
    };
    T *left = s.second, *right = s.scaled, corner = 0;  // u^T M, M u, u^T M u
    for (std::int64_t j = 0; j < m; ++j) {
        left[j] = right[j] = 0;
        for (std::int64_t i = 0; i < m; ++i) left[j] += u(i) * middle(i, j), right[j] += middle(j, i) * u(i);
        corner += left[j] * u(j);
    }
    for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < m; ++j)
            matrix[i * m + j] = middle(i, j) - beta * (u(i) * left[j] + right[i] * u(j) - beta * corner * u(i) * u(j));
}

template <class T>
void draw_head(const Draw& draw, std::uint64_t sample, std::int64_t head, const DrawScratch<T>& s, T* matrix,
               T* inverse) {
    const std::int64_t m = draw.size, stride = leading<T>(draw);
    const std::uint32_t block = std::uint32_t(dense::kMatrixPart) + std::uint32_t(head * draw.head_blocks);
    if (draw.kind <= dense::kKeepsMean) {
        normals<T>(draw.seed, sample, draw.site, block, draw.number, draw.numbers, s.numbers);
        haar<T>(s.first, stride, draw.haar, s.numbers, draw.row);
        if (draw.kind == dense::kKeepsMean) {
            std::uint32_t site[kLanes<float>], number[kLanes<float>], words[4 * kLanes<float>];
            for (int l = 0; l < kLanes<float>; ++l)
                site[l] = draw.site,
                number[l] = std::uint32_t(orbit::kSign) << orbit::kDrawShift | std::uint32_t(head / 128);
            philox(draw.seed, sample, site, number, words, kLanes<float>);
            const std::uint32_t bits = words[head / 32 % 4 * kLanes<float>];
            keep_mean<T>(draw, s, bits >> (head % 32) & 1 ? T(-1) : T(1), matrix);
        } else {
            for (std::int64_t i = 0; i < m; ++i) store_row(matrix + i * m, s.first + i * stride, m);
        }
        return transposed<T>(inverse, m, matrix, m, m);
    }
    // Logarithms of this head: units head * m .. head * m + m - 1 of the part "scale", in whole blocks.
    const std::int64_t unit = head * m, begin = unit / 4, end = (unit + m + 3) / 4;
    normals<T>(draw.seed, sample, draw.site, (std::uint32_t(orbit::kScale) << orbit::kDrawShift) + std::uint32_t(begin),
               nullptr, end - begin, s.product);
    T* const logs = s.logs;
    for (std::int64_t i = 0; i < m; ++i) logs[i] = T(draw.scale_std) * s.product[unit - 4 * begin + i];
    for (std::int64_t i = m; i < stride + kLanes<T>; ++i) logs[i] = 0;
    if (draw.kind == dense::kSpecial) {
        T mean = 0;
        for (std::int64_t i = 0; i < m; ++i) mean += logs[i];
        for (std::int64_t i = 0; i < m; ++i) logs[i] -= mean / T(m);
    }
    if (draw.kind != dense::kRotary) return linear<T>(draw, sample, block, s, logs, matrix, inverse);

    for (std::int64_t i = 0; i < m * m; ++i) matrix[i] = inverse[i] = 0;
    const std::int64_t pairs = draw.pairs, phase_blocks = (pairs + 3) / 4;
    for (std::int64_t b = 0; b < phase_blocks; b += kLanes<float>) {
        std::uint32_t site[kLanes<float>], number[kLanes<float>], words[4 * kLanes<float>];
        for (int l = 0; l < kLanes<float>; ++l) site[l] = draw.site, number[l] = block + std::uint32_t(b + l);
        philox(draw.seed, sample, site, number, words, kLanes<float>);
        for (std::int64_t p = 4 * b; p < pairs && p < 4 * (b + kLanes<float>); ++p) {
            const std::int64_t at = p - 4 * b;
            typename Vec<T>::F sine, cosine;
            Math<T>::sincos_turn(splat<typename Vec<T>::U32>(words[at % 4 * kLanes<float> + at / 4]), sine, cosine);
            const T r = exponential<T>(logs[p]), back = exponential<T>(-logs[p]);
            const std::int64_t i = draw.interleaved ? 2 * p : p, j = draw.interleaved ? 2 * p + 1 : p + pairs;
            matrix[i * m + i] = matrix[j * m + j] = r * cosine[0];
            inverse[i * m + i] = inverse[j * m + j] = back * cosine[0];
            matrix[j * m + i] = r * sine[0], matrix[i * m + j] = -r * sine[0];
            inverse[j * m + i] = -back * sine[0], inverse[i * m + j] = back * sine[0];
        }
    }
    if (draw.haar) {
        const std::int64_t corner = 2 * pairs * (m + 1);
        for (std::int64_t i = 0; i < draw.haar; ++i) logs[i] = logs[pairs + i];
        for (std::int64_t i = draw.haar; i < stride; ++i) logs[i] = 0;
        linear<T>(draw, sample, block + std::uint32_t(phase_blocks), s, logs, matrix + corner, inverse + corner);
    }
}

template <class T>
void draw_heads(const Draw& draw, std::int64_t k, std::int64_t begin, std::int64_t end, void* scratch) {
    const DrawScratch<T> s(draw, scratch);
    const std::int64_t square = std::int64_t(draw.size) * draw.size;
    for (std::int64_t head = begin; head < end; ++head) {
        const std::int64_t at = (k * draw.heads + head) * square;
        draw_head<T>(draw, draw.first + std::uint64_t(k) * std::uint64_t(draw.step), head, s,
                     static_cast<T*>(draw.matrix) + at, static_cast<T*>(draw.inverse) + at);
    }
}

template <class T>
std::int64_t draw_scratch(const Draw& draw) {
    return DrawScratch<T>::size(draw) * std::int64_t(sizeof(T));
}

template <class T>
void draw_normals(std::uint64_t seed, std::uint64_t sample, std::uint32_t site, std::uint32_t draw, std::int64_t blocks,
                  void* out) {
    normals<T>(seed, sample, site, draw, nullptr, blocks, static_cast<T*>(out));
}

}  // namespace
