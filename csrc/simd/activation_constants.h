// SPDX-License-Identifier: MIT
// Coefficients of the vector activations, highest power first. Found by least squares with the weight of the relative
// error at Chebyshev nodes, in 50 digits; every coefficient is rounded before the next ones are fitted.
// exp: (e^r - 1 - r) / r^2, |r| <= ln(2) / 2. log1p: (log(1 + x) - x) / x^2 on [0, 1]. sin: (sin(r) / r - 1) / r^2 and
// cos: (cos(r) - 1) / r^2 in r^2, |r| <= pi / 2. gelu: Phi(-a) e^{a^2 / 2} (a + k) in 2 a / (a + k) - centre for a up
// to 15 (float32), 40 (float64); the centre is chosen so that the constant term is a number of the type.
#pragma once
#include "vec.h"

#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define NNSYM_FUSED
#endif

namespace {

template <class T>
struct Constants;

template <>
struct Constants<float> {
    // A sum with 1.5 2^23 has the rounded integer in its low bits.
    static constexpr float magic = 12582912.0f;
    static constexpr int mantissa = 23, bias = 127;
    // exp and e^x - 1
    static constexpr float log2e = 1.442695e+00f;
    static constexpr float ln2[] = {6.9311523e-01f, 3.1946183e-05f};
    static constexpr float exp[] = {1.3936601e-03f, 8.369932e-03f, 4.1666448e-02f, 1.6666509e-01f, 5.0e-01f};
    static constexpr float log1p[] = {-3.2268476e-03f, 1.9789271e-02f,  -5.6879718e-02f,
                                      1.0600581e-01f,  -1.5307912e-01f, 1.9678871e-01f,
                                      -2.4955375e-01f, 3.3330205e-01f,  -4.9999923e-01f};
    // sin, cos
    static constexpr float turns = 3.1830987e-01f;
    static constexpr float pi[] = {3.1415927e+00f, -8.742278e-08f, -3.430249e-15f};
    static constexpr float sin[] = {2.6060818e-06f, -1.9809774e-04f, 8.333069e-03f, -1.666666e-01f};
    static constexpr float cos[] = {-2.6209102e-07f, 2.4770181e-05f, -1.3888585e-03f, 4.1666657e-02f, -5.0e-01f};
    // gelu
    static constexpr float gelu_shift = 2.0e+00f;
    static constexpr float gelu_centre = 9.724121e-01f;
    static constexpr float gelu[] = {-6.7579414e-05f, -1.3048851e-04f, 1.7527852e-04f,  8.0035336e-04f,
                                     6.400802e-04f,   -2.0938097e-03f, -6.3982746e-03f, 4.364625e-04f,
                                     3.672066e-02f,   2.5757594e-02f,  -3.3290952e-01f};
    static constexpr float gelu_last = 6.815719e-01f;
    // gelu_tanh: z (a + b z^2) in two parts each
    static constexpr float gelu_a[] = {1.5957692e+00f, -4.534068e-08f};
    static constexpr float gelu_b[] = {7.1354814e-02f, 2.3988325e-09f};
};

template <>
struct Constants<double> {
    // A sum with 1.5 2^52 has the rounded integer in its low bits.
    static constexpr double magic = 6755399441055744.0;
    static constexpr int mantissa = 52, bias = 1023;
    // exp and e^x - 1
    static constexpr double log2e = 1.4426950408889634;
    static constexpr double ln2[] = {0.6931471803691238, 1.9082149292705877e-10};
    static constexpr double exp[] = {2.5113307170319674e-08, 2.7632897534815937e-07, 2.7557231255241864e-06,
                                     2.4801485566458937e-05, 0.00019841269899934915, 0.0013888888951076091,
                                     0.008333333333315639,   0.04166666666650061,    0.16666666666666685,
                                     0.5000000000000014};
    static constexpr double log1p[] = {
        2.459995587625567e-05, -0.0002844280462383439, 0.0015616617205260353, -0.005445904591465894,
        0.013648223115019323,  -0.026472643566514298,  0.04200908084621936,   -0.057262353042553886,
        0.07020224498663255,   -0.08073579878670183,   0.09010192924972592,   -0.09980126091494035,
        0.11107301926426691,   -0.1249944442777833,    0.14285654461342226,   -0.16666662105068064,
        0.199999997681404,     -0.2499999999284718,    0.3333333333321966,    -0.49999999999999356};
    // sin, cos
    static constexpr double turns = 0.3183098861837907;
#if defined(NNSYM_FUSED)
    static constexpr double pi[] = {3.141592653589793, 1.2246467991473532e-16, -2.9947698097183397e-33};
#else
    static constexpr double pi[] = {3.141592502593994, 1.5099578831723193e-07, 1.078060505991553e-14,
                                    6.564006831615826e-22, 2.5413117520279757e-29};
#endif
    static constexpr double sin[] = {2.721463423514629e-15,   -7.643023000563667e-13, 1.605894111820387e-10,
                                     -2.5052106906197235e-08, 2.7557319211582387e-06, -0.00019841269841212514,
                                     0.008333333333333207,    -0.16666666666666666};
    static constexpr double cos[] = {-1.5133689965668135e-16, 4.7770331866163126e-14,  -1.1470678007668739e-11,
                                     2.08767558746334e-09,    -2.7557319212912785e-07, 2.480158730152315e-05,
                                     -0.0013888888888888694,  0.041666666666666664,    -0.5};
    // gelu
    static constexpr double gelu_shift = 5.0;
    static constexpr double gelu_centre = 0.8451171875;
    static constexpr double gelu[] = {2.058345825375067e-09,   5.518284019543709e-10,  -2.2438230194849662e-08,
                                      -1.2209982522519947e-08, 1.6047744972220091e-07, 1.308324244883904e-07,
                                      -1.1009126760125597e-06, -9.497895891420002e-07, 8.339538443386607e-06,
                                      3.6042761122445305e-06,  -6.999386531193908e-05, 4.612627446225462e-05,
                                      0.000559669441144313,    -0.001586830890149269,  -0.0015182369300174102,
                                      0.023329517815057866,    -0.08974487249915461,   0.22638037262728208,
                                      -0.4339500008400843,     0.6674928472113627,     -0.8440376599741407};
    static constexpr double gelu_last = 0.8853974217181731;
    // gelu_tanh: z (a + b z^2) in two parts each
    static constexpr double gelu_a[] = {1.5957691216057308, -9.96930880911092e-17};
    static constexpr double gelu_b[] = {0.07135481627260025, -6.175149918155315e-19};
};

#if defined(__AVX512F__)
// tanh(a) = c0 + a (c1 + u (c2 + u (c3 + u c4))), u = a - kTanhShift, one column per interval: rows c0, ..., c4. The
// last step takes a itself, so that small numbers keep their relative accuracy. The interval is bits 20 to 24 of a +
// 3/4, eight to an octave. After the fit, a random search over the last bits; 1.97 ulp over all floats.
constexpr float kTanhShift = 1.46875f;
// clang-format off: rows of a table
alignas(64) constexpr float kTanh32[5][32] = {
    {-1.4027032e-01f, -1.5726334e-01f, -1.15297556e-01f, -2.1249255e-02f, 1.05310366e-01f, 2.4412815e-01f,
     3.7992096e-01f, 5.033712e-01f, 6.538611e-01f, 7.992379e-01f, 8.889312e-01f, 9.408174e-01f, 9.694254e-01f,
     9.846116e-01f, 9.924263e-01f, 9.9634415e-01f, 9.987663e-01f, 9.997374e-01f, 1.0e+00f, 0.0f, 0.0f,
     7.468073e-07f, 9.933996e-06f, 4.7331156e-05f, 1.8737672e-04f, 3.6642636e-04f, -7.8384724e-04f, -6.100095e-03f,
     -1.8715082e-02f, -4.009743e-02f, -6.877578e-02f, -1.0051118e-01f},
    {7.078189e-01f, 7.1938866e-01f, 6.908435e-01f, 6.2714815e-01f, 5.4224443e-01f, 4.5046127e-01f, 3.623411e-01f,
     2.8396288e-01f, 1.9114436e-01f, 1.05482645e-01f, 5.545832e-02f, 2.8085345e-02f, 1.3800761e-02f, 6.614673e-03f,
     3.1045568e-03f, 1.4312004e-03f, 4.5222827e-04f, 8.857907e-05f, 0.0f, 0.0f, 3.322054e-01f, 4.4976804e-01f,
     5.31322e-01f, 5.8721185e-01f, 6.315119e-01f, 6.4457667e-01f, 6.361075e-01f, 6.281436e-01f, 6.294663e-01f,
     6.408465e-01f, 6.59374e-01f, 6.807724e-01f},
    {-3.5174772e-01f, -3.5962558e-01f, -3.4053016e-01f, -2.9962644e-01f, -2.482372e-01f, -1.9632003e-01f,
     -1.4986585e-01f, -1.1134832e-01f, -6.927679e-02f, -3.4535322e-02f, -1.6507003e-02f, -7.6495474e-03f,
     -3.4607965e-03f, -1.5357444e-03f, -6.706895e-04f, -2.8898742e-04f, -8.314297e-05f, -1.4536226e-05f, 0.0f,
     0.0f, -8.734862e-01f, -6.2018216e-01f, -4.3328798e-01f, -2.9706946e-01f, -1.806422e-01f, -1.4251806e-01f,
     -1.7543548e-01f, -2.2492982e-01f, -2.6606914e-01f, -2.9501414e-01f, -3.1599894e-01f, -3.329202e-01f},
    {1.2243707e-01f, 1.2779257e-01f, 1.164034e-01f, 9.536597e-02f, 7.265511e-02f, 5.2705396e-02f, 3.697545e-02f,
     2.534117e-02f, 1.4084714e-02f, 6.1278213e-03f, 2.5942058e-03f, 1.078006e-03f, 4.418392e-04f, 1.791593e-04f,
     7.201611e-05f, 2.8739094e-05f, 7.4412433e-06f, 1.1478228e-06f, 0.0f, 0.0f, -2.607376e-01f, -7.8708105e-02f,
     6.427912e-02f, 1.752409e-01f, 2.7753127e-01f, 3.144506e-01f, 2.761712e-01f, 2.1212578e-01f, 1.5644428e-01f,
     1.2301742e-01f, 1.1089377e-01f, 1.124128e-01f},
    {-2.107583e-02f, -2.5122864e-02f, -2.0852294e-02f, -1.49933435e-02f, -1.002568e-02f, -6.4399247e-03f,
     -4.041861e-03f, -2.5023494e-03f, -1.2126234e-03f, -4.5039278e-04f, -1.6627378e-04f, -6.1247796e-05f,
     -2.2542516e-05f, -8.294378e-06f, -3.051527e-06f, -1.1226208e-06f, -2.600147e-07f, -3.518927e-08f, 0.0f, 0.0f,
     1.6622841e-02f, 6.0254585e-02f, 9.680121e-02f, 1.2709375e-01f, 1.574216e-01f, 1.6965762e-01f, 1.5337288e-01f,
     1.1957127e-01f, 7.99988e-02f, 4.342826e-02f, 1.4513764e-02f, -5.541894e-03f}
};
// clang-format on
#endif

}  // namespace
