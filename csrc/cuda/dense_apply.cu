// SPDX-License-Identifier: MIT
// Which kernel serves a pass, and the passes without a matrix.
#include "dense.h"
#include "dense_apply.cuh"

namespace nnsym::cuda {
namespace {

using dense::Pass;
using tiles::Cut;

constexpr int kMoveThreads = 256;
constexpr std::int64_t kStreamFrom = 16 << 20;  // bytes of a result that goes past the caches

// Up to four neighbours of storage S, and NaN where the block is not known.
template <class S, class T>
__device__ __forceinline__ void take(const char* source, std::int64_t at, int count, bool quads, T* values) {
    const S* const p = reinterpret_cast<const S*>(source) + at;
    if (quads) {
        const tiles::Quad<S> quad = tiles::load_quad(p);
#pragma unroll
        for (int e = 0; e < 4; ++e) values[e] = tiles::extract<T>(quad, e);
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) values[e] = e < count ? T(widen(p[e])) : T(0);
}

// out[.., (b, i), x] = source[.., (order_b, i), x] + shift_(b, i): `width` neighbours of a result a thread, 4 or 1.
template <class T>
__global__ void __launch_bounds__(kMoveThreads)
    move(const Pass pass, const Cut cut, const int width, const std::int64_t per_sample, const unsigned blocks) {
    const std::int64_t k = cut.first + blockIdx.x / blocks;
    std::int64_t index = std::int64_t(blockIdx.x % blocks) * kMoveThreads + threadIdx.x;
    if (index >= per_sample) return;
    index *= width;
    const std::int64_t units = std::int64_t(pass.blocks) * pass.size;
    std::int64_t outer, x;
    int unit;
    if (((units * pass.inner | index) >> 32) == 0) {
        const unsigned number = unsigned(index), rest = number / unsigned(pass.inner);
        x = number % unsigned(pass.inner), unit = int(rest % unsigned(units)), outer = rest / unsigned(units);
    } else {
        const std::int64_t rest = index / pass.inner;
        x = index % pass.inner, unit = int(rest % units), outer = rest / units;
    }
    const int b = unit / pass.size, i = unit - b * pass.size;
    const int origin = pass.order ? pass.order[k * pass.blocks + b] : b;
    const bool known = unsigned(origin) < unsigned(pass.blocks);
    const std::int64_t base = pass.offset + outer * pass.outer_stride + x;
    const std::int64_t from = base + (std::int64_t(known ? origin : 0) * pass.size + i) * pass.axis_stride;
    const std::int64_t to = base + std::int64_t(unit) * pass.axis_stride;
    const char* const source = pass.source + k * pass.source_stride;
    T values[4];
    const bool quads = width == 4;
    if constexpr (sizeof(T) == 8) {
        if (pass.source_type == orbit::kFloat64)
            take<double>(source, from, 1, quads, values);
        else
            take<float>(source, from, 1, quads, values);
    } else {
        if (pass.source_type == orbit::kFloat32)
            take<float>(source, from, 1, quads, values);
        else if (pass.source_type == orbit::kBfloat16)
            take<Bfloat16>(source, from, 1, quads, values);
        else
            take<Float16>(source, from, 1, quads, values);
    }
    if (pass.shift) {
        const T* const shift = static_cast<const T*>(pass.shift) + k * units + unit;
        const int step = pass.inner == 1 ? 1 : 0;  // neighbours are units, or columns of one
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (e < width) values[e] += shift[e * step];
    }
    if (!known)
#pragma unroll
        for (int e = 0; e < 4; ++e) values[e] = T(__uint_as_float(0x7fc00000u));
    tiles::put(
        pass.out + k * pass.out_stride, pass.out_type, values, width, [&](int e) { return to + e; }, quads,
        cut.streaming);
}

template <class T>
void launch_move(const Pass& pass, Cut cut, std::int64_t samples, Stream stream) {
    const int width = cut.quads_in && cut.quads_out ? 4 : 1;
    const std::int64_t per_sample = cut.columns * pass.blocks * pass.size / width;
    const std::int64_t blocks = divide_up(per_sample, kMoveThreads);
    if (blocks > 0x7fffffff) throw std::invalid_argument("dense: a tensor of more numbers than one launch can take");
    const std::int64_t at_once = 0x7fffffff / blocks;
    for (cut.first = 0; cut.first < samples; cut.first += at_once) {
        const std::int64_t now = samples - cut.first < at_once ? samples - cut.first : at_once;
        launch("dense: blocks without a matrix", move<T>, dim3(unsigned(now * blocks)), dim3(kMoveThreads), 0, stream,
               pass, cut, width, per_sample, unsigned(blocks));
    }
}

bool is_aligned(const void* p, std::int64_t stride, std::int64_t bytes) {
    bytes = bytes < 16 ? bytes : 16;
    return (std::int64_t(reinterpret_cast<std::uintptr_t>(p)) | stride) % bytes == 0;
}

}  // namespace

void dense_apply(const Pass& pass, bool wide, std::int64_t samples, Stream stream) {
    if (samples == 0) return;
    const bool rows = tiles::by_rows(pass);
    const std::int64_t run = rows ? pass.size : pass.inner;  // contiguous numbers of a block
    const bool quads = run % 4 == 0 && pass.offset % 4 == 0 && (pass.outer == 1 || pass.outer_stride % 4 == 0) &&
                       (rows || pass.axis_stride % 4 == 0);
    const std::int64_t in = 4 * std::int64_t(orbit::itemsize(pass.source_type));
    const std::int64_t out = 4 * std::int64_t(orbit::itemsize(pass.out_type));
    Cut cut{};
    cut.columns = pass.outer * pass.inner;
    cut.quads_in = quads && is_aligned(pass.source, pass.source_stride, in);
    cut.quads_out = quads && is_aligned(pass.out, pass.out_stride, out);
    cut.quads_matrix = pass.size % 4 == 0 && is_aligned(pass.matrix, 0, 16);
    cut.streaming = pass.out_stride * samples >= kStreamFrom;
    if (!pass.matrix)
        return wide ? launch_move<double>(pass, cut, samples, stream) : launch_move<float>(pass, cut, samples, stream);
    if (wide) {
        if (pass.source_type == orbit::kFloat64) return tiles::multiply_double_double(pass, cut, samples, stream);
        if (pass.source_type == orbit::kFloat32) return tiles::multiply_double_float(pass, cut, samples, stream);
    } else {
        if (pass.source_type == orbit::kFloat32) return tiles::multiply_float_float(pass, cut, samples, stream);
        if (pass.source_type == orbit::kBfloat16) return tiles::multiply_float_bfloat16(pass, cut, samples, stream);
        if (pass.source_type == orbit::kFloat16) return tiles::multiply_float_float16(pass, cut, samples, stream);
    }
    throw std::invalid_argument("dense: the arithmetic does not take this storage");
}

}  // namespace nnsym::cuda
