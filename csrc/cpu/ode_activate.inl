// SPDX-License-Identifier: MIT
// Activations of arrays, for tests.
#pragma once

namespace {

// what: 0 value, 1 slope, 2 curvature, 3 the value that comes with the slope.
template <class T, int A>
void activate_as(int what, const T* in, T parameter, T* out, std::int64_t n) {
    typedef typename Vec<T>::F F;
    constexpr int L = kLanes<T>;
    const F p = splat<F>(parameter);
    for (std::int64_t i = 0; i < n; i += L) {
        const std::int64_t count = n - i < L ? n - i : L;
        const F z = load_part<T, T>(in + i, count);
        F y, slope;
        if (what == 0)
            y = ActivationOf<T, A>::value(z, p);
        else if (what == 2)
            y = ActivationOf<T, A>::curvature(z, p);
        else {
            y = ActivationOf<T, A>::value_and_slope(z, p, slope);
            if (what == 1) y = slope;
        }
        std::memcpy(out + i, &y, std::size_t(count) * sizeof(T));
    }
}

template <class T, int A = 0>
void activate(int code, int what, const T* in, T parameter, T* out, std::int64_t n) {
    if constexpr (A < nnsym::ode::kActivations) {
        if (code == A)
            activate_as<T, A>(what, in, parameter, out, n);
        else
            activate<T, A + 1>(code, what, in, parameter, out, n);
    }
}

}  // namespace
