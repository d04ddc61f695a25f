// SPDX-License-Identifier: MIT
// Vectors of a compute type from the types in which tensors are stored, and back with round-to-nearest-even.
#pragma once
#include "vec.h"

namespace {

struct Bfloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

// One vector of the compute type T.
template <class S, class T>
struct Convert;
template <class T>
struct Convert<T, T> {
    typedef typename Vec<T>::F Stored;
    static NNSYM_INLINE typename Vec<T>::F load(const T* p) { return ::load<typename Vec<T>::F>(p); }
    static NNSYM_INLINE Stored round(typename Vec<T>::F v) { return v; }
};
template <>
struct Convert<Bfloat16, float> {
    typedef Vec<float>::U16 Stored;
    static NNSYM_INLINE Vec<float>::F load(const Bfloat16* p) {
        return reinterpret_cast<Vec<float>::F>(__builtin_convertvector(::load<Stored>(p), U32) << 16);
    }
    static NNSYM_INLINE Stored round(Vec<float>::F v) { return __builtin_convertvector(nearest(v) >> 16, Stored); }
    // The upper half is the result. A NaN stays one: it comes from a multiplication, so it is quiet, and from bfloat16,
    // so its lower half is zero and the sum cannot carry into the sign.
    static NNSYM_INLINE U32 nearest(Vec<float>::F v) {
        U32 bits = reinterpret_cast<U32>(v);
        return bits + ((bits >> 16) & 1u) + 0x7fffu;
    }
};
template <>
struct Convert<Float16, float> {
    typedef Vec<float>::U16 Stored;
#if defined(__AVX512F__)
    static NNSYM_INLINE Vec<float>::F load(const Float16* p) {
        return reinterpret_cast<Vec<float>::F>(_mm512_cvtph_ps(::load<__m256i>(p)));
    }
    static NNSYM_INLINE Stored round(Vec<float>::F v) {
        return reinterpret_cast<Stored>(_mm512_cvtps_ph(reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#elif defined(__F16C__)
    static NNSYM_INLINE Vec<float>::F load(const Float16* p) {
        return reinterpret_cast<Vec<float>::F>(_mm256_cvtph_ps(::load<__m128i>(p)));
    }
    static NNSYM_INLINE Stored round(Vec<float>::F v) {
        return reinterpret_cast<Stored>(_mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
    }
#else
    static NNSYM_INLINE Vec<float>::F load(const Float16* p) {
        U32 h = __builtin_convertvector(::load<Stored>(p), U32);
        U32 sign = (h & 0x8000u) << 16, rest = (h & 0x7fffu) << 13;
        // The exponent is rebiased by a multiplication, which also normalises subnormals.
        Vec<float>::F x = reinterpret_cast<Vec<float>::F>(rest) * 0x1p112f;
        U32 special = rest | 0x7f800000u;
        U32 quiet = rest > splat<U32>(0x0f800000u) ? special | 0x00400000u : special;
        U32 bits = rest >= splat<U32>(0x0f800000u) ? quiet : reinterpret_cast<U32>(x);
        return reinterpret_cast<Vec<float>::F>(bits | sign);
    }
    static NNSYM_INLINE Stored round(Vec<float>::F v) {
        U32 bits = reinterpret_cast<U32>(v), sign = (bits >> 16) & 0x8000u, a = bits & 0x7fffffffu;
        // Normal: rebias and round. Subnormal: adding 1/2 leaves the rounded result in the low bits of the sum.
        U32 normal = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
        U32 tiny = reinterpret_cast<U32>(reinterpret_cast<Vec<float>::F>(a) + 0.5f) - 0x3f000000u;
        U32 out = a < splat<U32>(0x38800000u) ? tiny : normal;
        out = a >= splat<U32>(0x477ff000u) ? splat<U32>(0x7c00u) : out;
        out = a > splat<U32>(0x7f800000u) ? (a >> 13 & 0x3ffu) | splat<U32>(0x7e00u) : out;
        return __builtin_convertvector(out | sign, Stored);
    }
#endif
};
template <>
struct Convert<float, double> {
    typedef Vec<double>::Narrow Stored;
    static NNSYM_INLINE Vec<double>::F load(const float* p) {
        return __builtin_convertvector(::load<Stored>(p), Vec<double>::F);
    }
    static NNSYM_INLINE Stored round(Vec<double>::F v) { return __builtin_convertvector(v, Stored); }
};

// The first `count` numbers of a vector, zeros after them.
template <class S, class T>
NNSYM_INLINE typename Vec<T>::F load_part(const S* p, std::int64_t count) {
    constexpr int L = kLanes<T>;
    if (count == L) return Convert<S, T>::load(p);
    S whole[L] = {};
    std::memcpy(whole, p, std::size_t(count) * sizeof(S));
    return Convert<S, T>::load(whole);
}

// Two rounded columns in one: a in the lower halves, b in the upper.
template <class S>
NNSYM_INLINE U32 pair_columns(Vec<float>::F a, Vec<float>::F b) {
    if constexpr (std::is_same_v<S, Bfloat16>) {
        // As Convert::nearest, on both at once: the average's top bit is the carry of lower + 0x7fff + (upper & 1).
        const U32 x = reinterpret_cast<U32>(a), y = reinterpret_cast<U32>(b);
        const U32 upper = (x >> 16) | (y & 0xffff0000u), lower = (x & 0xffffu) | (y << 16);
        const U32 odd = (upper & 0x00010001u) | 0x7ffe7ffeu;
        return reinterpret_cast<U32>(reinterpret_cast<U16>(upper) +
                                     (average(reinterpret_cast<U16>(lower), reinterpret_cast<U16>(odd)) >> 15));
    } else
        return __builtin_convertvector(Convert<S, float>::round(a), U32) |
               (__builtin_convertvector(Convert<S, float>::round(b), U32) << 16);
}

}  // namespace
