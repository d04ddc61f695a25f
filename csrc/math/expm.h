// SPDX-License-Identifier: MIT
// Taylor polynomials of exp(A) - 1 with few matrix products: Bader, Blanes, Casas, "Computing the matrix exponential
// with an optimized Taylor polynomial approximation", Mathematics 7 (2019) 1174. Their polynomials of degree 12 and 18
// carry multiples of the identity through the products; here these are multiplied out, so that nothing of size one is
// added and taken away again, and degree 12 is solved anew to 20 digits with that constraint (its A^k coefficients are
// 1/k!).
#pragma once

namespace {
namespace taylor {

struct Degree {
    int degree, products;
    double exponential;  // largest 1-norm of A for which the truncation stays below rounding
    double derivative;   // the same for the derivative of exp: (u m!)^(1/m), u the unit roundoff
};

template <class T>
struct Degrees;
template <>
struct Degrees<float> {
    static constexpr int count = 4;
    static constexpr Degree list[count] = {{2, 1, 5.978858893805233e-04, 3.45e-04},
                                           {4, 2, 5.116619363445086e-02, 3.45e-02},
                                           {8, 3, 5.800524627688768e-01, 4.70e-01},
                                           {12, 4, 1.461661507209034e+00, 1.32e+00}};
};
template <>
struct Degrees<double> {
    static constexpr int count = 5;
    static constexpr Degree list[count] = {{2, 1, 2.580956802971767e-08, 1.49e-08},
                                           {4, 2, 3.397168839976962e-04, 2.27e-04},
                                           {8, 3, 4.991228871115323e-02, 3.81e-02},
                                           {12, 4, 2.996158913811580e-01, 2.47e-01},
                                           {18, 5, 1.090863719290036e+00, 9.81e-01}};
};

// Degree 8: V = A^2 (a1 A + a2 A^2) + a3 A^2;  exp(A) - 1 = A + c2 A^2 + V (b0 + b1 A + b2 A^2 + b3 V).
struct T8 {
    static constexpr double a1 = 0.10836465678522780852, a2 = 0.027091164196306952131, a3 = 2.0 / 3.0;
    static constexpr double b0 = 0.54676145797072405251, b1 = 0.16112557339541759283;
    static constexpr double b2 = 0.014090917158378207731 - 0.033792797010870504141 * a3, b3 = 0.033792797010870504141;
    static constexpr double c2 = 0.13549236135285063166;
};

// Degree 12, q_i linear in (1, A, A^2, A^3): B = q3 + q4^2;  exp(A) - 1 = q1 + (q2 + B) B.
struct T12 {
    static constexpr double q1[3] = {0.68745445578212809997, -0.19884924267061943895, -0.044222598444669863137};
    static constexpr double q2[4] = {5.6797563572419172798, 1.1992679041714323055, 0.011792962409921668785,
                                     0.011088445285189998214};
    static constexpr double q3[3] = {0.0550279843992539907, 0.093515907705366761196, 0.0061070052889842433955};
    static constexpr double q4[3] = {-0.13181061013830184016, -0.020278555405892590793, -0.0067595184686308635978};
};

// Degree 18, q_i linear in (1, A, A^2, A^3, A^6): B = q1 q5 + q4;  exp(A) - 1 = q2 + (q3 + B) B.
struct T18 {
    static constexpr double q1[3] = {-0.10036558103014461829, -0.0080292464824115693245, -0.00089213849804572998518};
    static constexpr double q2[4] = {0.24591022090110862601, 1.3626670832081904853, 0.49892102569169426452,
                                     -0.00064092743005853660919};
    static constexpr double q3[5] = {-11.148502971774368303, 1.6801581387890620611, 0.057177984647886551106,
                                     -0.0069821012248805205611, 0.000033497501708607047065};
    static constexpr double q4[4] = {-0.067640451907138188226, 0.067596130177045965492, 0.029555257042931552119,
                                     -0.00001391802575160606934};
    static constexpr double q5[3] = {-0.092336461936711855536, -0.016936493900208172275, -0.000014008679818203609435};
};

}  // namespace taylor
}  // namespace
