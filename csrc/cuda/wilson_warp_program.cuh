// SPDX-License-Identifier: MIT
// What is done to matrices as tables that the kernel reads: so one copy of the product, in the middle of a loop over
// rows of a table, serves polynomials of all degrees and Magnus exponents of all orders.
#pragma once
#include <initializer_list>

#include "wilson_math.cuh"

namespace nnsym::cuda {
namespace {

// --- exp - 1 by Taylor polynomials (csrc/math/expm.h): q becomes left right + sum, and perhaps a power of A.

// Coefficients of 1, A, A^2, A^3, A^6 and q.
template <class T>
struct Product {
    T left[6], right[6], sum[6];
    int save;  // slot that takes the new q, or -1: 1 A^2, 2 A^3, 3 A^6
    int same;  // left and right are one
};

constexpr int kProducts = 15;
template <class T>
struct Polynomials {
    Product<T> at[kProducts];  // those of degree 2, 4, 8, 12, 18 one after another
};
constexpr int first_product(int degree) {
    return degree == 0 ? 0 : degree == 1 ? 1 : degree == 2 ? 3 : degree == 3 ? 6 : degree == 4 ? 10 : kProducts;
}

template <class T>
constexpr Polynomials<T> polynomials() {
    using taylor::T12, taylor::T18, taylor::T8;
    Polynomials<T> p{};
    auto set = [&](int i, std::initializer_list<double> left, std::initializer_list<double> right,
                   std::initializer_list<double> sum, int save, bool same) {
        Product<T>& row = p.at[i];
        int n = 0;
        for (double x : left) row.left[n++] = T(x);
        n = 0;
        for (double x : right) row.right[n++] = T(x);
        n = 0;
        for (double x : sum) row.sum[n++] = T(x);
        row.save = save, row.same = same;
    };
    auto square = [&](int i) { set(i, {0, 0, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 1}, {}, 1, true); };  // of q = A
    auto cube = [&](int i) { set(i, {0, 0, 0, 0, 0, 1}, {0, 1}, {}, 2, false); };
    set(0, {0, 0.5}, {0, 1}, {0, 1}, -1, false);
    square(1);
    set(2, {0, 0, 0, 0, 0, 1}, {0.5, 1.0 / 6, 1.0 / 24}, {0, 1}, -1, false);
    square(3);
    set(4, {0, 0, 0, 0, 0, 1}, {0, T8::a1, T8::a2}, {0, 0, T8::a3}, -1, false);
    set(5, {0, 0, 0, 0, 0, 1}, {T8::b0, T8::b1, T8::b2, 0, 0, T8::b3}, {0, 1, T8::c2}, -1, false);
    square(6);
    cube(7);
    set(8, {0, T12::q4[0], T12::q4[1], T12::q4[2]}, {}, {0, T12::q3[0], T12::q3[1], T12::q3[2]}, -1, true);
    set(9, {T12::q2[0], T12::q2[1], T12::q2[2], T12::q2[3], 0, 1}, {0, 0, 0, 0, 0, 1},
        {0, T12::q1[0], T12::q1[1], T12::q1[2]}, -1, false);
    square(10);
    cube(11);
    set(12, {0, 0, 0, 1}, {}, {}, 3, true);
    set(13, {0, T18::q1[0], T18::q1[1], T18::q1[2]}, {0, 0, T18::q5[0], T18::q5[1], T18::q5[2]},
        {0, T18::q4[0], T18::q4[1], T18::q4[2], T18::q4[3]}, -1, false);
    set(14, {T18::q3[0], T18::q3[1], T18::q3[2], T18::q3[3], T18::q3[4], 1}, {0, 0, 0, 0, 0, 1},
        {0, T18::q2[0], T18::q2[1], T18::q2[2], T18::q2[3]}, -1, false);
    return p;
}
[[maybe_unused]] __constant__ const Polynomials<float> kPolynomials32 = polynomials<float>();
[[maybe_unused]] __constant__ const Polynomials<double> kPolynomials64 = polynomials<double>();
template <class T>
__device__ __forceinline__ const Product<T>& product_of(int i) {
    if constexpr (sizeof(T) == 4)
        return kPolynomials32.at[i];
    else
        return kPolynomials64.at[i];
}

// --- Magnus exponents and their gradients (csrc/cpu/wilson_magnus.inl): q = scale [x, y] + sum.

// Coefficients of dt A at the nodes, and of the slots.
template <class T>
struct Terms {
    T node[3], slot[7];
};
template <class T>
struct Commutator {
    Terms<T> x, y, sum;
    T scale;  // 0: no commutator
    int adjoint_x, adjoint_y;
    int save;  // slot that takes q, or -1: q is the exponent, or -2 - i: the gradient of node i
};

// Orders 4 and 6, the exponent and the gradient of the nodes. Slots of the gradient: 0 the gradient of the exponent.
// Of order 6: 1 C1, 2 Q, and further ones as they come.
enum { kExponent4 = 0, kExponent6 = 1, kGradient4 = 4, kGradient6 = 6, kMagnusRows = 17 };
template <class T>
struct Magnus {
    Commutator<T> at[kMagnusRows];
};

template <class T>
constexpr Magnus<T> magnus() {
    constexpr double k4 = kMagnus4, k6 = kMagnus6, u = 10.0 / 3;
    constexpr Terms<T> a1{{0, 1, 0}, {}}, a2{{-k6, 0, k6}, {}};
    constexpr Terms<T> y{{2 * u, -4 * u, 2 * u}, {0, 1}};  // 2 a3 + C1
    constexpr Terms<T> p{{-u, 2 * u - 20, -u}, {0, 1}};    // -20 a1 - a3 + C1
    constexpr Terms<T> q{{}, {0, 0, 1}}, g{{}, {1}}, none{};
    constexpr Terms<T> gc1{{}, {0, 0, 0, 1, 0, 1}}, gc2{{}, {0, 0, 0, 0, -1.0 / 60}};
    Magnus<T> m{};
    m.at[0] = {{{0, 1}, {}}, {{1, 0}, {}}, {{0.5, 0.5}, {}}, k4, 0, 0, -1};
    m.at[1] = {a1, a2, none, 1, 0, 0, 1};
    m.at[2] = {a1, y, a2, -1.0 / 60, 0, 0, 2};
    m.at[3] = {p, q, {{u / 12, 1 - u / 6, u / 12}, {}}, 1.0 / 240, 0, 0, -1};
    m.at[4] = {{{0, 1}, {}}, g, {{}, {0.5}}, k4, 1, 0, -2};  // g / 2 +- k4 [A^H, g] with the other node's A
    m.at[5] = {{{1, 0}, {}}, g, {{}, {0.5}}, -k4, 1, 0, -3};
    m.at[6] = m.at[1];
    m.at[7] = m.at[2];
    m.at[8] = {g, q, none, 1.0 / 240, 0, 1, 3};               // gradient of P: 3
    m.at[9] = {p, g, none, 1.0 / 240, 1, 0, 4};               // of Q: 4, so of C2 -(4) / 60
    m.at[10] = {a1, gc2, none, 1, 1, 0, 5};                   // of 2 a3 + C1: 5, so of C1 (3) + (5)
    m.at[11] = {gc2, y, {{}, {1, 0, 0, -20}}, 1, 0, 1, 2};    // of a1, without the next: 2
    m.at[12] = {gc1, a2, {{}, {0, 0, 1}}, 1, 0, 1, 6};        // of a1: 6
    m.at[13] = {a1, gc1, {{}, {0, 0, 0, 0, 1}}, 1, 1, 0, 4};  // of a2: 4
    // of a3: (0) / 12 - (3) + 2 (5)
    m.at[14] = {none, none, {{}, {u / 12, 0, 0, -u, -k6, 2 * u, 0}}, 0, 0, 0, -2};
    m.at[15] = {none, none, {{}, {-u / 6, 0, 0, 2 * u, 0, -4 * u, 1}}, 0, 0, 0, -3};
    m.at[16] = {none, none, {{}, {u / 12, 0, 0, -u, k6, 2 * u, 0}}, 0, 0, 0, -4};
    return m;
}
[[maybe_unused]] __constant__ const Magnus<float> kMagnus32 = magnus<float>();
[[maybe_unused]] __constant__ const Magnus<double> kMagnus64 = magnus<double>();
template <class T>
__device__ __forceinline__ const Commutator<T>& commutator_of(int i) {
    if constexpr (sizeof(T) == 4)
        return kMagnus32.at[i];
    else
        return kMagnus64.at[i];
}

}  // namespace
}  // namespace nnsym::cuda
