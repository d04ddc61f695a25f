// SPDX-License-Identifier: MIT
// The reverse pass of a field: a thread has its sample's gradient, and the 32 samples of a warp sum their gradients of
// the parameters together, a hidden unit to a lane. Sums of a warp lie in shared memory and are added to its own place
// in the workspace; a second kernel adds those of all warps in a fixed order.
#pragma once
#include "ode_small.cuh"

namespace nnsym::cuda::ode {

constexpr int kPullThreads = 64, kPullWarps = kPullThreads / kWarp;
constexpr int kTileStride = kWarp + 1;

// What a warp sums in. A row of `samples`: state, cotangent, time (linear: theta, piece); as a unit in its sums.
// Places as those of Small.
struct Sums {
    std::int32_t delta, result, samples;  // (32, 33), (32, 33), (32, kUnit)
    std::int32_t sum;                     // (kUnit, units), then (D) of the last bias; linear: as the parameters
    std::int32_t count;
};
// Numbers of a warp's sums, and of all that a warp has in shared memory.
template <class T, int D>
__host__ __device__ inline std::int64_t sum_numbers(int kind, std::int64_t units, std::int64_t parameters) {
    return kind == core::kMlp ? units * kUnit<T, D> + D : kind == core::kLinear ? parameters : 0;
}
template <class T, int D>
__host__ __device__ inline std::int64_t warp_numbers(int kind, std::int64_t units, std::int64_t parameters) {
    const std::int64_t n = (kind == core::kMlp ? 2 * kWarp * kTileStride : 0) + kWarp * kUnit<T, D> +
                           sum_numbers<T, D>(kind, units, parameters);
    return (n + 3) / 4 * 4;
}
template <class T, int D>
std::int64_t pull_bytes(const Plan& p, int stages, bool sums) {
    const SmallSizes sizes = plan_sizes<T, D>(p, stages);
    return sizes.bytes +
           (sums ? kPullWarps * warp_numbers<T, D>(p.kind, sizes.units, p.parameter_count) * sizeof(T) : 0);
}
// The warp's part of shared memory, behind the field's.
template <class T, int D>
__device__ __forceinline__ Sums take_sums(const Plan& p, std::int64_t offset) {
    Sums sums{};
    if (!p.gparameters) return sums;
    const int units = small_header<T>().units;
    std::int32_t at = std::int32_t((offset - kHeader<T>) / std::int64_t(sizeof(T)) +
                                   (threadIdx.x / kWarp) * warp_numbers<T, D>(p.kind, units, p.parameter_count));
    sums.samples = at;
    at += kWarp * kUnit<T, D>;
    if (p.kind == core::kMlp) sums.delta = at, sums.result = at + kWarp * kTileStride, at += 2 * kWarp * kTileStride;
    sums.sum = at;
    sums.count = std::int32_t(sum_numbers<T, D>(p.kind, units, p.parameter_count));
    for (std::int32_t i = threadIdx.x % kWarp; i < sums.count; i += kWarp) small_at<T>(sums.sum)[i] = T(0);
    __syncwarp();
    return sums;
}
// Adds the warp's sums to its place in the workspace, and clears them. All lanes.
template <class T>
__device__ __forceinline__ void settle(const Sums& sums, double* totals) {
    if (!sums.count) return;
    __syncwarp();
    T* sum = small_at<T>(sums.sum);
    for (std::int32_t i = threadIdx.x % kWarp; i < sums.count; i += kWarp) totals[i] += double(sum[i]), sum[i] = T(0);
    __syncwarp();
}

template <class T, int D>
struct Pulled {
    Numbers<T, D> gy;
    T gt;
};

// Gradients of <a, f(t, y)>; to be called by all lanes of a warp, with a = 0 and y = 0 where there is nothing to pull.
template <class T, int D>
__device__ __attribute__((noinline)) Pulled<T, D> pull(const Sums sums, double time, Numbers<T, D> y, Numbers<T, D> a) {
    const Small<T>* s = &small_header<T>();
    Pulled<T, D> out;
    const int lane = int(threadIdx.x % kWarp);
    out.gt = T(0);
#pragma unroll
    for (int i = 0; i < D; ++i) out.gy.v[i] = T(0);
    const bool sum = sums.count != 0;
    if (s->kind == core::kMlp) {
        const T t = s->timed ? T(time) : T(0), value = s->value;
        const int units = s->units, code = s->activation;
        if (sum) {
            T* row = small_at<T>(sums.samples) + lane * kUnit<T, D>;
#pragma unroll
            for (int i = 0; i < D; ++i) row[i] = y.v[i], row[D + i] = a.v[i];
            row[2 * D] = T(1), row[2 * D + 1] = t;
        }
        for (int base = 0; base < units; base += kWarp) {
            const int count = units - base < kWarp ? units - base : kWarp;
            for (int u = 0; u < count; u += kUnitsAtOnce) {
                T z[kUnitsAtOnce], slope[kUnitsAtOnce];
                const T* unit = small_at<T>(s->unit) + (base + u) * kUnit<T, D>;
#pragma unroll
                for (int q = 0; q < kUnitsAtOnce; ++q) {
                    const Unit<T, D> w(unit + q * kUnit<T, D>);
                    T v = activation::multiply_add(w.w[2 * D + 1], t, w.w[2 * D]);
#pragma unroll
                    for (int i = 0; i < D; ++i) v = activation::multiply_add(w.w[i], y.v[i], v);
                    z[q] = v;
                }
                activation::by_code<T>(code, [&](auto f) {
#pragma unroll
                    for (int q = 0; q < kUnitsAtOnce; ++q) z[q] = f.value_and_slope(z[q], value, slope[q]);
                });
#pragma unroll
                for (int q = 0; q < kUnitsAtOnce; ++q) {
                    const Unit<T, D> w(unit + q * kUnit<T, D>);
                    T g = T(0);
#pragma unroll
                    for (int i = 0; i < D; ++i) g = activation::multiply_add(w.w[D + i], a.v[i], g);
                    const T delta = g * slope[q];
#pragma unroll
                    for (int i = 0; i < D; ++i) out.gy.v[i] = activation::multiply_add(w.w[i], delta, out.gy.v[i]);
                    out.gt = activation::multiply_add(w.w[2 * D + 1], delta, out.gt);
                    if (sum) {
                        small_at<T>(sums.delta)[(u + q) * kTileStride + lane] = delta;
                        small_at<T>(sums.result)[(u + q) * kTileStride + lane] = z[q];
                    }
                }
            }
            if (!sum) continue;
            __syncwarp();
            if (lane < count) {
                T of[2 * D + 2];
#pragma unroll
                for (int i = 0; i < 2 * D + 2; ++i) of[i] = T(0);
                for (int n = 0; n < kWarp; ++n) {
                    const T delta = small_at<T>(sums.delta)[lane * kTileStride + n],
                            result = small_at<T>(sums.result)[lane * kTileStride + n];
                    const Unit<T, D> sample(small_at<T>(sums.samples) + n * kUnit<T, D>);
#pragma unroll
                    for (int i = 0; i < 2 * D + 2; ++i)
                        of[i] = activation::multiply_add(i >= D && i < 2 * D ? result : delta, sample.w[i], of[i]);
                }
#pragma unroll
                for (int i = 0; i < 2 * D + 2; ++i) small_at<T>(sums.sum)[i * units + base + lane] += of[i];
            }
            __syncwarp();
        }
        if (sum) {
            if (lane < D) {
                T of = T(0);
                for (int n = 0; n < kWarp; ++n) of += small_at<T>(sums.samples)[n * kUnit<T, D> + D + lane];
                small_at<T>(sums.sum)[units * kUnit<T, D> + lane] += of;
            }
            __syncwarp();
        }
    } else if (s->kind == core::kLinear) {
        const int d = s->d, piece = s->pieces > 1 ? piece_of<T>(time) : 0, block = d * (d + 1);
        const T theta = s->degree ? T(time - s->knots[piece]) : T(0);
        const T* matrix = small_at<T>(s->matrix) + piece * (s->degree + 1) * block;
        T power = T(1), slope = T(0);  // theta^n, n theta^(n - 1)
        for (int n = 0; n <= s->degree; ++n, matrix += block) {
#pragma unroll
            for (int i = 0; i < D; ++i) {
                if (i >= d) continue;
                const T* row = matrix + i * (d + 1);
                T product = row[d];
#pragma unroll
                for (int j = 0; j < D; ++j) {
                    if (j >= d) continue;
                    product = activation::multiply_add(row[j], y.v[j], product);
                    out.gy.v[j] = activation::multiply_add(row[j] * power, a.v[i], out.gy.v[j]);
                }
                out.gt = activation::multiply_add(slope * a.v[i], product, out.gt);
            }
            slope = slope * theta + power, power *= theta;
        }
        if (sum) {
            T* row = small_at<T>(sums.samples) + lane * kUnit<T, D>;
#pragma unroll
            for (int i = 0; i < D; ++i) row[i] = y.v[i], row[D + i] = a.v[i];
            row[2 * D] = theta, row[2 * D + 1] = T(piece);
            __syncwarp();
            for (int e = lane; e < (s->degree + 1) * block; e += kWarp) {
                const int n = e / block, i = e % block / (d + 1), j = e % (d + 1);
                for (int m = 0; m < kWarp; ++m) {
                    const T* sample = small_at<T>(sums.samples) + m * kUnit<T, D>;
                    T product = sample[D + i] * (j < d ? sample[j] : T(1));
                    for (int q = 0; q < n; ++q) product *= sample[2 * D];
                    small_at<T>(sums.sum)[int(sample[2 * D + 1]) * (s->degree + 1) * block + e] += product;
                }
            }
            __syncwarp();
        }
    } else {
        constexpr int half = D / 2;
        const T *x = y.v, *v = x + half, *b = a.v + half;
        T xx = T(0), xv = T(0), vv = T(0), bv = T(0), bx = T(0);
#pragma unroll
        for (int i = 0; i < half; ++i)
            xx += x[i] * x[i], xv += x[i] * v[i], vv += v[i] * v[i], bv += b[i] * v[i], bx += b[i] * x[i];
        const T q = T(-2) * s->constant / (xx * s->constant + T(1)), slope = q * q * (vv * bx - xv * bv * T(2));
#pragma unroll
        for (int i = 0; i < half; ++i) {
            out.gy.v[i] = slope * x[i] + q * (vv * b[i] - bv * T(2) * v[i]);
            out.gy.v[half + i] = a.v[i] + q * (bx * T(2) * v[i] - bv * T(2) * x[i] - xv * T(2) * b[i]);
        }
    }
    return out;
}

// --- sums of all warps

// Place of parameter i in the sums of a warp.
template <class T, int D>
__device__ __forceinline__ std::int64_t place_of(const Plan& p, std::int64_t i) {
    if (p.kind != core::kMlp) return i;
    const int d = p.d, in = p.layer[0].in, hidden = p.layer[0].out;
    const int units = (hidden + kUnitsAtOnce - 1) / kUnitsAtOnce * kUnitsAtOnce;
    const std::int64_t first = i - p.layer[0].at, second = i - p.layer[1].at;
    if (second < 0) {
        if (first >= std::int64_t(hidden) * in) return 2 * D * units + (first - hidden * in);
        const int u = int(first / in), j = int(first % in);
        return (j < d ? j : 2 * D + 1) * units + u;
    }
    if (second >= std::int64_t(hidden) * d) return units * kUnit<T, D> + (second - hidden * d);
    return (D + second / hidden) * units + second % hidden;
}
// 32 parameters to a block; each of its 8 warps adds a part of the warps of the kernel before.
template <class T, int D>
__global__ void __launch_bounds__(256)
    add_sums(const __grid_constant__ Plan p, const double* totals, std::int64_t count, std::int64_t warps) {
    double* parts = reinterpret_cast<double*>(dynamic_shared());
    const int lane = int(threadIdx.x % kWarp), part = int(threadIdx.x / kWarp);
    const std::int64_t i = std::int64_t(blockIdx.x) * kWarp + lane;
    double sum = 0;
    if (i < p.parameter_count) {
        const double* from = totals + place_of<T, D>(p, i);
        const std::int64_t share = (warps + 7) / 8, end = (part + 1) * share < warps ? (part + 1) * share : warps;
        for (std::int64_t w = part * share; w < end; ++w) sum += from[w * count];
    }
    parts[part * kWarp + lane] = sum;
    __syncthreads();
    if (part || i >= p.parameter_count) return;
    for (int q = 1; q < 8; ++q) sum += parts[q * kWarp + lane];
    static_cast<T*>(p.gparameters)[i] = T(sum);
}
template <class T, int D>
void launch_add_sums(const Plan& p, const double* totals, std::int64_t count, std::int64_t warps, Stream stream) {
    launch("ode: gradient of the parameters", add_sums<T, D>, unsigned(divide_up(p.parameter_count, kWarp)), 256,
           256 * sizeof(double), stream, p, totals, count, warps);
}
// How a reverse pass is launched: blocks that go on to further samples, and their workspace.
struct PullShape {
    std::int64_t blocks, warps, threads;
    std::int64_t count;   // numbers of a warp's totals
    std::int64_t totals;  // bytes
    std::int64_t shared;
};
template <class T, int D>
PullShape pull_shape(const Plan& p, int stages, bool sums) {
    PullShape s{};
    s.shared = pull_bytes<T, D>(p, stages, sums);
    const std::int64_t most = std::int64_t(multiprocessors()) * 8;
    s.blocks = divide_up(p.samples, kPullThreads);
    if (s.blocks > most) s.blocks = most;
    s.warps = s.blocks * kPullWarps, s.threads = s.blocks * kPullThreads;
    s.count = sums ? sum_numbers<T, D>(p.kind, plan_sizes<T, D>(p, stages).units, p.parameter_count) : 0;
    s.totals = (s.count * s.warps * std::int64_t(sizeof(double)) + 255) / 256 * 256;
    return s;
}
inline void clear(double* totals, const PullShape& s, Stream stream) {
    if (s.count)
        check(cudaMemsetAsync(totals, 0, std::size_t(s.count * s.warps) * sizeof(double), stream),
              "ode: clearing the sums");
}

}  // namespace nnsym::cuda::ode
