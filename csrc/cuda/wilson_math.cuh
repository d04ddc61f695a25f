// SPDX-License-Identifier: MIT
// What the kernels of all sizes of matrices share: powers of two, norms that keep NaN, the choice of a Taylor degree,
// and the coefficients of Magnus exponents.
#pragma once
#include "../math/expm.h"
#include "device.h"

namespace nnsym::cuda {
namespace {

// 2^k, for k that give normal numbers.
template <class T>
__device__ __forceinline__ T power_of_two(int k) {
    if constexpr (sizeof(T) == 4)
        return __int_as_float((k + 127) << 23);
    else
        return __longlong_as_double(static_cast<long long>(k + 1023) << 52);
}
// The largest k with 2^k <= x, for normal x > 0.
template <class T>
__device__ __forceinline__ int exponent_of(T x) {
    if constexpr (sizeof(T) == 4)
        return ((__float_as_int(x) >> 23) & 0xff) - 127;
    else
        return int((__double_as_longlong(x) >> 52) & 0x7ff) - 1023;
}
// The larger, NaN if the new one or the one so far is NaN.
template <class T>
__device__ __forceinline__ T largest_of(T so_far, T x) {
    return so_far < x || x != x ? x : so_far;
}
template <class T>
__device__ __forceinline__ T magnitude(T x) {
    return x < 0 ? -x : x;
}
__device__ __forceinline__ float magnitude(float x) {
    return fabsf(x);
}
__device__ __forceinline__ double magnitude(double x) {
    return fabs(x);
}
// |x + iy|, or a bound that is at most 8 % above it.
template <class T>
__device__ __forceinline__ T modulus_of(T x, T y) {
    x = magnitude(x), y = magnitude(y);
    return (x > y ? x : y) + (x > y ? y : x) * T(0.41421357);
}

// The exponent that takes the largest part of a state into [1/2, 1): 0 for zero and for what is not finite.
template <class T>
__device__ __forceinline__ int shift_of_largest(T largest) {
    constexpr int kLift = sizeof(T) == 4 ? 64 : 512;
    const bool tiny = largest < power_of_two<T>(sizeof(T) == 4 ? -100 : -960);
    const int k = exponent_of(tiny ? largest * power_of_two<T>(kLift) : largest) + 1 - (tiny ? kLift : 0);
    return largest > 0 && largest * 0 == 0 ? k : 0;
}
// 2^k x in two factors, as one may not be a normal number.
template <class T>
struct TwoPowers {
    T first, second;
    __device__ __forceinline__ explicit TwoPowers(int k)
        : first(power_of_two<T>(clamp(k >> 1))), second(power_of_two<T>(clamp(k - (k >> 1)))) {}
    __device__ __forceinline__ T of(T x) const { return x * first * second; }

private:
    static __device__ __forceinline__ int clamp(int k) {
        constexpr int low = sizeof(T) == 4 ? -126 : -1022, high = sizeof(T) == 4 ? 127 : 1023;
        return k < low ? low : k > high ? high : k;
    }
};

// Taylor polynomials of exp - 1, the last of the list for every norm above (by squarings).
template <class T>
constexpr int kTopDegree = taylor::Degrees<T>::count - 1;
template <class T>
constexpr int kMostSquarings = sizeof(T) == 4 ? 120 : 1000;
template <class T, int Algebra, int I>
constexpr T kTheta = T(Algebra == 1 ? taylor::Degrees<T>::list[I].exponential : taylor::Degrees<T>::list[I].derivative);

// How many degrees of the list a norm is too large for: 0 .. count. Algebra 2: for the derivative too.
template <class T, int Algebra>
__device__ __forceinline__ int degrees_below(T norm) {
    int i = (norm > kTheta<T, Algebra, 0>)+(norm > kTheta<T, Algebra, 1>)+(norm > kTheta<T, Algebra, 2>)+(
        norm > kTheta<T, Algebra, 3>);
    if constexpr (taylor::Degrees<T>::count == 5) i += norm > kTheta<T, Algebra, 4>;
    return i;
}
// Squarings for a norm above the largest degree's, and how many of them the norms of A^2 and A^3, both scaled by these
// squarings, spare: all A^k, k > 1, are products of the two (Al-Mohy, Higham 2009).
template <class T, int Algebra>
__device__ __forceinline__ int squarings(T norm) {
    constexpr T top = kTheta<T, Algebra, kTopDegree<T>>;
    const int count = norm > top ? exponent_of(norm * (1 / top)) + 1 : 0;
    return count < kMostSquarings<T> ? count : kMostSquarings<T>;
}
template <class T, int Algebra>
__device__ __forceinline__ int spared_squarings(int count, T norm2, T norm3) {
    constexpr T top = kTheta<T, Algebra, kTopDegree<T>>;
    constexpr T smallest = sizeof(T) == 4 ? T(0x1p-120) : T(0x1p-1000);
    const int room2 = exponent_of(top * top / (norm2 > smallest ? norm2 : smallest)) >> 1;
    const int room3 = (exponent_of(top * top * top / (norm3 > smallest ? norm3 : smallest)) * 0x5556) >> 16;
    int spare = room2 < room3 ? room2 : room3;
    constexpr int most = kMostSquarings<T> / 3;  // of A^3 it is the third power of two that must be a number
    spare = spare < 0 ? 0 : spare > most ? most : spare;
    return spare < count ? spare : count;
}

// Magnus exponents, as csrc/cpu/wilson_magnus.inl: sqrt(3) / 12 and sqrt(15) / 3.
constexpr double kMagnus4 = 0.14433756729740644113;
constexpr double kMagnus6 = 1.2909944487358056284;

}  // namespace
}  // namespace nnsym::cuda
