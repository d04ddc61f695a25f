// SPDX-License-Identifier: MIT
// Vectors by the compiler's vector extensions, as wide as the ISA unit that includes this. Everything is in an
// anonymous namespace: nothing compiled for one ISA may be linked into another.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#define NNSYM_INLINE inline __attribute__((always_inline))

// The registers that hold a vector, for asm: the compiler can then neither fold a measured loop nor spill.
#if defined(__AVX512F__)
#define NNSYM_REGISTER "+v"
#elif defined(__x86_64__)
#define NNSYM_REGISTER "+x"
#else
#define NNSYM_REGISTER "+w"
#endif

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
struct Vec;
template <>
struct Vec<float> {
    typedef float F __attribute__((vector_size(kVectorBytes), aligned(kVectorBytes), may_alias));
    typedef std::int32_t I __attribute__((vector_size(kVectorBytes), may_alias));
    typedef std::int32_t I32 __attribute__((vector_size(kVectorBytes), may_alias));
    typedef std::uint32_t U32 __attribute__((vector_size(kVectorBytes), may_alias));
    typedef std::uint16_t U16 __attribute__((vector_size(kVectorBytes / 2), may_alias));
    typedef float Half __attribute__((vector_size(kVectorBytes / 2), may_alias));
};
template <>
struct Vec<double> {
    typedef double F __attribute__((vector_size(kVectorBytes), aligned(kVectorBytes), may_alias));
    typedef std::int64_t I __attribute__((vector_size(kVectorBytes), may_alias));
    typedef std::int32_t I32 __attribute__((vector_size(kVectorBytes / 2), may_alias));
    typedef std::uint32_t U32 __attribute__((vector_size(kVectorBytes / 2), may_alias));
    typedef float Narrow __attribute__((vector_size(kVectorBytes / 2), may_alias));
    typedef double Half __attribute__((vector_size(kVectorBytes / 2), may_alias));
};
typedef Vec<float>::I I32;
typedef Vec<float>::U32 U32;
typedef std::uint16_t U16 __attribute__((vector_size(kVectorBytes), may_alias));
typedef std::uint64_t U64 __attribute__((vector_size(kVectorBytes), may_alias));

template <class V, class P>
NNSYM_INLINE V load(const P* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class P>
NNSYM_INLINE void store(P* p, V v) {
    std::memcpy(p, &v, sizeof v);
}
template <class V, class E>
NNSYM_INLINE V splat(E x) {
    return x - V{};
}

// Sixteen-byte multiples past the cache. p is aligned to the vector.
template <class V>
NNSYM_INLINE void stream(void* p, V v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), __builtin_bit_cast(__m512i, v));
#endif
#if defined(__AVX__)
    if constexpr (sizeof(V) == 32) return _mm256_stream_si256(static_cast<__m256i*>(p), __builtin_bit_cast(__m256i, v));
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(V) == 16) return _mm_stream_si128(static_cast<__m128i*>(p), __builtin_bit_cast(__m128i, v));
    if constexpr (sizeof(V) == 8) return _mm_stream_si64(static_cast<long long*>(p), __builtin_bit_cast(long long, v));
#endif
    std::memcpy(p, &v, sizeof v);
}
inline void stream_fence() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

NNSYM_INLINE Vec<float>::F gather(const float* base, Vec<float>::I32 i) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<float>::F>(_mm512_i32gather_ps(reinterpret_cast<__m512i>(i), base, 4));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec<float>::F>(_mm256_i32gather_ps(base, reinterpret_cast<__m256i>(i), 4));
#else
    Vec<float>::F v;
    for (int l = 0; l < kLanes<float>; ++l) v[l] = base[i[l]];
    return v;
#endif
}
NNSYM_INLINE Vec<double>::F gather(const double* base, Vec<double>::I32 i) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<double>::F>(_mm512_i32gather_pd(reinterpret_cast<__m256i>(i), base, 8));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec<double>::F>(_mm256_i32gather_pd(base, reinterpret_cast<__m128i>(i), 8));
#else
    Vec<double>::F v;
    for (int l = 0; l < kLanes<double>; ++l) v[l] = base[i[l]];
    return v;
#endif
}

// Lane l is element i[l] of the two vectors a, b one after the other: where the ISA has an instruction for it.
#if defined(__AVX512F__)
constexpr bool kPermutes = true;
NNSYM_INLINE Vec<float>::F permute(Vec<float>::F a, Vec<float>::F b, Vec<float>::I32 i) {
    return reinterpret_cast<Vec<float>::F>(
        _mm512_permutex2var_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512i>(i), reinterpret_cast<__m512>(b)));
}
NNSYM_INLINE Vec<double>::F permute(Vec<double>::F a, Vec<double>::F b, Vec<double>::I32 i) {
    return reinterpret_cast<Vec<double>::F>(_mm512_permutex2var_pd(reinterpret_cast<__m512d>(a),
                                                                   _mm512_cvtepi32_epi64(reinterpret_cast<__m256i>(i)),
                                                                   reinterpret_cast<__m512d>(b)));
}
#else
constexpr bool kPermutes = false;
#endif

NNSYM_INLINE Vec<float>::F square_root(Vec<float>::F x) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<float>::F>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec<float>::F>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#elif defined(__SSE2__)
    return reinterpret_cast<Vec<float>::F>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#else
    for (int l = 0; l < kLanes<float>; ++l) x[l] = __builtin_sqrtf(x[l]);
    return x;
#endif
}
NNSYM_INLINE Vec<double>::F square_root(Vec<double>::F x) {
#if defined(__AVX512F__)
    return reinterpret_cast<Vec<double>::F>(_mm512_sqrt_pd(reinterpret_cast<__m512d>(x)));
#elif defined(__AVX2__)
    return reinterpret_cast<Vec<double>::F>(_mm256_sqrt_pd(reinterpret_cast<__m256d>(x)));
#elif defined(__SSE2__)
    return reinterpret_cast<Vec<double>::F>(_mm_sqrt_pd(reinterpret_cast<__m128d>(x)));
#else
    for (int l = 0; l < kLanes<double>; ++l) x[l] = __builtin_sqrt(x[l]);
    return x;
#endif
}

// 64-bit products of the even 32-bit lanes.
NNSYM_INLINE U64 multiply_even(U32 a, U32 b) {
#if defined(__AVX512F__)
    return reinterpret_cast<U64>(_mm512_mul_epu32(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<U64>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
    return reinterpret_cast<U64>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    return (reinterpret_cast<U64>(a) & 0xffffffffu) * (reinterpret_cast<U64>(b) & 0xffffffffu);
#endif
}

// (a + b + 1) / 2 without overflow.
NNSYM_INLINE U16 average(U16 a, U16 b) {
#if defined(__AVX512BW__)
    return reinterpret_cast<U16>(_mm512_avg_epu16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
    return reinterpret_cast<U16>(_mm256_avg_epu16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
    return reinterpret_cast<U16>(_mm_avg_epu16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
    return (a | b) - ((a ^ b) >> 1);
#endif
}

// __builtin_shufflevector(a, b, pattern(0), pattern(1), ...) for a constexpr pattern.
template <int... I>
struct Ints {};
template <int N, int... I>
struct Iota : Iota<N - 1, N - 1, I...> {};
template <int... I>
struct Iota<0, I...> {
    typedef Ints<I...> type;
};
template <class Pattern, class V, int... I>
NNSYM_INLINE V shuffle_by(V a, V b, Ints<I...>) {
    return __builtin_shufflevector(a, b, Pattern::at(I)...);
}
template <class Pattern, class V>
NNSYM_INLINE V shuffle(V a, V b) {
    return shuffle_by<Pattern>(a, b, typename Iota<int(sizeof(V) / sizeof(a[0]))>::type());
}

// 0, 1, 2, ...
template <class V, int... I>
NNSYM_INLINE V iota_of(Ints<I...>) {
    return V{I...};
}
template <class V>
NNSYM_INLINE V iota() {
    return iota_of<V>(typename Iota<int(sizeof(V) / sizeof(V{}[0]))>::type());
}

// Two vectors as one of twice their length.
template <class V, int... I>
NNSYM_INLINE auto join(V low, V high, Ints<I...>) {
    return __builtin_shufflevector(low, high, I...);
}

// Step of an L x L transpose: swap the off-diagonal quarters of blocks of 2H.
template <int L, int H, bool High>
struct Butterfly {
    static constexpr int at(int l) { return High ? ((l & H) ? L + l : l + H) : ((l & H) ? L + l - H : l); }
};
template <int L, int H, int R, class V>
NNSYM_INLINE void transpose_step(V* v) {
    for (int i = 0; i < R; ++i)
        if (!(i & H)) {
            V a = v[i], b = v[i + H];
            v[i] = shuffle<Butterfly<L, H, false>>(a, b);
            v[i + H] = shuffle<Butterfly<L, H, true>>(a, b);
        }
}
// Of R vectors: every group of R lanes is transposed by itself.
template <class T, int R = kLanes<T>>
NNSYM_INLINE void transpose(typename Vec<T>::F* v) {
    constexpr int L = kLanes<T>;
    if constexpr (R >= 16) transpose_step<L, 8, R>(v);
    if constexpr (R >= 8) transpose_step<L, 4, R>(v);
    if constexpr (R >= 4) transpose_step<L, 2, R>(v);
    if constexpr (R >= 2) transpose_step<L, 1, R>(v);
}

// L numbers from each of L places, transposed: lane l of out[e] is element e of place l. Quarters of vectors come from
// memory in their places, which leaves the two inner steps of the transpose; all of a place at once, as the places
// often share a set of the cache.
template <class T>
NNSYM_INLINE void load_transposed(T* const* base, std::int64_t at, typename Vec<T>::F* out) {
    typedef typename Vec<T>::F V;
    constexpr int L = kLanes<T>;
    V v[L];
#if defined(__AVX512F__)
    constexpr int Q = 16 / int(sizeof(T));  // numbers of a quarter
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            auto quarter = [&](int b) {
                return _mm_loadu_ps(reinterpret_cast<const float*>(base[i + b * Q] + at + j * Q));
            };
            __m512 x = _mm512_castps128_ps512(quarter(0));
            x = _mm512_insertf32x4(x, quarter(1), 1);
            x = _mm512_insertf32x4(x, quarter(2), 2);
            v[j * Q + i] = reinterpret_cast<V>(_mm512_insertf32x4(x, quarter(3), 3));
        }
    if constexpr (Q == 4) transpose_step<L, 2, L>(v);
    transpose_step<L, 1, L>(v);
#else
    for (int l = 0; l < L; ++l) v[l] = load<V>(base[l] + at);
    transpose<T>(v);
#endif
    for (int l = 0; l < L; ++l) out[l] = v[l];
}
// The way back. A null place is left out.
template <class T>
NNSYM_INLINE void store_transposed(T* const* base, std::int64_t at, const typename Vec<T>::F* in) {
    typedef typename Vec<T>::F V;
    constexpr int L = kLanes<T>;
    V v[L];
    for (int l = 0; l < L; ++l) v[l] = in[l];
    transpose<T>(v);
    for (int l = 0; l < L; ++l)
        if (base[l]) store(base[l] + at, v[l]);
}

// A vector from its halves, and its halves to two places.
template <bool High, class V, int... I>
NNSYM_INLINE auto half(V v, Ints<I...>) {
    return __builtin_shufflevector(v, v, (I + (High ? int(sizeof...(I)) : 0))...);
}
template <class T>
NNSYM_INLINE typename Vec<T>::F load_halves(const T* low, const T* high) {
    typedef typename Vec<T>::Half H;
    return join(load<H>(low), load<H>(high), typename Iota<kLanes<T>>::type());
}
template <class T>
NNSYM_INLINE typename Vec<T>::F splat_halves(T low, T high) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        return reinterpret_cast<typename Vec<T>::F>(
            _mm512_mask_broadcastss_ps(_mm512_set1_ps(low), 0xff00, _mm_set_ss(high)));
#endif
    typedef typename Vec<T>::Half H;
    return join(splat<H>(low), splat<H>(high), typename Iota<kLanes<T>>::type());
}
template <class T>
NNSYM_INLINE void store_halves(T* low, T* high, typename Vec<T>::F v) {
    typedef typename Iota<kLanes<T> / 2>::type Lanes;
    store(low, half<false>(v, Lanes()));
    store(high, half<true>(v, Lanes()));
}

// Four planes to one run: out[4 i + w] = v_w[i].
template <int L, bool High>
struct Zip {
    static constexpr int at(int l) { return (l & 1 ? L : 0) + l / 2 + (High ? L / 2 : 0); }
};
template <class V, class P>
NNSYM_INLINE void store_interleaved(P* out, V a, V b, V c, V d) {
    constexpr int L = int(sizeof(V) / sizeof(a[0]));
    V ac0 = shuffle<Zip<L, false>>(a, c), ac1 = shuffle<Zip<L, true>>(a, c);
    V bd0 = shuffle<Zip<L, false>>(b, d), bd1 = shuffle<Zip<L, true>>(b, d);
    store(out, shuffle<Zip<L, false>>(ac0, bd0));
    store(out + L, shuffle<Zip<L, true>>(ac0, bd0));
    store(out + 2 * L, shuffle<Zip<L, false>>(ac1, bd1));
    store(out + 3 * L, shuffle<Zip<L, true>>(ac1, bd1));
}

template <int L, bool Odd>
struct Unzip {
    static constexpr int at(int l) { return 2 * l + Odd; }
};

template <class V>
NNSYM_INLINE V maximum(V a, V b) {
    return a > b ? a : b;
}
NNSYM_INLINE Vec<float>::F magnitude(Vec<float>::F x) {
    return reinterpret_cast<Vec<float>::F>(reinterpret_cast<Vec<float>::I>(x) & 0x7fffffff);
}
NNSYM_INLINE Vec<double>::F magnitude(Vec<double>::F x) {
    return reinterpret_cast<Vec<double>::F>(reinterpret_cast<Vec<double>::I>(x) & 0x7fffffffffffffff);
}

// Whether any lane of a mask is set.
template <class M>
NNSYM_INLINE bool any(M mask) {
#if defined(__AVX512F__)
    return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) != 0;
#elif defined(__AVX__)
    return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_ps(reinterpret_cast<__m128>(mask)) != 0;
#else
    U64 words = reinterpret_cast<U64>(mask);
    return (words[0] | words[1]) != 0;
#endif
}

// floor(log2 x) of positive normal numbers; 2^k for k in the range of normal numbers.
NNSYM_INLINE Vec<float>::I exponent(Vec<float>::F x) {
    return (reinterpret_cast<Vec<float>::I>(x) >> 23) - 127;
}
NNSYM_INLINE Vec<double>::I exponent(Vec<double>::F x) {
    return (reinterpret_cast<Vec<double>::I>(x) >> 52) - 1023;
}
NNSYM_INLINE Vec<float>::F power_of_two(Vec<float>::I k) {
    return reinterpret_cast<Vec<float>::F>((k + 127) << 23);
}
NNSYM_INLINE Vec<double>::F power_of_two(Vec<double>::I k) {
    return reinterpret_cast<Vec<double>::F>((k + 1023) << 52);
}

}  // namespace
