// SPDX-License-Identifier: MIT
// Activations of vectors in memory, in place.
#pragma once

namespace {

template <class T>
struct Rows {
    typedef typename Vec<T>::F V;

    // call(ActivationOf<T, code>) for one of the codes
    template <class Call>
    static NNSYM_INLINE void by_code(int code, Call call) {
        using namespace nnsym::ode;
        switch (code) {
            case kRelu:
                return call(ActivationOf<T, kRelu>());
            case kLeakyRelu:
                return call(ActivationOf<T, kLeakyRelu>());
            case kTanh:
                return call(ActivationOf<T, kTanh>());
            case kSigmoid:
                return call(ActivationOf<T, kSigmoid>());
            case kSoftplus:
                return call(ActivationOf<T, kSoftplus>());
            case kSilu:
                return call(ActivationOf<T, kSilu>());
            case kGelu:
                return call(ActivationOf<T, kGelu>());
            case kGeluTanh:
                return call(ActivationOf<T, kGeluTanh>());
            case kElu:
                return call(ActivationOf<T, kElu>());
            case kSin:
                return call(ActivationOf<T, kSin>());
            default:
                return call(ActivationOf<T, kIdentity>());
        }
    }
    static __attribute__((noinline)) void value(int code, V* z, int n, T parameter) {
        if (code == nnsym::ode::kIdentity) return;
        const V p = splat<V>(parameter);
        by_code(code, [&](auto f) {
            for (int i = 0; i < n; ++i) z[i] = f.value(z[i], p);
        });
    }
    static __attribute__((noinline)) void value_and_slope(int code, V* z, V* slope, int n, T parameter) {
        const V p = splat<V>(parameter);
        by_code(code, [&](auto f) {
            for (int i = 0; i < n; ++i) z[i] = f.value_and_slope(z[i], p, slope[i]);
        });
    }
    static __attribute__((noinline)) void curvature(int code, const V* z, V* out, int n, T parameter) {
        const V p = splat<V>(parameter);
        by_code(code, [&](auto f) {
            for (int i = 0; i < n; ++i) out[i] = f.curvature(z[i], p);
        });
    }
};

}  // namespace
