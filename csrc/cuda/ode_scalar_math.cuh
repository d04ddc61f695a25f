// SPDX-License-Identifier: MIT
// What the activations are made of, in scalars: exponentials left in two factors, quotients, exact products, sines.
#pragma once
#include "device.h"

namespace nnsym::cuda::activation {

__device__ __forceinline__ float multiply_add(float a, float b, float c) {
    return fmaf(a, b, c);
}
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
    return fma(a, b, c);
}
// a b as a number of its own: not fused with what is added to it.
__device__ __forceinline__ float rounded_product(float a, float b) {
#if defined(NNSYM_EMULATION)
    return a * b;
#else
    return __fmul_rn(a, b);
#endif
}
__device__ __forceinline__ double rounded_product(double a, double b) {
#if defined(NNSYM_EMULATION)
    return a * b;
#else
    return __dmul_rn(a, b);
#endif
}
__device__ __forceinline__ float magnitude(float z) {
    return fabsf(z);
}
__device__ __forceinline__ double magnitude(double z) {
    return fabs(z);
}
// max(z, low) and min(z, high); a NaN z stays one.
template <class T>
__device__ __forceinline__ T at_least(T z, T low) {
    return z < low ? low : z;
}
template <class T>
__device__ __forceinline__ T at_most(T z, T high) {
    return z > high ? high : z;
}
template <class T>
__device__ __forceinline__ T positive(T z) {
    return z < T(0) ? T(0) : z;
}

// c[0] x^(N-1) + ... + c[N-1]
template <class T>
__device__ __forceinline__ T horner(T, T sum) {
    return sum;
}
template <class T, class... C>
__device__ __forceinline__ T horner(T x, T sum, T next, C... rest) {
    return horner(x, multiply_add(sum, x, next), rest...);
}
template <class T>
constexpr bool kSingle = sizeof(T) == 4;

// 1 / d to one ulp, for a normal d whose reciprocal is normal; 2^x to two ulp, results below the normal numbers 0.
__device__ __forceinline__ float approximate_reciprocal(float d) {
#if defined(NNSYM_EMULATION)
    return 1.0f / d;
#else
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    return r;
#endif
}
__device__ __forceinline__ float approximate_power_of_two(float x) {
#if defined(NNSYM_EMULATION)
    return exp2f(x);
#else
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

// a / d for finite a and d whose reciprocal is a normal number: the remainder corrects the quotient.
__device__ __forceinline__ float quotient(float a, float d) {
    const float y = approximate_reciprocal(d), q = rounded_product(a, y);
    return multiply_add(multiply_add(-q, d, a), y, q);
}
__device__ __forceinline__ double quotient(double a, double d) {
    return a / d;
}
// a / (1 + e), -1 < e. In float the remainder also corrects the rounding of the sum.
__device__ __forceinline__ float share(float a, float e) {
    const float y = approximate_reciprocal(1.0f + e), q = rounded_product(a, y);
    return multiply_add(multiply_add(-q, e, a - q), y, q);
}
__device__ __forceinline__ double share(double a, double e) {
    return a / (1.0 + e);
}
// What rounding took from the product of a and b.
template <class T>
__device__ __forceinline__ T product_rest(T a, T b, T product) {
    return multiply_add(a, b, -product);
}
// 2^k, k within the exponents of normal numbers
__device__ __forceinline__ float power_of_two(int k, float) {
    return __int_as_float((k + 127) << 23);
}
__device__ __forceinline__ double power_of_two(int k, double) {
    return __longlong_as_double((long long)(k + 1023) << 52);
}

// e^(x + low) = (1 + q) 2^n. Results of scaled() underflow gradually, and with one rounding.
template <class T>
struct Exponential {
    T q;
    int n;

    __device__ __forceinline__ explicit Exponential(T x, T low = T(0)) {
        constexpr T magic = kSingle<T> ? T(12582912.0) : T(6755399441055744.0);
        T sum, r;
        if constexpr (kSingle<T>) {
            sum = multiply_add(x, T(1.442695e+00), magic) - magic;
            r = multiply_add(-sum, T(3.1946183e-05), multiply_add(-sum, T(6.9311523e-01), x)) + low;
            q = horner(r, T(1.3936601e-03), T(8.369932e-03), T(4.1666448e-02), T(1.6666509e-01), T(5.0e-01));
        } else {
            sum = multiply_add(x, T(1.4426950408889634), magic) - magic;
            r = multiply_add(-sum, T(1.9082149292705877e-10), multiply_add(-sum, T(0.6931471803691238), x)) + low;
            q = horner(r, T(2.5113307170319674e-08), T(2.7632897534815937e-07), T(2.7557231255241864e-06),
                       T(2.4801485566458937e-05), T(0.00019841269899934915), T(0.0013888888951076091),
                       T(0.008333333333315639), T(0.04166666666650061), T(0.16666666666666685), T(0.5000000000000014));
        }
        q = multiply_add(q, r * r, r);
        n = sum == sum ? int(sum) : 0;
    }
    __device__ __forceinline__ T scaled(T y) const {  // y 2^n, -1120 < n < 100 (float: -187 < n < 67)
        constexpr int shift = kSingle<T> ? 60 : 100;
        return y * power_of_two(n + shift, T()) * (kSingle<T> ? T(0x1p-60) : T(0x1p-100));
    }
    __device__ __forceinline__ T value() const { return scaled(q + T(1)); }
};

// 2^-halvings (e^z - 1), |z| < 60.
template <class T, int halvings = 0>
__device__ __forceinline__ T expm1_of(T z) {
    const Exponential<T> e(z);
    const T s = power_of_two(e.n - halvings, T());
    return multiply_add(e.q, s, s - T(1) / (1 << halvings));
}
// log(1 + x), 0 <= x <= 1.
template <class T>
__device__ __forceinline__ T log1p_of(T x) {
    T p;
    if constexpr (kSingle<T>)
        p = horner(x, T(-3.2268476e-03), T(1.9789271e-02), T(-5.6879718e-02), T(1.0600581e-01), T(-1.5307912e-01),
                   T(1.9678871e-01), T(-2.4955375e-01), T(3.3330205e-01), T(-4.9999923e-01));
    else
        p = horner(x, T(2.459995587625567e-05), T(-0.0002844280462383439), T(0.0015616617205260353),
                   T(-0.005445904591465894), T(0.013648223115019323), T(-0.026472643566514298), T(0.04200908084621936),
                   T(-0.057262353042553886), T(0.07020224498663255), T(-0.08073579878670183), T(0.09010192924972592),
                   T(-0.09980126091494035), T(0.11107301926426691), T(-0.1249944442777833), T(0.14285654461342226),
                   T(-0.16666662105068064), T(0.199999997681404), T(-0.2499999999284718), T(0.3333333333321966),
                   T(-0.49999999999999356));
    return multiply_add(p, x * x, x);
}

// Beyond `limit` the reduction by parts of pi ends, and the library reduces exactly.
template <class T>
__device__ __attribute__((noinline)) T far_sine(T z, bool cosine) {
    return T(cosine ? cos(double(z)) : sin(double(z)));
}
template <class T>
struct Sine {
    static constexpr T limit = kSingle<T> ? T(1e5) : T(1e9);
    T z, r, square;  // |r| <= pi / 2, its square
    bool odd;        // half turns

    __device__ __forceinline__ explicit Sine(T argument) : z(argument) {
        constexpr T magic = kSingle<T> ? T(12582912.0) : T(6755399441055744.0);
        const T sum = multiply_add(z, T(0.3183098861837907), magic), n = magic - sum;
        r = z;
        if constexpr (kSingle<T>) {
            r = multiply_add(n, T(3.1415927e+00), r);
            r = multiply_add(n, T(-8.742278e-08), r);
            r = multiply_add(n, T(-3.430249e-15), r);
            odd = __float_as_int(sum) & 1;
        } else {
            r = multiply_add(n, T(3.141592653589793), r);
            r = multiply_add(n, T(1.2246467991473532e-16), r);
            r = multiply_add(n, T(-2.9947698097183397e-33), r);
            odd = __double_as_longlong(sum) & 1;
        }
        square = r * r;
    }
    __device__ __forceinline__ T sine() const {
        if (magnitude(z) > limit) return far_sine(z, false);
        T p;
        if constexpr (kSingle<T>)
            p = horner(square, T(2.6060818e-06), T(-1.9809774e-04), T(8.333069e-03), T(-1.666666e-01));
        else
            p = horner(square, T(2.721463423514629e-15), T(-7.643023000563667e-13), T(1.605894111820387e-10),
                       T(-2.5052106906197235e-08), T(2.7557319211582387e-06), T(-0.00019841269841212514),
                       T(0.008333333333333207), T(-0.16666666666666666));
        const T s = at_most(at_least(multiply_add(p, square * r, r), T(-1)), T(1));
        return odd ? -s : s;
    }
    __device__ __forceinline__ T cosine() const {
        if (magnitude(z) > limit) return far_sine(z, true);
        T p;
        if constexpr (kSingle<T>)
            p = horner(square, T(-2.6209102e-07), T(2.4770181e-05), T(-1.3888585e-03), T(4.1666657e-02), T(-5.0e-01));
        else
            p = horner(square, T(-1.5133689965668135e-16), T(4.7770331866163126e-14), T(-1.1470678007668739e-11),
                       T(2.08767558746334e-09), T(-2.7557319212912785e-07), T(2.480158730152315e-05),
                       T(-0.0013888888888888694), T(0.041666666666666664), T(-0.5));
        const T c = multiply_add(p, square, T(1));
        return odd ? -c : c;
    }
};

}  // namespace nnsym::cuda::activation
