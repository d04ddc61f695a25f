// SPDX-License-Identifier: MIT
// Activations with slope and curvature for device code: the formulas of csrc/simd/activations.h, one number at a time.
// A NaN gives NaN, and an infinite z the limit. Values err by at most 4 ulp, of the float tanh and sigmoid too, which
// use the approximate exponential and reciprocal of the hardware where their errors do not grow.
#pragma once
#include "../core/activation.h"
#include "ode_scalar_math.cuh"

namespace nnsym::cuda::activation {

namespace ode = nnsym::ode;

// --- the activations. A: the code. Parameter p: slope of leaky_relu, alpha of elu.

template <class T, int A>
struct Activation;

template <class T>
struct Activation<T, ode::kIdentity> {
    static __device__ __forceinline__ T value(T z, T) { return z; }
    static __device__ __forceinline__ T value_and_slope(T z, T, T& slope) {
        slope = T(1);
        return z;
    }
    static __device__ __forceinline__ T curvature(T, T) { return T(0); }
};

template <class T>
struct Activation<T, ode::kRelu> {
    static __device__ __forceinline__ T value(T z, T) { return positive(z); }
    static __device__ __forceinline__ T value_and_slope(T z, T, T& slope) {
        slope = z > T(0) ? T(1) : T(0);
        return positive(z);
    }
    static __device__ __forceinline__ T curvature(T, T) { return T(0); }
};

template <class T>
struct Activation<T, ode::kLeakyRelu> {
    static __device__ __forceinline__ T value(T z, T p) { return z > T(0) ? z : z * p; }
    static __device__ __forceinline__ T value_and_slope(T z, T p, T& slope) {
        slope = z > T(0) ? T(1) : p;
        return z * slope;
    }
    static __device__ __forceinline__ T curvature(T, T) { return T(0); }
};

template <class T>
struct Activation<T, ode::kTanh> {
    static __device__ __forceinline__ T value(T z, T) {
        if constexpr (kSingle<T>) {
            // 1 - 2 / (e^(2 |z|) + 1) from 0.6 on, where rounding of the exponential counts less than half; below, odd
            // powers.
            const T a = at_most(magnitude(z), T(10));
            const T e = approximate_power_of_two(a * T(2.885390081777927));
            const T far = multiply_add(T(-2), approximate_reciprocal(e + T(1)), T(1));
            const T h = z * z;
            const T near = multiply_add(
                horner(h, T(5.897385e-03), T(-2.0798324e-02), T(5.378468e-02), T(-1.3331936e-01), T(3.33333e-01)) * -h,
                z, z);
            return a < T(0.6) || z != z ? near : copysignf(far, z);
        } else {
            const T x = at_most(at_least(z, T(-20)), T(20));
            const T e = expm1_of<T, 1>(x + x);
            return share(e, e);
        }
    }
    static __device__ __forceinline__ T value_and_slope(T z, T p, T& slope) {
        const T y = value(z, p);
        slope = T(1) - y * y;
        return y;
    }
    static __device__ __forceinline__ T curvature(T z, T p) {
        const T y = value(z, p);
        return y * T(-2) * (T(1) - y * y);
    }
};

// e^z / (1 + e^z), between where it underflows and where it is 1.
template <class T>
struct Activation<T, ode::kSigmoid> {
    static constexpr T low = kSingle<T> ? T(-105) : T(-747), high = T(40);
    static __device__ __forceinline__ T value(T z, T) {
        const T e = Exponential<T>(at_most(at_least(z, low), high)).value();
        return share(e, e);
    }
    static __device__ __forceinline__ T value_and_slope(T z, T, T& slope) {
        const T e = Exponential<T>(at_most(at_least(z, low), high)).value();
        const T y = share(e, e);
        slope = quotient(y, e + T(1));
        return y;
    }
    static __device__ __forceinline__ T curvature(T z, T p) {
        T slope;
        const T y = value_and_slope(z, p, slope);
        return slope * (T(1) - y * T(2));
    }
};

// max(z, 0) + log(1 + e^-|z|)
template <class T>
struct Activation<T, ode::kSoftplus> {
    static constexpr T low = Activation<T, ode::kSigmoid>::low;
    static __device__ __forceinline__ T value(T z, T) {
        const T e = Exponential<T>(at_least(-magnitude(z), low)).value();
        return log1p_of(e) + positive(z);
    }
    static __device__ __forceinline__ T value_and_slope(T z, T, T& slope) {
        const T e = Exponential<T>(at_least(-magnitude(z), low)).value();
        slope = quotient(z < T(0) ? e : T(1), e + T(1));
        return log1p_of(e) + positive(z);
    }
    static __device__ __forceinline__ T curvature(T z, T p) {
        T slope;
        Activation<T, ode::kSigmoid>::value_and_slope(z, p, slope);
        return slope;
    }
};

// a e^w / (1 + e^w) for an exponential e^w <= 1: 2^n comes last, as a e^w may be normal where e^w is not.
template <class T>
__device__ __forceinline__ T gated(T a, const Exponential<T>& e) {
    return e.scaled(share(multiply_add(a, e.q, a), e.value()));
}

// z sigmoid(z) = max(z, 0) - a sigmoid(-a), a = |z|
template <class T>
struct Activation<T, ode::kSilu> {
    static constexpr T limit = kSingle<T> ? T(111) : T(755);
    static __device__ __forceinline__ T value(T z, T) {
        const T a = at_most(magnitude(z), limit);
        return positive(z) - gated(a, Exponential<T>(-a));
    }
    // s: sigmoid(-a). The slope at -a is s (1 - a (1 - s)), and that at a the rest to 1.
    static __device__ __forceinline__ T value_and_slope(T z, T, T& slope) {
        const T a = at_most(magnitude(z), limit);
        const Exponential<T> e(-a);
        const T value = e.value(), s = share(value, value), below = s - a * s * (T(1) - s);
        slope = z > T(0) ? T(1) - below : below;
        return positive(z) - gated(a, e);
    }
    static __device__ __forceinline__ T curvature(T z, T) {
        const T a = at_most(magnitude(z), limit), e = Exponential<T>(-a).value(), s = share(e, e);
        return s * (T(1) - s) * (T(2) - a * (T(1) - s * T(2)));
    }
};

// z Phi(z) = max(z, 0) - a Phi(-a), a = |z|, and a Phi(-a) = w G(w) e^{-a^2 / 2}, w = a / (a + k)
template <class T>
struct Activation<T, ode::kGelu> {
    static constexpr T limit = kSingle<T> ? T(15) : T(39);
    static constexpr T density = T(0.39894228040143267794);  // 1 / sqrt(2 pi)
    static constexpr T turn = T(1) / (kSingle<T> ? T(2) : T(5));
    static constexpr T last = kSingle<T> ? T(6.815719e-01) : T(0.8853974217181731);

    struct Tail {
        T a, w, u, h, g;  // g: the polynomial, c + u h
        Exponential<T> e;
        __device__ __forceinline__ explicit Tail(T z)
            : a(at_most(magnitude(z), limit)),
              w(share(a * turn, a * turn)),
              u(multiply_add(w, T(2), kSingle<T> ? T(-9.724121e-01) : T(-0.8451171875))),
              h(polynomial(u)),
              g(multiply_add(h, u, last)),
              e(rounded_product(a, a) * T(-0.5), product_rest(a, a, rounded_product(a, a)) * T(-0.5)) {}
        static __device__ __forceinline__ T polynomial(T u) {
            if constexpr (kSingle<T>)
                return horner(u, T(-6.7579414e-05), T(-1.3048851e-04), T(1.7527852e-04), T(8.0035336e-04),
                              T(6.400802e-04), T(-2.0938097e-03), T(-6.3982746e-03), T(4.364625e-04), T(3.672066e-02),
                              T(2.5757594e-02), T(-3.3290952e-01));
            else
                return horner(u, T(2.058345825375067e-09), T(5.518284019543709e-10), T(-2.2438230194849662e-08),
                              T(-1.2209982522519947e-08), T(1.6047744972220091e-07), T(1.308324244883904e-07),
                              T(-1.1009126760125597e-06), T(-9.497895891420002e-07), T(8.339538443386607e-06),
                              T(3.6042761122445305e-06), T(-6.999386531193908e-05), T(4.612627446225462e-05),
                              T(0.000559669441144313), T(-0.001586830890149269), T(-0.0015182369300174102),
                              T(0.023329517815057866), T(-0.08974487249915461), T(0.22638037262728208),
                              T(-0.4339500008400843), T(0.6674928472113627), T(-0.8440376599741407));
        }
        __device__ __forceinline__ T product() const {  // a Phi(-a), with what rounding took from g and from w g
            const T m = rounded_product(w, g),
                    rest = multiply_add(w, multiply_add(h, u, last - g), product_rest(w, g, m));
            return e.scaled(m + multiply_add(m, e.q, rest));
        }
    };
    static __device__ __forceinline__ T value(T z, T) { return positive(z) - Tail(z).product(); }
    static __device__ __forceinline__ T value_and_slope(T z, T, T& slope) {
        const Tail t(z);
        const T e = t.e.value(), below = e * t.g * ((T(1) - t.w) * turn);
        const T x = at_most(at_least(z, -limit), limit);
        slope = (z > T(0) ? T(1) - below : below) + x * e * density;
        return positive(z) - t.product();
    }
    static __device__ __forceinline__ T curvature(T z, T) {
        const T x = at_most(at_least(z, -limit), limit), square = x * x;
        return Exponential<T>(square * T(-0.5)).value() * (T(2) - square) * density;
    }
};

// z sigmoid(w), w = z (a + b z^2), which is 0.5 z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))): as silu
template <class T>
struct Activation<T, ode::kGeluTanh> {
    static constexpr T limit = kSingle<T> ? T(11) : T(21.7);
    static constexpr T a0 = kSingle<T> ? T(1.5957692e+00) : T(1.5957691216057308),
                       a1 = kSingle<T> ? T(-4.534068e-08) : T(-9.96930880911092e-17),
                       b0 = kSingle<T> ? T(7.1354814e-02) : T(0.07135481627260025),
                       b1 = kSingle<T> ? T(2.3988325e-09) : T(-6.175149918155315e-19);

    static __device__ __forceinline__ Exponential<T> exponential(T z) {  // w in two parts: its absolute error counts
        const T h = rounded_product(z, z), m = rounded_product(h, b0), sum = m + a0, part = sum - a0;
        T rest = (a0 - (sum - part)) + (m - part);
        rest += product_rest(h, T(b0), m);
        rest += multiply_add(h, T(b1), multiply_add(product_rest(z, z, h), T(b0), T(a1)));
        const T w = rounded_product(z, sum);
        return Exponential<T>(w, multiply_add(z, rest, product_rest(z, sum, w)));
    }
    static __device__ __forceinline__ T value(T z, T) {
        const T a = at_most(magnitude(z), limit);
        return positive(z) - gated(a, exponential(-a));
    }
    static __device__ __forceinline__ void derivatives(T a, const Exponential<T>& exponential, T& slope,
                                                       T& curvature) {  // at -a
        const T e = exponential.value(), s = share(e, e), rest = T(1) - s, square = a * a;
        const T dw = square * (3 * b0) + a0, ds = s * rest * dw;
        slope = s - a * ds;
        curvature = ds * T(2) - a * (ds * dw * (rest - s) - s * rest * a * (6 * b0));
    }
    static __device__ __forceinline__ T value_and_slope(T z, T, T& slope) {
        const T a = at_most(magnitude(z), limit);
        const Exponential<T> e = exponential(-a);
        T below, unused;
        derivatives(a, e, below, unused);
        slope = z > T(0) ? T(1) - below : below;
        return positive(z) - gated(a, e);
    }
    static __device__ __forceinline__ T curvature(T z, T) {
        const T a = at_most(magnitude(z), limit);
        T slope, result;
        derivatives(a, exponential(-a), slope, result);
        return result;
    }
};

template <class T>
struct Activation<T, ode::kElu> {
    static __device__ __forceinline__ T below(T z, T p) { return p * expm1_of(at_most(at_least(z, T(-40)), T(40))); }
    static __device__ __forceinline__ T value(T z, T p) { return z > T(0) ? z : below(z, p); }
    static __device__ __forceinline__ T value_and_slope(T z, T p, T& slope) {
        const T y = below(z, p);
        slope = z > T(0) ? T(1) : y + p;
        return z > T(0) ? z : y;
    }
    static __device__ __forceinline__ T curvature(T z, T p) { return z > T(0) ? T(0) : below(z, p) + p; }
};

template <class T>
struct Activation<T, ode::kSin> {
    static __device__ __forceinline__ T value(T z, T) { return Sine<T>(z).sine(); }
    static __device__ __forceinline__ T value_and_slope(T z, T, T& slope) {
        const Sine<T> s(z);
        slope = s.cosine();
        return s.sine();
    }
    static __device__ __forceinline__ T curvature(T z, T p) { return -value(z, p); }
};

// --- by code at run time

// call(Activation<T, code>()) for one of the codes: the loop over numbers belongs inside the call.
template <class T, class Call>
__device__ __forceinline__ void by_code(int code, Call call) {
    switch (code) {
        case ode::kRelu:
            return call(Activation<T, ode::kRelu>());
        case ode::kLeakyRelu:
            return call(Activation<T, ode::kLeakyRelu>());
        case ode::kTanh:
            return call(Activation<T, ode::kTanh>());
        case ode::kSigmoid:
            return call(Activation<T, ode::kSigmoid>());
        case ode::kSoftplus:
            return call(Activation<T, ode::kSoftplus>());
        case ode::kSilu:
            return call(Activation<T, ode::kSilu>());
        case ode::kGelu:
            return call(Activation<T, ode::kGelu>());
        case ode::kGeluTanh:
            return call(Activation<T, ode::kGeluTanh>());
        case ode::kElu:
            return call(Activation<T, ode::kElu>());
        case ode::kSin:
            return call(Activation<T, ode::kSin>());
        default:
            return call(Activation<T, ode::kIdentity>());
    }
}
template <class T>
__device__ __forceinline__ T value(int code, T z, T p) {
    T y = z;
    by_code<T>(code, [&](auto f) { y = f.value(z, p); });
    return y;
}
template <class T>
__device__ __forceinline__ T value_and_slope(int code, T z, T p, T& slope) {
    T y = z;
    by_code<T>(code, [&](auto f) { y = f.value_and_slope(z, p, slope); });
    return y;
}
template <class T>
__device__ __forceinline__ T curvature(int code, T z, T p) {
    T y = T(0);
    by_code<T>(code, [&](auto f) { y = f.curvature(z, p); });
    return y;
}

}  // namespace nnsym::cuda::activation
