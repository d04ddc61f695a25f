// SPDX-License-Identifier: MIT
#include "wilson.h"

namespace nnsym::cuda {

template <class T, int F, bool wide>
std::int64_t run_small_of(const wilson::Job&, void* space, Stream, bool ask);
template <>
std::int64_t run_small_of<float, 1, false>(const wilson::Job&, void*, Stream, bool);
template <>
std::int64_t run_small_of<float, 1, true>(const wilson::Job&, void*, Stream, bool);
template <>
std::int64_t run_small_of<double, 1, false>(const wilson::Job&, void*, Stream, bool);
template <>
std::int64_t run_small_of<double, 1, true>(const wilson::Job&, void*, Stream, bool);
template <>
std::int64_t run_small_of<float, 2, false>(const wilson::Job&, void*, Stream, bool);
template <>
std::int64_t run_small_of<double, 2, false>(const wilson::Job&, void*, Stream, bool);

namespace {

template <class T, int F>
std::int64_t by_size(const wilson::Job& job, void* space, Stream stream, bool ask) {
    if constexpr (F == 1)
        if (job.d > 4) return run_small_of<T, F, true>(job, space, stream, ask);
    return run_small_of<T, F, false>(job, space, stream, ask);
}
std::int64_t by_kind(const wilson::Job& job, void* space, Stream stream, bool ask) {
    switch (job.kind) {
        case wilson::kFloat32:
            return by_size<float, 1>(job, space, stream, ask);
        case wilson::kFloat64:
            return by_size<double, 1>(job, space, stream, ask);
        case wilson::kComplex64:
            return by_size<float, 2>(job, space, stream, ask);
        default:
            return by_size<double, 2>(job, space, stream, ask);
    }
}

}  // namespace

std::int64_t small_workspace(const wilson::Job& job) {
    return by_kind(job, nullptr, nullptr, true);
}
void run_small(const wilson::Job& job, void* workspace, Stream stream) {
    by_kind(job, workspace, stream, false);
}

}  // namespace nnsym::cuda
