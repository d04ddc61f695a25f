// SPDX-License-Identifier: MIT
// Matrices of up to 8 x 8 in registers: a group of L = 1, 2, 4 or 8 lanes holds one, each lane R = D / L of its rows.
// d is padded with zeros to D; exp - 1 keeps them.
//
// Column blocks are stored relative to the lane: lane l of a group has entry (l R + i, (q ^ l) R + r) at [i][q R + r].
// So the part of a product that takes rows from lane l ^ q uses the same registers in every lane.
#pragma once
#include "wilson_math.cuh"

namespace nnsym::cuda {
namespace {

template <class T_, int F_, int D_, int L_>
struct Shape {
    typedef T_ T;
    static constexpr int F = F_, D = D_, L = L_, R = D_ / L_, kGroups = kWarp / L_;
    static constexpr int kNumber = int(sizeof(T)) * F;  // bytes
};

// A: 1, or 2 for a matrix with its derivative along a direction.
template <class S, int A = 1>
struct Mat {
    typename S::T at[A * S::F][S::R][S::D];
};

template <class S, int A, class Each>
__device__ __forceinline__ void each(Each body) {
#pragma unroll
    for (int p = 0; p < A * S::F; ++p)
#pragma unroll
        for (int i = 0; i < S::R; ++i)
#pragma unroll
            for (int j = 0; j < S::D; ++j) body(p, i, j);
}
template <class S, int A>
__device__ __forceinline__ void set_zero(Mat<S, A>& m) {
    each<S, A>([&](int p, int i, int j) { m.at[p][i][j] = 0; });
}
template <class S, int A>
__device__ __forceinline__ void scale(Mat<S, A>& m, typename S::T by) {
    each<S, A>([&](int p, int i, int j) { m.at[p][i][j] *= by; });
}
template <class S, int A>
__device__ __forceinline__ void add_identity(Mat<S, A>& m, typename S::T s) {
#pragma unroll
    for (int i = 0; i < S::R; ++i) m.at[0][i][i] += s;
}

// c += a b; of pairs: (a0 b0, a0 b1 + a1 b0).
template <class S, int A>
__device__ __forceinline__ void multiply(Mat<S, A>& c, const Mat<S, A>& a, const Mat<S, A>& b) {
    typedef typename S::T T;
    constexpr int F = S::F, R = S::R;
#pragma unroll
    for (int q = 0; q < S::L; ++q)
#pragma unroll
        for (int k = 0; k < R; ++k) {
            T row[A * F][S::D];
#pragma unroll
            for (int p = 0; p < A * F; ++p)
#pragma unroll
                for (int j = 0; j < S::D; ++j) {
                    const T value = b.at[p][k][((j / R) ^ q) * R + j % R];
                    row[p][j] = q ? __shfl_xor_sync(kAll, value, q) : value;
                }
#pragma unroll
            for (int t = 0; t < A; ++t)
#pragma unroll
                for (int w = 0; w < F; ++w)
#pragma unroll
                    for (int x = 0; x <= t; ++x)
#pragma unroll
                        for (int u = 0; u < F; ++u)
#pragma unroll
                            for (int i = 0; i < R; ++i)
#pragma unroll
                                for (int j = 0; j < S::D; ++j) {
                                    const T z = a.at[x * F + u][i][q * R + k], y = row[(t - x) * F + (u ^ w)][j];
                                    c.at[t * F + w][i][j] += (u & (u ^ w)) ? -z * y : z * y;
                                }
        }
}
template <class S>
__device__ __forceinline__ Mat<S> adjoint(const Mat<S>& a) {
    Mat<S> out;
#pragma unroll
    for (int p = 0; p < S::F; ++p)
#pragma unroll
        for (int q = 0; q < S::L; ++q)
#pragma unroll
            for (int i = 0; i < S::R; ++i)
#pragma unroll
                for (int r = 0; r < S::R; ++r) {
                    const auto value = a.at[p][r][q * S::R + i];
                    const auto there = q ? __shfl_xor_sync(kAll, value, q) : value;
                    out.at[p][i][q * S::R + r] = p ? -there : there;
                }
    return out;
}

template <class S, class T>
__device__ __forceinline__ T group_max(T x) {
#pragma unroll
    for (int q = 1; q < S::L; q *= 2) x = largest_of(x, __shfl_xor_sync(kAll, x, q));
    return x;
}
template <class S, class T>
__device__ __forceinline__ T group_sum(T x) {
#pragma unroll
    for (int q = 1; q < S::L; q *= 2) x += __shfl_xor_sync(kAll, x, q);
    return x;
}

// The largest sum of moduli of a row of s 1 + a, of the matrix alone; rows from `own` on do not count.
template <class S, int A>
__device__ __forceinline__ typename S::T row_norm(const Mat<S, A>& a, typename S::T s = 0, int own = S::R) {
    typedef typename S::T T;
    T norm = 0;
#pragma unroll
    for (int i = 0; i < S::R; ++i) {
        T sum = 0;
#pragma unroll
        for (int j = 0; j < S::D; ++j) {
            const T x = i == j ? a.at[0][i][j] + s : a.at[0][i][j];
            if constexpr (S::F == 1)
                sum += magnitude(x);
            else
                sum += modulus_of(x, a.at[1][i][j]);
        }
        if (i < own) norm = largest_of(norm, sum);
    }
    return group_max<S>(norm);
}

// exp of a matrix, alone or with its derivative, as m + f 1: csrc/cpu/wilson_exp.inl says why. All matrices of a warp
// take the degree of the largest; squarings are counted for each. A matrix that is not finite gets f = NaN.
template <class S, int A>
struct Exponential {
    typedef typename S::T T;
    typedef Mat<S, A> M;

    static __device__ __forceinline__ void run(M& m, M& a, T& f, int own) {
        T norm = row_norm(a);
        f = 1 + norm * 0;
        if (f != f) norm = 0;
        const int i = int(__reduce_max_sync(kAll, unsigned(degrees_below<T, A>(norm))));
        if (i == 0)
            degree2(m, a);
        else if (i == 1)
            degree4(m, a);
        else if (i == 2)
            degree8(m, a);
        else if (i == 3 && kTopDegree<T> > 3) {
            M a2, a3;
            powers(a2, a3, a);
            degree12(m, a, a2, a3);
        } else
            top(m, a, norm, f, own, i > kTopDegree<T>);
    }

private:
    static __device__ __forceinline__ void degree2(M& m, const M& a) {
        set_zero(m);
        multiply(m, a, a);
        each<S, A>([&](int p, int i, int j) { m.at[p][i][j] = a.at[p][i][j] + T(0.5) * m.at[p][i][j]; });
    }
    static __device__ __forceinline__ void degree4(M& m, const M& a) {
        M a2, p;
        set_zero(a2);
        multiply(a2, a, a);
        each<S, A>(
            [&](int u, int i, int j) { p.at[u][i][j] = T(1.0 / 6) * a.at[u][i][j] + T(1.0 / 24) * a2.at[u][i][j]; });
        add_identity(p, T(0.5));
        m = a;
        multiply(m, a2, p);
    }
    static __device__ __forceinline__ void degree8(M& m, const M& a) {
        typedef taylor::T8 C;
        constexpr T a1 = T(C::a1), c2 = T(C::c2), a3 = T(C::a3);
        constexpr T b0 = T(C::b0), b1 = T(C::b1), b2 = T(C::b2), b3 = T(C::b3), s2 = T(C::a2);
        M a2, p, q;
        set_zero(a2);
        multiply(a2, a, a);
        each<S, A>([&](int u, int i, int j) {
            const T x = a.at[u][i][j], y = a2.at[u][i][j];
            p.at[u][i][j] = a1 * x + s2 * y;
            q.at[u][i][j] = a3 * y;
        });
        multiply(q, a2, p);
        each<S, A>([&](int u, int i, int j) {
            const T x = a.at[u][i][j], y = a2.at[u][i][j];
            p.at[u][i][j] = b1 * x + b2 * y + b3 * q.at[u][i][j];
            m.at[u][i][j] = x + c2 * y;
        });
        add_identity(p, b0);
        multiply(m, q, p);
    }
    static __device__ __forceinline__ void powers(M& a2, M& a3, const M& a) {
        set_zero(a2);
        multiply(a2, a, a);
        set_zero(a3);
        multiply(a3, a2, a);
    }
    static __device__ __forceinline__ void degree12(M& m, const M& a, const M& a2, const M& a3) {
        typedef taylor::T12 C;
        constexpr T k1[3] = {T(C::q1[0]), T(C::q1[1]), T(C::q1[2])};
        constexpr T k2[4] = {T(C::q2[0]), T(C::q2[1]), T(C::q2[2]), T(C::q2[3])};
        constexpr T k3[3] = {T(C::q3[0]), T(C::q3[1]), T(C::q3[2])};
        constexpr T k4[3] = {T(C::q4[0]), T(C::q4[1]), T(C::q4[2])};
        M p, q;
        each<S, A>([&](int u, int i, int j) {
            const T x = a.at[u][i][j], y = a2.at[u][i][j], z = a3.at[u][i][j];
            p.at[u][i][j] = k4[0] * x + k4[1] * y + k4[2] * z;
            q.at[u][i][j] = k3[0] * x + k3[1] * y + k3[2] * z;
        });
        multiply(q, p, p);
        each<S, A>([&](int u, int i, int j) {
            const T x = a.at[u][i][j], y = a2.at[u][i][j], z = a3.at[u][i][j];
            p.at[u][i][j] = k2[1] * x + k2[2] * y + k2[3] * z + q.at[u][i][j];
            m.at[u][i][j] = k1[0] * x + k1[1] * y + k1[2] * z;
        });
        add_identity(p, k2[0]);
        multiply(m, p, q);
    }
    static __device__ __forceinline__ void degree18(M& m, const M& a, const M& a2, const M& a3) {
        typedef taylor::T18 C;
        constexpr T k1[3] = {T(C::q1[0]), T(C::q1[1]), T(C::q1[2])};
        constexpr T k2[4] = {T(C::q2[0]), T(C::q2[1]), T(C::q2[2]), T(C::q2[3])};
        constexpr T k3[5] = {T(C::q3[0]), T(C::q3[1]), T(C::q3[2]), T(C::q3[3]), T(C::q3[4])};
        constexpr T k4[4] = {T(C::q4[0]), T(C::q4[1]), T(C::q4[2]), T(C::q4[3])};
        constexpr T k5[3] = {T(C::q5[0]), T(C::q5[1]), T(C::q5[2])};
        M a6, p, r, q;
        set_zero(a6);
        multiply(a6, a3, a3);
        each<S, A>([&](int u, int i, int j) {
            const T x = a.at[u][i][j], y = a2.at[u][i][j], z = a3.at[u][i][j], w = a6.at[u][i][j];
            p.at[u][i][j] = k1[0] * x + k1[1] * y + k1[2] * z;
            r.at[u][i][j] = k5[0] * y + k5[1] * z + k5[2] * w;
            q.at[u][i][j] = k4[0] * x + k4[1] * y + k4[2] * z + k4[3] * w;
        });
        multiply(q, p, r);
        each<S, A>([&](int u, int i, int j) {
            const T x = a.at[u][i][j], y = a2.at[u][i][j], z = a3.at[u][i][j], w = a6.at[u][i][j];
            p.at[u][i][j] = k3[1] * x + k3[2] * y + k3[3] * z + k3[4] * w + q.at[u][i][j];
            m.at[u][i][j] = k2[0] * x + k2[1] * y + k2[2] * z + k2[3] * w;
        });
        add_identity(p, k3[0]);
        multiply(m, p, q);
    }
    static __device__ __forceinline__ void top(M& m, M& a, T norm, T& f, int own, bool squared) {
        int count = 0;
        if (squared) {
            count = squarings<T, A>(norm);
            scale(a, power_of_two<T>(-count));
        }
        M a2, a3;
        powers(a2, a3, a);
        if (squared) {
            const int spare = spared_squarings<T, A>(count, row_norm(a2), row_norm(a3));
            const T up = power_of_two<T>(spare);
            count -= spare;
            scale(a, up), scale(a2, up * up), scale(a3, up * up * up);
        }
        if constexpr (kTopDegree<T> == 3)
            degree12(m, a, a2, a3);
        else
            degree18(m, a, a2, a3);
        if (!squared) return;
#pragma unroll 1
        for (int k = 0; __any_sync(kAll, count > k); ++k) {
            const bool active = count > k;
            if (__any_sync(kAll, f != 0)) {
                const T one = row_norm(m, T(1), own) < T(0.5) && active ? f : T(0);
                add_identity(m, one);
                f -= one;
            }
            M next = m;
            scale(next, 2 * f);
            multiply(next, m, m);
            each<S, A>([&](int p, int i, int j) { m.at[p][i][j] = active ? next.at[p][i][j] : m.at[p][i][j]; });
        }
    }
};

}  // namespace
}  // namespace nnsym::cuda
