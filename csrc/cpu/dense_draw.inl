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

template <class T>
struct Number;
template <>
struct Number<float> {
    typedef std::int32_t Int;
};
template <>
struct Number<double> {
    typedef std::int64_t Int;
};

// n numbers value(k, i) = sum over i < count(k) of pairs of vectors, a vector of k at a time: out[k], whole vectors.
template <class T, class Count, class Value>
NNSYM_INLINE void sums(std::int64_t n, T* out, Count count, Value value) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I I;
    constexpr int L = kLanes<T>;
    for (std::int64_t k = 0; k < n; k += L) {
        F sum[L];
        for (int l = 0; l < L; ++l) {
            sum[l] = F{};
            for (std::int64_t i = 0, d = k + l < n ? count(k + l) : 0; i < d; i += L) {
                // Past the end are other numbers, or padding.
                const auto inside = iota<I>() < splat<I>(typename Number<T>::Int(d - i < L ? d - i : L));
                sum[l] += inside ? value(k + l, i) : F{};
            }
        }
        transpose<T>(sum);
        for (int half = L / 2; half; half /= 2)
            for (int l = 0; l < half; ++l) sum[l] += sum[l + half];
        store(out + k, sum[0]);
    }
}

// The vectors v_k of n reflections from Gaussian ones, in place; tau_k = 2 / |v_k|^2; cross_k = <v_k, v_(k+1)>; sign_k,
// with which Q_k counts. All at once: each is a chain of slow operations. Returns the determinant's sign.
template <class T>
int reflections(std::int64_t n, T* numbers, const std::int32_t* row, T* tau, T* cross, T* sign) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>;
    sums<T>(
        n, tau, [&](std::int64_t k) { return n - k; },
        [&](std::int64_t k, std::int64_t i) {
            const F v = load<F>(numbers + row[k] + i);
            return v * v;
        });
    for (std::int64_t k = 0; k < n; ++k) sign[k] = numbers[row[k]];
    for (std::int64_t k = n; k % L; ++k) tau[k] = sign[k] = 1;
    for (std::int64_t k = 0; k < n; k += L) {
        const F first = load<F>(sign + k), norm = square_root(load<F>(tau + k)), size = magnitude(first);
        store(tau + k, 1 / (norm * norm + size * norm));
        store(sign + k, first < F{} ? first - norm : first + norm);
    }
    int determinant = 1;
    for (std::int64_t k = 0; k < n; ++k) {
        numbers[row[k]] = sign[k];
        const bool negative = sign[k] < 0;  // as the Gaussian vector's first entry
        determinant *= (n - k) % 2 && !negative ? 1 : -1;
        sign[k] = negative ? T(1) : T(-1);
    }
    sums<T>(
        n - 1, cross, [&](std::int64_t k) { return n - 1 - k; },
        [&](std::int64_t k, std::int64_t i) {
            return load<F>(numbers + row[k] + 1 + i) * load<F>(numbers + row[k + 1] + i);
        });
    return determinant;
}

// N vectors of columns through two reflections, B - v1 w1 - v2 w2 with w2 = tau2 v2^T B, w1 = tau1 (v1^T B - <v1, v2>
// w2). v2 begins a row below v1, which has d entries.
template <class T, int N>
NNSYM_INLINE void reflect_twice(T* block, std::int64_t stride, std::int64_t d, const T* v1, const T* v2, T tau1, T tau2,
                                T cross) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>;
    F p1[2][N], p2[2][N];
    for (int m = 0; m < N; ++m) {
        p1[0][m] = splat<F>(v1[0]) * load<F>(block + m * L);
        p1[1][m] = p2[0][m] = p2[1][m] = F{};
    }
    auto gather_row = [&](std::int64_t i, int u) {
        const F a = splat<F>(v1[i]), b = splat<F>(v2[i - 1]);
#pragma GCC unroll 2
        for (int m = 0; m < N; ++m) {
            const F x = load<F>(block + i * stride + m * L);
            p1[u][m] += a * x;
            p2[u][m] += b * x;
        }
    };
    std::int64_t i = 1;
    for (; i + 2 <= d; i += 2) gather_row(i, 0), gather_row(i + 1, 1);
    if (i < d) gather_row(i, 0);
    F w1[N], w2[N];
    for (int m = 0; m < N; ++m) {
        w2[m] = (p2[0][m] + p2[1][m]) * tau2;
        w1[m] = ((p1[0][m] + p1[1][m]) - cross * w2[m]) * tau1;
        store(block + m * L, load<F>(block + m * L) - splat<F>(v1[0]) * w1[m]);
    }
    for (i = 1; i < d; ++i) {
        const F a = splat<F>(v1[i]), b = splat<F>(v2[i - 1]);
#pragma GCC unroll 2
        for (int m = 0; m < N; ++m) {
            T* const at = block + i * stride + m * L;
            store(at, load<F>(at) - a * w1[m] - b * w2[m]);
        }
    }
}

// S = H_0 (sign_1 + H_1 (sign_2 + ...)): reflections from the innermost to the outermost, two at a time, on whole
// vectors of columns. Q is S times the product of all signs up to each reflection, which is kept for the end. work: 3
// strides.
template <class T>
int haar(T* q, std::int64_t stride, std::int64_t n, T* numbers, const std::int32_t* row, T* work) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>;
    T *const tau = work, *const cross = work + stride, *const signs = work + 2 * stride;
    const int determinant = reflections<T>(n, numbers, row, tau, cross, signs);
    for (std::int64_t i = 0; i < n * stride; i += L) store(q + i, F{});
    T sign = 1;
    std::int64_t k = n;
    if (n % 2) {  // the innermost reflection alone is -1
        k = n - 1;
        q[k * stride + k] = -1;
        sign = signs[k];
    }
    while (k) {
        k -= 2;
        const std::int64_t d = n - k;
        q[(k + 1) * stride + k + 1] = sign;
        sign *= signs[k + 1];
        q[k * stride + k] = sign;
        sign *= signs[k];
        const T *const v1 = numbers + row[k], *const v2 = numbers + row[k + 1];
        std::int64_t c = k / L * L;
        for (; c + 2 * L <= stride; c += 2 * L)
            reflect_twice<T, 2>(q + k * stride + c, stride, d, v1, v2, tau[k], tau[k + 1], cross[k]);
        for (; c < stride; c += L)
            reflect_twice<T, 1>(q + k * stride + c, stride, d, v1, v2, tau[k], tau[k + 1], cross[k]);
    }
    if (sign < 0)
        for (std::int64_t i = 0; i < n * stride; i += L) store(q + i, -load<F>(q + i));
    return determinant;
}

// Whole vectors, the last one in part: rows of results have no padding.
template <class T>
NNSYM_INLINE void store_row(T* out, const T* in, std::int64_t n) {
    std::memcpy(out, in, std::size_t(n) * sizeof(T));
}

template <class T>
struct DrawScratch {
    T *numbers, *first, *second, *scaled, *product, *logs, *work;
    static std::int64_t size(const Draw& draw) {
        const std::int64_t n = leading<T>(draw), rows = draw.size + 8;
        return 4 * draw.numbers + 4 * n * rows + 5 * n + 8 * 4 * kLanes<float>;
    }
    DrawScratch(const Draw& draw, void* scratch) {
        const std::int64_t n = leading<T>(draw), square = n * (draw.size + 8);
        numbers = static_cast<T*>(scratch);
        first = numbers + 4 * draw.numbers + 4 * kLanes<float>;
        second = first + square, scaled = second + square, product = scaled + square, logs = product + square;
        work = logs + 2 * n;
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
        sign *= haar<T>(which ? s.second : s.first, stride, n, s.numbers, draw.row, s.work);
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
        const View<const T> left{s.scaled, stride, 1}, right{s.second, stride, 1};
        if (which == 0) {
            multiply<T>(left, right, n, {matrix, draw.size, 1}, n, n, false);
        } else {
            multiply<T>(left, right, n, {s.product, stride, 1}, n, stride, false);
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
        haar<T>(s.first, stride, draw.haar, s.numbers, draw.row, s.work);
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
