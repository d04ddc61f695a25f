// SPDX-License-Identifier: MIT
// Vector exp, log and sincos. Errors against exact values, u and angles from draws: float32 exp 2, log 1, -log u 3,
// sincos 3 ulp; float64 exp 2, log 1, -log u 1, sincos 2 ulp (tests/orbit/test_math.py holds them).
// Polynomials: float32 after Moshier, Cephes 2.2; float64 sin, cos and log after Sun's fdlibm 5.3.
#pragma once
#include "vec.h"

namespace {

template <class T>
struct Math;

template <>
struct Math<float> {
    typedef Vec<float>::F F;
    typedef Vec<float>::I I;
    typedef Vec<float>::U32 U;

    static NNSYM_INLINE F exp(F x) {
        F y = x > splat<F>(89.0f) ? splat<F>(89.0f) : x;
        y = y < splat<F>(-104.0f) ? splat<F>(-104.0f) : y;
        F n = y * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are the rounded integer
        I k = reinterpret_cast<I>(n) - 0x4b400000;
        n = n - 12582912.0f;
        F r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
        F p = splat<F>(1.9875691500e-4f);
        p = p * r + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = (p * r * r + r) + 1.0f;
        I half = k >> 1;  // in two factors, so that overflow and underflow come out of the multiplication
        return p * reinterpret_cast<F>((half + 127) << 23) * reinterpret_cast<F>((k - half + 127) << 23);
    }

    // log(2^e (1 + f)), sqrt(1/2) <= 1 + f < sqrt(2)
    static NNSYM_INLINE F log_reduced(F f, F e) {
        F z = f * f;
        F p = splat<F>(7.0376836292e-2f);
        p = p * f - 1.1514610310e-1f;
        p = p * f + 1.1676998740e-1f;
        p = p * f - 1.2420140846e-1f;
        p = p * f + 1.4249322787e-1f;
        p = p * f - 1.6668057665e-1f;
        p = p * f + 2.0000714765e-1f;
        p = p * f - 2.4999993993e-1f;
        p = p * f + 3.3333331174e-1f;
        F y = p * f * z;
        y = y + e * -2.12194440e-4f;
        y = y - z * 0.5f;
        return (f + y) + e * 0.693359375f;
    }
    static NNSYM_INLINE void split(F x, F& f, F& e) {
        I bits = reinterpret_cast<I>(x);
        I k = (bits - 0x3f3504f3) >> 23;  // exponent relative to sqrt(1/2)
        f = reinterpret_cast<F>(bits - (k << 23)) - 1.0f;
        e = __builtin_convertvector(k, F);
    }
    static NNSYM_INLINE F log(F x) {  // positive normal x
        F f, e;
        split(x, f, e);
        return log_reduced(f, e);
    }
    // log u, u = (x + 1/2) 2^-32. Near u = 1 the float of u has lost what matters: there 1 - u = (~x + 1/2) 2^-32.
    static NNSYM_INLINE F log_uniform(U x) {
        F u = (__builtin_convertvector(x, F) + 0.5f) * 0x1p-32f;
        F v = (__builtin_convertvector(~x, F) + 0.5f) * 0x1p-32f;
        F f, e;
        split(u, f, e);
        auto near = v < splat<F>(0.25f);
        f = near ? -v : f;
        e = near ? F{} : e;
        return log_reduced(f, e);
    }
    static NNSYM_INLINE void sincos_turn(U x, F& s, F& c) {
        U quarter = (x + 0x20000000u) >> 30;
        I r = reinterpret_cast<I>(x - (quarter << 30));
        F t = (__builtin_convertvector(r, F) + 0.5f) * 1.4629180792671596e-9f;  // 2 pi 2^-32
        F z = t * t;
        F p = splat<F>(-1.9515295891e-4f);
        p = p * z + 8.3321608736e-3f;
        p = p * z - 1.6666654611e-1f;
        p = p * z * t + t;
        F q = splat<F>(2.443315711809948e-5f);
        q = q * z - 1.388731625493765e-3f;
        q = q * z + 4.166664568298827e-2f;
        q = q * z * z - z * 0.5f + 1.0f;
        I k = reinterpret_cast<I>(quarter);
        auto odd = (k & 1) != 0;
        F sine = odd ? q : p, cosine = odd ? p : q;
        s = reinterpret_cast<F>(reinterpret_cast<I>(sine) ^ ((k & 2) << 30));
        c = reinterpret_cast<F>(reinterpret_cast<I>(cosine) ^ (((k + 1) & 2) << 30));
    }
};

template <>
struct Math<double> {
    typedef Vec<double>::F F;
    typedef Vec<double>::I I;
    typedef Vec<double>::U32 U;

    static NNSYM_INLINE F exp(F x) {
        F y = x > splat<F>(710.0) ? splat<F>(710.0) : x;
        y = y < splat<F>(-746.0) ? splat<F>(-746.0) : y;
        F n = y * 1.4426950408889634 + 6755399441055744.0;  // 1.5 * 2^52
        I k = reinterpret_cast<I>(n) - 0x4338000000000000;
        n = n - 6755399441055744.0;
        F r = (y - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
        F p = splat<F>(1.0 / 6227020800.0);  // Taylor to r^13 / 13!: |r| < 0.347 leaves 5e-18
        p = p * r + 1.0 / 479001600.0;
        p = p * r + 1.0 / 39916800.0;
        p = p * r + 1.0 / 3628800.0;
        p = p * r + 1.0 / 362880.0;
        p = p * r + 1.0 / 40320.0;
        p = p * r + 1.0 / 5040.0;
        p = p * r + 1.0 / 720.0;
        p = p * r + 1.0 / 120.0;
        p = p * r + 1.0 / 24.0;
        p = p * r + 1.0 / 6.0;
        p = p * r + 0.5;
        p = (p * r * r + r) + 1.0;
        I half = k >> 1;
        return p * reinterpret_cast<F>((half + 1023) << 52) * reinterpret_cast<F>((k - half + 1023) << 52);
    }
    static NNSYM_INLINE F log(F x) {  // positive normal x
        I bits = reinterpret_cast<I>(x);
        I k = (bits - 0x3fe6a09e667f3bcd) >> 52;  // exponent relative to sqrt(1/2)
        F f = reinterpret_cast<F>(bits - (k << 52)) - 1.0;
        F e = __builtin_convertvector(k, F);
        F s = f / (f + 2.0), z = s * s, w = z * z;
        F t1 = splat<F>(1.531383769920937332e-01) * w + 2.222219843214978396e-01;
        t1 = (t1 * w + 3.999999999940941908e-01) * w;
        F t2 = splat<F>(1.479819860511658591e-01) * w + 1.818357216161805012e-01;
        t2 = t2 * w + 2.857142874366239149e-01;
        t2 = (t2 * w + 6.666666666666735130e-01) * z;
        F half = f * f * 0.5;
        return e * 6.93147180369123816490e-01 -
               ((half - (s * (half + (t1 + t2)) + e * 1.90821492927058770002e-10)) - f);
    }
    static NNSYM_INLINE F log_uniform(U x) {  // (x + 1/2) 2^-32 is exact
        return log((__builtin_convertvector(x, F) + 0.5) * 0x1p-32);
    }
    static NNSYM_INLINE void sincos_turn(U x, F& s, F& c) {
        U quarter = (x + 0x20000000u) >> 30;
        Vec<double>::I32 r = reinterpret_cast<Vec<double>::I32>(x - (quarter << 30));
        F t = (__builtin_convertvector(r, F) + 0.5) * 1.4629180792671596e-9;
        F z = t * t;
        F p = splat<F>(1.58969099521155010221e-10);
        p = p * z - 2.50507602534068634195e-08;
        p = p * z + 2.75573137070700676789e-06;
        p = p * z - 1.98412698298579493134e-04;
        p = p * z + 8.33333333332248946124e-03;
        p = p * z - 1.66666666666666324348e-01;
        p = p * z * t + t;
        F q = splat<F>(-1.13596475577881948265e-11);
        q = q * z + 2.08757232129817482790e-09;
        q = q * z - 2.75573143513906633035e-07;
        q = q * z + 2.48015872894767294178e-05;
        q = q * z - 1.38888888888741095749e-03;
        q = q * z + 4.16666666666666019037e-02;
        q = q * z * z - z * 0.5 + 1.0;
        I k = __builtin_convertvector(reinterpret_cast<Vec<double>::I32>(quarter), I);
        auto odd = (k & 1) != 0;
        F sine = odd ? q : p, cosine = odd ? p : q;
        s = reinterpret_cast<F>(reinterpret_cast<I>(sine) ^ ((k & 2) << 62));
        c = reinterpret_cast<F>(reinterpret_cast<I>(cosine) ^ (((k + 1) & 2) << 62));
    }
};

}  // namespace
