// SPDX-License-Identifier: MIT
// Vector activations with slope and curvature. A NaN gives NaN, and an infinite z the limit.
// Largest errors measured, of values over all z down to subnormal results, the largest of the instruction sets:
// float32 tanh 2, sigmoid 1.5, softplus 1.8, silu 1.8, gelu 2, gelu_tanh 2, elu 1.7, sin 1.7 ulp;
// float64 tanh 2.7, sigmoid 2.4, softplus 2.3, silu 2.5, gelu 3.5, gelu_tanh 2.1, elu 1.9, sin 2.3 ulp.
// Slopes err by at most 8, curvatures by at most 16 epsilon of 1 (tests/ode/test_ode_activations.py holds all of it).
#pragma once
#include "../core/activation.h"
#include "activation_math.h"

namespace {

namespace ode = nnsym::ode;

// A: the code. Parameter p: slope of leaky_relu, alpha of elu.
template <class T, int A>
struct ActivationOf;

template <class T>
struct ActivationOf<T, ode::kIdentity> {
    typedef typename Vec<T>::F F;
    static NNSYM_INLINE F value(F z, F) { return z; }
    static NNSYM_INLINE F value_and_slope(F z, F, F& slope) {
        slope = splat<F>(T(1));
        return z;
    }
    static NNSYM_INLINE F curvature(F, F) { return F{}; }
};

template <class T>
struct ActivationOf<T, ode::kRelu> {
    typedef typename Vec<T>::F F;
    static NNSYM_INLINE F value(F z, F) { return at_least(z, T(0)); }
    static NNSYM_INLINE F value_and_slope(F z, F p, F& slope) {
        slope = z > T(0) ? splat<F>(T(1)) : F{};
        return value(z, p);
    }
    static NNSYM_INLINE F curvature(F, F) { return F{}; }
};

template <class T>
struct ActivationOf<T, ode::kLeakyRelu> {
    typedef typename Vec<T>::F F;
    static NNSYM_INLINE F value(F z, F p) { return z > T(0) ? z : z * p; }
    static NNSYM_INLINE F value_and_slope(F z, F p, F& slope) {
        slope = z > T(0) ? splat<F>(T(1)) : p;
        return z * slope;
    }
    static NNSYM_INLINE F curvature(F, F) { return F{}; }
};

template <class T>
struct ActivationOf<T, ode::kTanh> {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I I;
    static NNSYM_INLINE F value(F z, [[maybe_unused]] F p) {
#if defined(__AVX512F__)
        if constexpr (sizeof(T) == 4) {  // 15 instructions, none of them slow
            const F a = at_most(magnitude(z), T(10));
            const I i = reinterpret_cast<I>(a + T(0.75)) >> 20;  // the permutation takes the lowest five bits
            auto column = [&](int row) { return permute(load<F>(kTanh32[row]), load<F>(kTanh32[row] + 16), i); };
            const F u = a - kTanhShift;
            F y = column(4);
            y = y * u + column(3);
            y = y * u + column(2);
            y = y * u + column(1);
            y = y * a + column(0);
            return reinterpret_cast<F>(reinterpret_cast<I>(y) | (reinterpret_cast<I>(z) & ~0x7fffffff));
        }
#endif
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kTanh>(z, p, nullptr);
        constexpr T saturated = sizeof(T) == 4 ? T(10) : T(20);
        const F x = at_most(at_least(z, -saturated), saturated);
        const F e = expm1<T, 1>(x + x);
        return share(e, e);
    }
    static NNSYM_INLINE F value_and_slope(F z, F p, F& slope) {
        const F y = value(z, p);
        slope = T(1) - y * y;
        return y;
    }
    static NNSYM_INLINE F curvature(F z, F p) {
        const F y = value(z, p);
        return y * T(-2) * (T(1) - y * y);
    }
};

// e^z / (1 + e^z), between where it underflows and where it is 1.
template <class T>
struct ActivationOf<T, ode::kSigmoid> {
    typedef typename Vec<T>::F F;
    static constexpr T low = sizeof(T) == 4 ? T(-105) : T(-747), high = 40;
    static NNSYM_INLINE F value(F z, [[maybe_unused]] F p) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kSigmoid>(z, p, nullptr);
        const F e = Exponential<T>(at_most(at_least(z, low), high)).value();
        return share(e, e);
    }
    static NNSYM_INLINE F value_and_slope(F z, [[maybe_unused]] F p, F& slope) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kSigmoid>(z, p, &slope);
        const F e = Exponential<T>(at_most(at_least(z, low), high)).value();
        const F y = share(e, e);
        slope = quotient(y, e + T(1));
        return y;
    }
    static NNSYM_INLINE F curvature(F z, F p) {
        F slope;
        const F y = value_and_slope(z, p, slope);
        return slope * (T(1) - y * T(2));
    }
};

// max(z, 0) + log(1 + e^-|z|).
template <class T>
struct ActivationOf<T, ode::kSoftplus> {
    typedef typename Vec<T>::F F;
    static constexpr T low = ActivationOf<T, ode::kSigmoid>::low;
    static NNSYM_INLINE F value(F z, [[maybe_unused]] F p) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kSoftplus>(z, p, nullptr);
        const F e = Exponential<T>(at_least(-magnitude(z), low)).value();
        return log1p<T>(e) + at_least(z, T(0));
    }
    static NNSYM_INLINE F value_and_slope(F z, [[maybe_unused]] F p, F& slope) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kSoftplus>(z, p, &slope);
        const F e = Exponential<T>(at_least(-magnitude(z), low)).value();
        slope = quotient(z < T(0) ? e : splat<F>(T(1)), e + T(1));
        return log1p<T>(e) + at_least(z, T(0));
    }
    static NNSYM_INLINE F curvature(F z, F p) {
        F slope;
        ActivationOf<T, ode::kSigmoid>::value_and_slope(z, p, slope);
        return slope;
    }
};

// a e^w / (1 + e^w) for an exponential e^w <= 1: 2^n comes last, as a e^w may be normal where e^w is not.
template <class T>
NNSYM_INLINE typename Vec<T>::F gated(typename Vec<T>::F a, const Exponential<T>& e) {
    return e.scaled(share(a * e.q + a, e.value()));
}

// z sigmoid(z) = max(z, 0) - a sigmoid(-a), a = |z|.
template <class T>
struct ActivationOf<T, ode::kSilu> {
    typedef typename Vec<T>::F F;
    static constexpr T limit = sizeof(T) == 4 ? T(111) : T(755);
    static NNSYM_INLINE F value(F z, [[maybe_unused]] F p) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kSilu>(z, p, nullptr);
        const F a = at_most(magnitude(z), limit);
        return at_least(z, T(0)) - gated(a, Exponential<T>(-a));
    }
    // s: sigmoid(-a). The slope at -a is s (1 - a (1 - s)), and that at a the rest to 1.
    static NNSYM_INLINE F value_and_slope(F z, [[maybe_unused]] F p, F& slope) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kSilu>(z, p, &slope);
        const F a = at_most(magnitude(z), limit);
        const Exponential<T> e(-a);
        const F s = share(e.value(), e.value()), below = s - a * s * (T(1) - s);
        slope = z > T(0) ? T(1) - below : below;
        return at_least(z, T(0)) - gated(a, e);
    }
    static NNSYM_INLINE F curvature(F z, F) {
        const F a = at_most(magnitude(z), limit), e = Exponential<T>(-a).value(), s = share(e, e);
        return s * (T(1) - s) * (T(2) - a * (T(1) - s * T(2)));
    }
};

// z Phi(z) = max(z, 0) - a Phi(-a), a = |z|, and a Phi(-a) = w G(w) e^{-a^2 / 2}, w = a / (a + k).
template <class T>
struct ActivationOf<T, ode::kGelu> {
    typedef typename Vec<T>::F F;
    typedef Constants<T> C;
    static constexpr T limit = sizeof(T) == 4 ? T(15) : T(39);
    static constexpr T density = T(0.39894228040143267794);  // 1 / sqrt(2 pi)

    struct Tail {
        F a, w, u, h, g;  // g: the polynomial, c + u h
        Exponential<T> e;
        explicit NNSYM_INLINE Tail(F z)
            : a(at_most(magnitude(z), limit)),
              w(share(a * (T(1) / C::gelu_shift), a * (T(1) / C::gelu_shift))),
              u(w * T(2) - C::gelu_centre),
              h(horner(u, C::gelu)),
              g(fused(h, u, splat<F>(C::gelu_last))),
              e(a * a * T(-0.5), product_rest<T>(a, a, a * a) * T(-0.5)) {}
        NNSYM_INLINE F product() const {  // a Phi(-a), with what rounding took from g and from w g
            const F m = w * g, rest = w * fused(h, u, C::gelu_last - g) + product_rest<T>(w, g, m);
            return e.scaled(m + (m * e.q + rest));
        }
    };
    static NNSYM_INLINE F value(F z, [[maybe_unused]] F p) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kGelu>(z, p, nullptr);
        return at_least(z, T(0)) - Tail(z).product();
    }
    static NNSYM_INLINE F value_and_slope(F z, [[maybe_unused]] F p, F& slope) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kGelu>(z, p, &slope);
        const Tail t(z);
        const F e = t.e.value(), below = e * t.g * ((T(1) - t.w) * (T(1) / C::gelu_shift));
        const F x = at_most(at_least(z, -limit), limit);
        slope = (z > T(0) ? T(1) - below : below) + x * e * density;
        return at_least(z, T(0)) - t.product();
    }
    static NNSYM_INLINE F curvature(F z, F) {
        const F x = at_most(at_least(z, -limit), limit), square = x * x;
        return Exponential<T>(square * T(-0.5)).value() * (T(2) - square) * density;
    }
};

// z sigmoid(w), w = z (a + b z^2), which is 0.5 z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))): as silu.
template <class T>
struct ActivationOf<T, ode::kGeluTanh> {
    typedef typename Vec<T>::F F;
    typedef Constants<T> C;
    static constexpr T limit = sizeof(T) == 4 ? T(11) : T(21.7);

    static NNSYM_INLINE Exponential<T> exponential(F z) {  // w in two parts: its absolute error counts
        const F h = z * z, m = h * C::gelu_b[0], sum = m + C::gelu_a[0], part = sum - C::gelu_a[0];
        F rest = (C::gelu_a[0] - (sum - part)) + (m - part);
        rest += product_rest<T>(h, splat<F>(C::gelu_b[0]), m);
        rest += h * C::gelu_b[1] + product_rest<T>(z, z, h) * C::gelu_b[0] + C::gelu_a[1];
        const F w = z * sum;
        return Exponential<T>(w, product_rest<T>(z, sum, w) + z * rest);
    }
    static NNSYM_INLINE F value(F z, [[maybe_unused]] F p) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kGeluTanh>(z, p, nullptr);
        const F a = at_most(magnitude(z), limit);
        return at_least(z, T(0)) - gated(a, exponential(-a));
    }
    static NNSYM_INLINE void derivatives(F a, const Exponential<T>& exponential, F& slope, F& curvature) {  // at -a
        const F e = exponential.value(), s = share(e, e), rest = T(1) - s, square = a * a;
        const F dw = square * (3 * C::gelu_b[0]) + C::gelu_a[0], ds = s * rest * dw;
        slope = s - a * ds;
        curvature = ds * T(2) - a * (ds * dw * (rest - s) - s * rest * a * (6 * C::gelu_b[0]));
    }
    static NNSYM_INLINE F value_and_slope(F z, [[maybe_unused]] F p, F& slope) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kGeluTanh>(z, p, &slope);
        const F a = at_most(magnitude(z), limit);
        const Exponential<T> e = exponential(-a);
        F below, unused;
        derivatives(a, e, below, unused);
        slope = z > T(0) ? T(1) - below : below;
        return at_least(z, T(0)) - gated(a, e);
    }
    static NNSYM_INLINE F curvature(F z, F) {
        const F a = at_most(magnitude(z), limit);
        F slope, result;
        derivatives(a, exponential(-a), slope, result);
        return result;
    }
};

template <class T>
struct ActivationOf<T, ode::kElu> {
    typedef typename Vec<T>::F F;
    static NNSYM_INLINE F below(F z, F p) { return p * expm1<T>(at_least(z, T(-40))); }
    static NNSYM_INLINE F value(F z, F p) { return z > T(0) ? z : below(z, p); }
    static NNSYM_INLINE F value_and_slope(F z, F p, F& slope) {
        const F y = below(z, p);
        slope = z > T(0) ? splat<F>(T(1)) : y + p;
        return z > T(0) ? z : y;
    }
    static NNSYM_INLINE F curvature(F z, F p) { return z > T(0) ? F{} : below(z, p) + p; }
};

template <class T>
struct ActivationOf<T, ode::kSin> {
    typedef typename Vec<T>::F F;
    static NNSYM_INLINE F value(F z, [[maybe_unused]] F p) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kSin>(z, p, nullptr);
        return Sine<T>::template repaired<false>(z, Sine<T>(z).sine());
    }
    static NNSYM_INLINE F value_and_slope(F z, [[maybe_unused]] F p, F& slope) {
        if constexpr (kWidened<T>) return widened<ActivationOf, ode::kSin>(z, p, &slope);
        const Sine<T> s(z);
        slope = Sine<T>::template repaired<true>(z, s.cosine());
        return Sine<T>::template repaired<false>(z, s.sine());
    }
    static NNSYM_INLINE F curvature(F z, F p) { return -value(z, p); }
};

}  // namespace
