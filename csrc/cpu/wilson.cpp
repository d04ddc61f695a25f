// SPDX-License-Identifier: MIT
// The Wilson family of one ISA unit: exports one table and nothing else.
// clang-format off: in the order in which they build on each other
#include "../core/wilson.h"
#include "../math/expm.h"
#include "../simd/math.h"
#include "../simd/storage.h"
// clang-format on

#define NNSYM_JOIN(a, b) a##b
#define NNSYM_TABLE(isa) NNSYM_JOIN(wilson_, isa)

namespace {

// |a|, or for complex numbers a bound that is at most 8 % above it.
template <class V>
NNSYM_INLINE V modulus_of(V re, V im) {
    const V x = magnitude(re), y = magnitude(im);
    const V low = x > y ? y : x;
    typedef std::remove_reference_t<decltype(V{}[0])> T;
    return maximum(x, y) + low * splat<V>(T(0.41421357));
}
template <int Field, class V>
NNSYM_INLINE V modulus(const V* a, std::int64_t plane, std::int64_t i) {
    if constexpr (Field == 1)
        return magnitude(a[i]);
    else
        return modulus_of(a[i], a[plane + i]);
}

}  // namespace

// clang-format off
#include "wilson_lanes.inl"
#include "wilson_tiles.inl"
#include "wilson_exp.inl"
#include "wilson_magnus.inl"
#include "wilson_line.inl"
// clang-format on

namespace {

using nnsym::wilson::Job;

// Dimensions with kernels of their own, where loops of known length pay (for complex numbers up to 4); 0: any.
template <class T, int Field, class Call>
void by_dimension(const Job& job, Call call) {
    switch (job.d) {
        case 2:
            return call(static_cast<Line<Lanes<T, Field, 2>>*>(nullptr));
        case 3:
            return call(static_cast<Line<Lanes<T, Field, 3>>*>(nullptr));
        case 4:
            return call(static_cast<Line<Lanes<T, Field, 4>>*>(nullptr));
        case 8:
            if constexpr (Field == 1) return call(static_cast<Line<Lanes<T, Field, 8>>*>(nullptr));
            [[fallthrough]];
        default:
            return call(static_cast<Line<Lanes<T, Field, 0>>*>(nullptr));
    }
}

template <class T, int Field>
void run_lanes(const Job& job, std::int64_t first, int count, void* scratch) {
    by_dimension<T, Field>(
        job, [&](auto* line) { std::remove_pointer_t<decltype(line)>(job, first, count, scratch).run(); });
}
template <class T, int Field>
std::int64_t lanes_scratch(const Job& job) {
    return Line<Lanes<T, Field, 0>>::scratch_vectors(job) * kVectorBytes;
}
template <class T, int Field>
void run_tiles(const Job& job, std::int64_t first, int count, void* scratch) {
    Line<Tiles<T, Field>>(job, first, count, scratch).run();
}
template <class T, int Field>
std::int64_t tiles_scratch(const Job& job) {
    return Line<Tiles<T, Field>>::scratch_vectors(job) * kVectorBytes;
}

template <class T>
double multiply_add(std::int64_t count) {
    typedef typename Vec<T>::F V;
    constexpr int kChains = kVectorBytes == 64 ? 16 : 12;
    V sum[kChains];
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sum[i] = splat<V>(T(i));
    const V x = splat<V>(T(0.5)), y = splat<V>(T(1));
    for (std::int64_t n = 0; n < count; n += kChains) {
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) {
            V next = sum[i] * x + y;
            __asm__ volatile("" : NNSYM_REGISTER(next));
            sum[i] = next;
        }
    }
    V all = {};
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) all += sum[i];
    return double(all[0]);
}

}  // namespace

namespace nnsym::wilson {
extern const Kernels NNSYM_TABLE(NNSYM_ISA);
const Kernels NNSYM_TABLE(NNSYM_ISA) = {
    {{run_lanes<float, 1>, run_lanes<double, 1>, run_lanes<float, 2>, run_lanes<double, 2>},
     {run_tiles<float, 1>, run_tiles<double, 1>, run_tiles<float, 2>, run_tiles<double, 2>}},
    {{lanes_scratch<float, 1>, lanes_scratch<double, 1>, lanes_scratch<float, 2>, lanes_scratch<double, 2>},
     {tiles_scratch<float, 1>, tiles_scratch<double, 1>, tiles_scratch<float, 2>, tiles_scratch<double, 2>}},
    {kLanes<float>, kLanes<double>},
    {multiply_add<float>, multiply_add<double>},
};
}  // namespace nnsym::wilson
