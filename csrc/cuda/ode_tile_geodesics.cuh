// SPDX-License-Identifier: MIT
// Geodesics in tiles: of constant curvature, and of a metric that a net gives.
#pragma once
#include "ode_tile_field.cuh"

namespace nnsym::cuda::ode {

// --- geodesics of (2 / (1 + K x.x))^2 dx.dx: x' = v, v' = -(2 (phi.v) v - v.v phi), phi = -2 K x / (1 + K x.x)

template <class T>
__device__ void Tile<T>::eval_conformal(const T* from, T* out) {
    const int n = plan.d / 2;
    const T* v = from + n * kSamples;
    T dot[3] = {};  // x.x, x.v, v.v
    rows_of(n, [&](int, int at) {
        dot[0] += from[at] * from[at];
        dot[1] += from[at] * v[at];
        dot[2] += v[at] * v[at];
    });
    add_up(dot);
    const T q = T(-2 * plan.constant) / (dot[0] * T(plan.constant) + T(1));
    rows_of(n, [&](int, int at) {
        out[at] = v[at];
        out[n * kSamples + at] = q * (dot[2] * from[at] - dot[1] * T(2) * v[at]);
    });
    __syncthreads();
}
template <class T>
__device__ void Tile<T>::vjp_conformal(const T* from, const T* a, T* to) {
    const int n = plan.d / 2;
    const T *v = from + n * kSamples, *b = a + n * kSamples;
    T dot[3] = {}, more[2] = {};  // x.x, x.v, v.v; b.v, b.x
    rows_of(n, [&](int, int at) {
        dot[0] += from[at] * from[at];
        dot[1] += from[at] * v[at];
        dot[2] += v[at] * v[at];
        more[0] += b[at] * v[at];
        more[1] += b[at] * from[at];
    });
    add_up(dot);
    add_up(more);
    const T q = T(-2 * plan.constant) / (dot[0] * T(plan.constant) + T(1));
    const T slope = q * q * (dot[2] * more[1] - dot[1] * more[0] * T(2));
    rows_of(n, [&](int, int at) {
        const T xi = from[at], vi = v[at], bi = b[at];
        to[at] = slope * xi + q * (dot[2] * bi - more[0] * T(2) * vi);
        to[n * kSamples + at] = a[at] + q * (more[1] * T(2) * vi - more[0] * T(2) * xi - dot[1] * T(2) * bi);
    });
    __syncthreads();
}

// --- geodesics of a metric: see csrc/cpu/ode_metric.inl, whose formulas these are

// out_j = sum_i L_ij x_i. No barrier.
template <class T>
__device__ void Tile<T>::transposed_times(const T* lower, const T* from, T* out) const {
    const int n = plan.d / 2;
    rows_of(n, [&](int j, int at) {
        T sum = T(0);
        for (int i = j; i < n; ++i)
            sum += lower[(i * (i + 1) / 2 + j) * kSamples + lane()] * from[i * kSamples + lane()];
        out[at] = sum;
    });
}
// out_i += sign sum_j L_ij x_j. No barrier; every row belongs to one warp.
template <class T>
__device__ void Tile<T>::add_times(const T* lower, const T* from, T* out, T sign) const {
    rows_of(plan.d / 2, [&](int i, int at) {
        T sum = T(0);
        for (int j = 0; j <= i; ++j)
            sum += lower[(i * (i + 1) / 2 + j) * kSamples + lane()] * from[j * kSamples + lane()];
        out[at] += sign * sum;
    });
}
// Entry (i, j) += sign x_i y_j. No barrier; every i belongs to one warp.
template <class T>
__device__ void Tile<T>::add_outer(const T* from, const T* other, T* out, T sign) const {
    rows_of(plan.d / 2, [&](int i, int at) {
        const T factor = sign * from[at];
        for (int j = 0; j <= i; ++j)
            out[(i * (i + 1) / 2 + j) * kSamples + lane()] += factor * other[j * kSamples + lane()];
    });
}
// The factor of g = L L^T + epsilon 1, by the first warp, a sample to a lane.
template <class T>
__device__ void Tile<T>::factorise(const T* lower, T* f) const {
    const int n = plan.d / 2, l = lane();
    for (int i = 0, row = 0; warp() == 0 && i < n; row += ++i)
        for (int j = 0, other = 0; j <= i; other += ++j) {
            T g = T(i == j ? plan.constant : 0.0);
            for (int m = 0; m <= j; ++m) g += lower[(row + m) * kSamples + l] * lower[(other + m) * kSamples + l];
            for (int m = 0; m < j; ++m) g -= f[(i * n + m) * kSamples + l] * f[(j * n + m) * kSamples + l];
            f[(i * n + j) * kSamples + l] = i == j ? sqrt(g) : g / f[(j * n + j) * kSamples + l];
        }
}
template <class T>
__device__ void Tile<T>::solve(const T* f, T* b) const {
    const int n = plan.d / 2, l = lane();
    if (warp() == 0) {
        for (int i = 0; i < n; ++i) {
            T s = b[i * kSamples + l];
            for (int m = 0; m < i; ++m) s -= f[(i * n + m) * kSamples + l] * b[m * kSamples + l];
            b[i * kSamples + l] = s / f[(i * n + i) * kSamples + l];
        }
        for (int i = n - 1; i >= 0; --i) {
            T s = b[i * kSamples + l];
            for (int m = i + 1; m < n; ++m) s -= f[(m * n + i) * kSamples + l] * b[m * kSamples + l];
            b[i * kSamples + l] = s / f[(i * n + i) * kSamples + l];
        }
    }
    __syncthreads();
}
// The tangent of the layers along the strand's input; before the slopes, in the place of the deltas.
template <class T>
__device__ void Tile<T>::tangent(T* tape, int number) {
    T *s = strand(tape, number), *slopes = strand(tape, 0);
    const T* from = s;
    for (int l = 0; l < plan.layers; ++l) {
        const LayerView& v = view[l];
        T *plain = s + v.slope * kSamples, *kept = s + v.kept * kSamples, *slope = slopes + v.slope * kSamples;
        product(packed + v.forward, v.in, v.out, from, plain);
        rows_of(v.out, [&](int, int at) { kept[at] = plain[at] * slope[at]; });
        __syncthreads();
        from = kept;
    }
}
template <class T>
__device__ void Tile<T>::eval_metric(T* from, T* out, T* tape) {
    const int n = plan.d / 2, entries = n * (n + 1) / 2, last = view[plan.layers - 1].kept * kSamples;
    if (from != tape) copy(from, tape, 2 * n);
    copy(from, strand(tape, 0), n);
    copy(from + n * kSamples, strand(tape, 1), n);
    __syncthreads();
    T* s = strand(tape, 0);
    const T* in = s;
    for (int l = 0; l < plan.layers; ++l) {
        T* kept = s + view[l].kept * kSamples;
        layer_product(view[l], in, kept, s, tape + view[l].argument * kSamples);
        in = kept;
    }
    tangent(tape, 1);
    const T *v = tape + n * kSamples, *lower = s + last, *along = strand(tape, 1) + last;
    T *p = vectors, *q = p + n * kSamples, *a = tape + layout.acceleration * kSamples;
    transposed_times(lower, v, p);
    transposed_times(along, v, q);
    rows_of(n, [&](int, int at) { a[at] = T(0); });
    rows_of(entries, [&](int, int at) { left[at] = T(0); });
    __syncthreads();
    add_times(along, p, a, T(-1));
    add_times(lower, q, a, T(-1));
    add_outer(v, p, left, T(1));  // half the gradient of v.g v in L
    factorise(lower, tape + layout.factor * kSamples);
    __syncthreads();
    T *g = left, *into = right;
    for (int l = plan.layers - 1; l >= 0; --l) {
        const LayerView& layer = view[l];
        const T* slope = s + layer.slope * kSamples;
        rows_of(layer.out, [&](int, int at) { g[at] *= slope[at]; });
        __syncthreads();
        product(packed + layer.backward, layer.out, layer.in, g, into);
        T* swap = g;
        g = into, into = swap;
    }
    rows_of(n, [&](int, int at) { a[at] += g[at]; });
    __syncthreads();
    solve(tape + layout.factor * kSamples, a);
    rows_of(n, [&](int, int at) { out[at] = v[at], out[n * kSamples + at] = a[at]; });
    __syncthreads();
}
template <class T>
__device__ void Tile<T>::vjp_metric(T* tape, const T* cotangent, T* to) {
    const int n = plan.d / 2, size = n * kSamples, entries = n * (n + 1) / 2;
    const int last = view[plan.layers - 1].kept * kSamples;
    const std::int64_t width = std::int64_t(layout.widest) * kSamples;
    T* b = strand(tape, 2);
    copy(cotangent + size, b, n);
    __syncthreads();
    solve(tape + layout.factor * kSamples, b);
    tangent(tape, 2);
    const T *v = tape + size, *a = tape + layout.acceleration * kSamples;
    const T *lower = strand(tape, 0) + last, *along_v = strand(tape, 1) + last, *along_b = strand(tape, 2) + last;
    T *p = vectors, *pv = p + size, *pb = pv + size, *q = pb + size, *qv = q + size, *pa = qv + size;
    transposed_times(lower, v, p);
    transposed_times(along_v, v, pv);
    transposed_times(along_b, v, pb);
    transposed_times(lower, b, q);
    transposed_times(along_v, b, qv);
    transposed_times(lower, a, pa);
    T* bar = cotangents;
    T* other = cotangents + 3 * width;
    for (int m = 0; m < 3; ++m) rows_of(entries, [&](int, int at) { bar[m * width + at] = T(0); });
    rows_of(n, [&](int, int at) { to[size + at] = cotangent[at]; });
    __syncthreads();
    add_outer(v, qv, bar, T(-1));
    add_outer(b, pv, bar, T(-1));
    add_outer(v, pb, bar, T(1));
    add_outer(b, pa, bar, T(-1));
    add_outer(a, q, bar, T(-1));
    add_outer(b, p, bar + width, T(-1));
    add_outer(v, q, bar + width, T(-1));
    add_outer(v, p, bar + 2 * width, T(1));
    add_times(lower, qv, to + size, T(-1));
    add_times(along_v, q, to + size, T(-1));
    add_times(along_b, p, to + size, T(1));
    add_times(lower, pb, to + size, T(1));
    __syncthreads();
    T *s0 = strand(tape, 0), *s1 = strand(tape, 1), *s2 = strand(tape, 2);
    for (int l = plan.layers - 1; l >= 0; --l) {
        const LayerView& layer = view[l];
        const int at_slope = layer.slope * kSamples, code = layer.activation;
        const T value = T(layer.value), *z = tape + layer.argument * kSamples;
        T *d0 = s0 + at_slope, *d1 = s1 + at_slope, *d2 = s2 + at_slope;
        rows_of(layer.out, [&](int, int at) {
            const T slope = d0[at], c = activation::curvature(code, z[at], value);
            const T bar1 = bar[width + at], bar2 = bar[2 * width + at];
            d0[at] = slope * bar[at] + c * (d1[at] * bar1 + d2[at] * bar2);
            d1[at] = slope * bar1;
            d2[at] = slope * bar2;
        });
        __syncthreads();
        for (int m = 0; m < 3; ++m)
            product(packed + layer.backward, layer.out, layer.in, m == 0 ? d0 : m == 1 ? d1 : d2, other + m * width);
        T* swap = bar;
        bar = other, other = swap;
    }
    rows_of(n, [&](int, int at) {
        to[at] = bar[at];
        to[size + at] += bar[width + at];
    });
    __syncthreads();
}

}  // namespace nnsym::cuda::ode
