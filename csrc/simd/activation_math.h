// SPDX-License-Identifier: MIT
// What the vector activations are made of: exponentials left in two factors, quotients, exact products, sines.
#pragma once
#include "activation_constants.h"
#include "math.h"

namespace {

#if defined(NNSYM_FUSED)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

// a b + c, rounded once where the ISA can (kFused).
NNSYM_INLINE Vec<float>::F fused(Vec<float>::F a, Vec<float>::F b, Vec<float>::F c) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<float>::F>(
        _mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b), reinterpret_cast<__m512>(c)));
#elif defined(__AVX2__) && defined(__FMA__)
    return reinterpret_cast<Vec<float>::F>(
        _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
#elif defined(NNSYM_FUSED)
    for (int l = 0; l < kLanes<float>; ++l) c[l] = __builtin_fmaf(a[l], b[l], c[l]);
    return c;
#else
    return a * b + c;
#endif
}
NNSYM_INLINE Vec<double>::F fused(Vec<double>::F a, Vec<double>::F b, Vec<double>::F c) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<double>::F>(
        _mm512_fmadd_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b), reinterpret_cast<__m512d>(c)));
#elif defined(__AVX2__) && defined(__FMA__)
    return reinterpret_cast<Vec<double>::F>(
        _mm256_fmadd_pd(reinterpret_cast<__m256d>(a), reinterpret_cast<__m256d>(b), reinterpret_cast<__m256d>(c)));
#elif defined(NNSYM_FUSED)
    for (int l = 0; l < kLanes<double>; ++l) c[l] = __builtin_fma(a[l], b[l], c[l]);
    return c;
#else
    return a * b + c;
#endif
}

// max(z, low) and min(z, high); a NaN z stays one.
NNSYM_INLINE Vec<float>::F at_least(Vec<float>::F z, float low) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<float>::F>(_mm512_max_ps(_mm512_set1_ps(low), reinterpret_cast<__m512>(z)));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec<float>::F>(_mm256_max_ps(_mm256_set1_ps(low), reinterpret_cast<__m256>(z)));
#elif defined(__SSE2__)
    return reinterpret_cast<Vec<float>::F>(_mm_max_ps(_mm_set1_ps(low), reinterpret_cast<__m128>(z)));
#else
    return z < low ? splat<Vec<float>::F>(low) : z;
#endif
}
NNSYM_INLINE Vec<double>::F at_least(Vec<double>::F z, double low) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<double>::F>(_mm512_max_pd(_mm512_set1_pd(low), reinterpret_cast<__m512d>(z)));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec<double>::F>(_mm256_max_pd(_mm256_set1_pd(low), reinterpret_cast<__m256d>(z)));
#elif defined(__SSE2__)
    return reinterpret_cast<Vec<double>::F>(_mm_max_pd(_mm_set1_pd(low), reinterpret_cast<__m128d>(z)));
#else
    return z < low ? splat<Vec<double>::F>(low) : z;
#endif
}
NNSYM_INLINE Vec<float>::F at_most(Vec<float>::F z, float high) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<float>::F>(_mm512_min_ps(_mm512_set1_ps(high), reinterpret_cast<__m512>(z)));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec<float>::F>(_mm256_min_ps(_mm256_set1_ps(high), reinterpret_cast<__m256>(z)));
#elif defined(__SSE2__)
    return reinterpret_cast<Vec<float>::F>(_mm_min_ps(_mm_set1_ps(high), reinterpret_cast<__m128>(z)));
#else
    return z > high ? splat<Vec<float>::F>(high) : z;
#endif
}
NNSYM_INLINE Vec<double>::F at_most(Vec<double>::F z, double high) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<double>::F>(_mm512_min_pd(_mm512_set1_pd(high), reinterpret_cast<__m512d>(z)));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec<double>::F>(_mm256_min_pd(_mm256_set1_pd(high), reinterpret_cast<__m256d>(z)));
#elif defined(__SSE2__)
    return reinterpret_cast<Vec<double>::F>(_mm_min_pd(_mm_set1_pd(high), reinterpret_cast<__m128d>(z)));
#else
    return z > high ? splat<Vec<double>::F>(high) : z;
#endif
}

// a / d for finite a and d whose reciprocal is a normal number. AVX-512: an approximate reciprocal, then the remainder
// a - q d, exact to the last bits, corrects the quotient. In float64 the division itself is faster.
NNSYM_INLINE Vec<float>::F quotient(Vec<float>::F a, Vec<float>::F d) {
#if defined(__AVX512F__)
    const Vec<float>::F y = reinterpret_cast<Vec<float>::F>(_mm512_rcp14_ps(reinterpret_cast<__m512>(d)));
    const Vec<float>::F q = a * y;
    return fused(fused(-q, d, a), y, q);
#else
    return a / d;
#endif
}
NNSYM_INLINE Vec<double>::F quotient(Vec<double>::F a, Vec<double>::F d) {
    return a / d;
}

// a / (1 + e), -1 < e. The sum is rounded; in float32 the remainder a - q - q e corrects that too.
NNSYM_INLINE Vec<float>::F share(Vec<float>::F a, Vec<float>::F e) {
    const Vec<float>::F d = e + 1.0f;
#if defined(__AVX512F__)
    const Vec<float>::F y = reinterpret_cast<Vec<float>::F>(_mm512_rcp14_ps(reinterpret_cast<__m512>(d)));
    const Vec<float>::F q = a * y;
#elif defined(__AVX2__)
    const Vec<float>::F y = reinterpret_cast<Vec<float>::F>(_mm256_rcp_ps(reinterpret_cast<__m256>(d)));
    const Vec<float>::F q = a / d;
#else
    const Vec<float>::F y = 1.0f / d, q = a * y;
#endif
    return fused(fused(-q, e, a - q), y, q);
}
NNSYM_INLINE Vec<double>::F share(Vec<double>::F a, Vec<double>::F e) {
    return quotient(a, e + 1.0);
}

// c[0] x^(N-1) + ... + c[N-1].
template <class F, class T, int N>
NNSYM_INLINE F horner(F x, const T (&c)[N]) {
    F p = splat<F>(c[0]);
#pragma GCC unroll 32
    for (int i = 1; i < N; ++i) p = p * x + c[i];
    return p;
}

// What rounding took from the product of a and b, for products far from the ends of the range.
template <class T>
NNSYM_INLINE typename Vec<T>::F product_rest(typename Vec<T>::F a, typename Vec<T>::F b, typename Vec<T>::F product) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I I;
    if constexpr (kFused) return fused(a, b, -product);
    constexpr int cut = sizeof(T) == 4 ? 12 : 27;
    auto upper = [](F x) { return reinterpret_cast<F>((reinterpret_cast<I>(x) >> cut) << cut); };
    const F c = upper(a), d = upper(b);
    return ((c * d - product) + c * (b - d) + (a - c) * d) + (a - c) * (b - d);
}

// 2^k of the integer k that a sum with `magic` holds in its low bits, times 2^shift; |k + shift| within the exponents.
template <class T>
NNSYM_INLINE typename Vec<T>::F power_of(typename Vec<T>::F sum, int shift = 0) {
    typedef Constants<T> C;
    typedef typename Vec<T>::I I;
    return reinterpret_cast<typename Vec<T>::F>((reinterpret_cast<I>(sum) + (C::bias + shift)) << C::mantissa);
}

// e^(x + low) = (1 + q) 2^n. Results of scaled() underflow gradually, and with one rounding.
template <class T>
struct Exponential {
    typedef typename Vec<T>::F F;
    typedef Constants<T> C;
    F sum, n, q;

    explicit NNSYM_INLINE Exponential(F x, F low = F{}) {
        sum = x * C::log2e + C::magic;
        n = sum - C::magic;
        const F r = ((x - n * C::ln2[0]) - n * C::ln2[1]) + low;
        q = horner(r, C::exp) * (r * r) + r;
    }
    NNSYM_INLINE F scaled(F y) const {  // y 2^n, -1120 < n < 100 (float32: -187 < n < 67)
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4)
            return reinterpret_cast<F>(_mm512_scalef_ps(reinterpret_cast<__m512>(y), reinterpret_cast<__m512>(n)));
        else
            return reinterpret_cast<F>(_mm512_scalef_pd(reinterpret_cast<__m512d>(y), reinterpret_cast<__m512d>(n)));
#else
        constexpr int shift = sizeof(T) == 4 ? 60 : 100;
        return y * power_of<T>(sum, shift) * (sizeof(T) == 4 ? T(0x1p-60) : T(0x1p-100));
#endif
    }
    NNSYM_INLINE F value() const { return scaled(q + T(1)); }
};

// 2^-halvings (e^z - 1), |z| < 60.
template <class T, int Halvings = 0>
NNSYM_INLINE typename Vec<T>::F expm1(typename Vec<T>::F z) {
    const Exponential<T> e(z);
    const typename Vec<T>::F s = power_of<T>(e.sum, -Halvings);
    return e.q * s + (s - T(1) / (1 << Halvings));
}

// log(1 + x), 0 <= x <= 1.
template <class T>
NNSYM_INLINE typename Vec<T>::F log1p(typename Vec<T>::F x) {
    return horner(x, Constants<T>::log1p) * (x * x) + x;
}

// Beyond `limit` the reduction by parts of pi ends; there each lane asks the C library, whose sine reduces exactly.
template <class T>
struct Sine {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I I;
    typedef Constants<T> C;
    static constexpr T limit = sizeof(T) == 4 ? T(1e5) : T(1e9);
    F r, square;  // |r| <= pi / 2, its square
    I sign;       // the sign bit of the half turns

    explicit NNSYM_INLINE Sine(F z) {
        const F sum = z * C::turns + C::magic, n = C::magic - sum;
        r = z;
#pragma GCC unroll 8
        for (T part : C::pi) r = fused(n, splat<F>(part), r);
        sign = reinterpret_cast<I>(sum) << (C::mantissa == 23 ? 31 : 63);
        square = r * r;
    }
    NNSYM_INLINE F flipped(F x) const { return reinterpret_cast<F>(reinterpret_cast<I>(x) ^ sign); }
    NNSYM_INLINE F sine() const {
        return flipped(at_most(at_least(horner(square, C::sin) * (square * r) + r, T(-1)), T(1)));
    }
    NNSYM_INLINE F cosine() const { return flipped(horner(square, C::cos) * square + T(1)); }

    template <bool Cosine>
    static __attribute__((noinline)) void each(const T* z, T* out) {
        for (int l = 0; l < kLanes<T>; ++l) {
            if (!(__builtin_fabs(double(z[l])) > double(limit))) continue;
            if constexpr (sizeof(T) == 4)
                out[l] = Cosine ? __builtin_cosf(z[l]) : __builtin_sinf(z[l]);
            else
                out[l] = Cosine ? __builtin_cos(z[l]) : __builtin_sin(z[l]);
        }
    }
    // y with the lanes where |z| > limit put right.
    template <bool Cosine>
    static NNSYM_INLINE F repaired(F z, F y) {
        if (__builtin_expect(any(magnitude(z) > limit), 0)) {
            alignas(kVectorBytes) T in[kLanes<T>], out[kLanes<T>];
            store(in, z);
            store(out, y);
            each<Cosine>(in, out);
            y = load<F>(out);
        }
        return y;
    }
};

// float32 functions that need fused products are computed in float64 where there are none.
template <class T>
constexpr bool kWidened = sizeof(T) == 4 && !kFused;

template <template <class, int> class Function, int A>
NNSYM_INLINE Vec<float>::F widened(Vec<float>::F z, Vec<float>::F p, Vec<float>::F* slope) {
    typedef typename Iota<kLanes<float> / 2>::type Lanes;
    typedef Vec<double>::F D;
    auto wide = [](auto v) { return __builtin_convertvector(v, D); };
    auto narrow = [](D low, D high) {
        typedef Vec<float>::Half H;
        return join(__builtin_convertvector(low, H), __builtin_convertvector(high, H),
                    typename Iota<kLanes<float>>::type());
    };
    const D z0 = wide(half<false>(z, Lanes())), z1 = wide(half<true>(z, Lanes()));
    const D p0 = wide(half<false>(p, Lanes())), p1 = wide(half<true>(p, Lanes()));
    if (!slope) return narrow(Function<double, A>::value(z0, p0), Function<double, A>::value(z1, p1));
    D s0, s1;
    const D y0 = Function<double, A>::value_and_slope(z0, p0, s0);
    const D y1 = Function<double, A>::value_and_slope(z1, p1, s1);
    *slope = narrow(s0, s1);
    return narrow(y0, y1);
}

}  // namespace
