// SPDX-License-Identifier: MIT
// Fields of few numbers in one thread: the state in registers, weights and tableau in the block's shared memory.
//
// A state of d numbers stands in D >= d registers; those left over are zero and stay so. The position and velocity of a
// geodesic begin at 0 and at D / 2.
#pragma once
#include "ode.h"
#include "ode_activations.cuh"
#include "ode_control.cuh"

namespace nnsym::cuda::ode {

// Passed by value, so that functions that are not inlined take and return it in registers.
template <class T, int N>
struct Numbers {
    T v[N];
};

// 16 bytes, as shared memory gives them to all threads at once.
template <class T>
struct alignas(16) Quad {
    static constexpr int count = int(16 / sizeof(T));
    T v[count];
};

// A hidden unit in shared memory: D weights of its inputs, D of its outputs, its bias, the weight of the time.
template <class T, int D>
constexpr int kUnit = (2 * D + 2 + Quad<T>::count - 1) / Quad<T>::count * Quad<T>::count;
constexpr int kUnitsAtOnce = 4;

// At the beginning of shared memory, the same for all threads. Arrays are places among the numbers behind it: functions
// that are not inlined find them from the beginning of shared memory, and so know what memory it is.
template <class T>
struct Small {
    std::int32_t kind, d, units, activation, timed, degree, pieces;
    T value, constant;
    const double* knots;
    std::int32_t unit, bias, matrix;  // matrix: of the linear field, (pieces, degree + 1, d, d + 1)
    std::int32_t a, b, error[2], c, dense, rtol, atol;
};

struct SmallSizes {
    std::int64_t units, unit, bias, matrix, tableau, tolerance, bytes;
};
template <class T>
constexpr std::int64_t kHeader = (std::int64_t(sizeof(Small<T>)) + 15) / 16 * 16;

template <class T>
__device__ __forceinline__ const Small<T>& small_header() {
    return *reinterpret_cast<const Small<T>*>(dynamic_shared());
}
template <class T>
__device__ __forceinline__ T* small_at(std::int32_t place) {
    return reinterpret_cast<T*>(dynamic_shared() + kHeader<T>) + place;
}

// Sizes in numbers, and all in bytes; stages: those that the kernel has room for.
template <class T, int D>
inline SmallSizes small_sizes(int kind, int layers, int hidden, int d, int degree, int pieces, int stages, int terms) {
    SmallSizes s{};
    s.units = kind == core::kMlp && layers == 2 ? divide_up(hidden, kUnitsAtOnce) * kUnitsAtOnce : 0;
    s.unit = s.units * kUnit<T, D>;
    s.bias = D;
    s.matrix = kind == core::kLinear ? std::int64_t(pieces) * (degree + 1) * d * (d + 1) : 0;
    s.tableau = stages * (stages + 4) + stages * terms;
    s.tolerance = 2 * D;
    s.bytes = kHeader<T> + divide_up(s.unit + s.bias + s.matrix + s.tableau + s.tolerance, 4) * 4 * sizeof(T);
    return s;
}
template <class T, int D>
inline SmallSizes plan_sizes(const Plan& p, int stages) {
    return small_sizes<T, D>(p.kind, p.layers, p.layers ? p.layer[0].out : 0, p.d, p.degree, p.pieces, stages, p.terms);
}

// --- loading

// Component r of the state is register slot(r).
template <int D>
__device__ __forceinline__ int component_of(int kind, int d, int slot) {  // -1: none
    if (kind != core::kConformal) return slot < d ? slot : -1;
    const int n = d / 2, i = slot % (D / 2);
    return i < n ? (slot < D / 2 ? i : n + i) : -1;
}

// Field and tableau into shared memory; all threads of the block. NS: stages that the kernel has room for.
template <class T, int D, int NS>
__device__ void load_small(const Plan& p) {
    Small<T>& s = *reinterpret_cast<Small<T>*>(dynamic_shared());
    T* const first = small_at<T>(0);
    T* at = first;
    const T* parameters = static_cast<const T*>(p.parameters);
    const int threads = int(blockDim.x), thread = int(threadIdx.x);
    const bool net = p.kind == core::kMlp;
    const int hidden = net ? p.layer[0].out : 0, in = net ? p.layer[0].in : 0;
    const int units = (hidden + kUnitsAtOnce - 1) / kUnitsAtOnce * kUnitsAtOnce;
    T* unit = at;
    for (int i = thread; i < units * kUnit<T, D>; i += threads) {
        const int u = i / kUnit<T, D>, c = i % kUnit<T, D>;
        T w = T(0);
        if (u < hidden) {
            const T *input = parameters + p.layer[0].at, *second = parameters + p.layer[1].at;
            if (c < p.d)
                w = input[u * in + c];
            else if (c >= D && c < D + p.d)
                w = second[(c - D) * hidden + u];
            else if (c == 2 * D)
                w = input[hidden * in + u];
            else if (c == 2 * D + 1 && p.time == core::kConcat)
                w = input[u * in + p.d];
        }
        unit[i] = w;
    }
    at += units * kUnit<T, D>;
    T* bias = at;
    for (int i = thread; i < D; i += threads)
        bias[i] = net && i < p.d ? parameters[p.layer[1].at + std::int64_t(hidden) * p.d + i] : T(0);
    at += D;
    T *rtol = at, *atol = at + D;
    for (int i = thread; i < D; i += threads) {
        const int r = component_of<D>(p.kind, p.d, i);
        rtol[i] = r >= 0 && p.rtol ? T(p.rtol[r]) : T(0);
        atol[i] = r >= 0 && p.atol ? T(p.atol[r]) : T(1);
    }
    at += 2 * D;
    T* matrix = at;
    const int entries = p.kind == core::kLinear ? p.pieces * (p.degree + 1) * p.d * (p.d + 1) : 0;
    for (int i = thread; i < entries; i += threads) matrix[i] = parameters[i];
    at += entries;
    // Rows of the tableau with their zeros: a, b, and those of the errors.
    T* a = at;
    const int total = p.stages + p.extra;
    for (int row = thread; row < NS + 3; row += threads) {
        T* to = a + row * NS;
        for (int i = 0; i < NS; ++i) to[i] = T(0);
        // Of fewer stages than the method has, rows that would not fit are not read.
        const PlanRow from = row < NS    ? (row < total ? p.a[row] : PlanRow{0, 0})
                             : row == NS ? p.b
                                         : (row - NS <= p.errors ? p.error[row - NS - 1] : PlanRow{0, 0});
        for (int i = from.begin; i < from.end; ++i)
            if (p.stage[i] < NS) to[p.stage[i]] = T(p.number[i]);
    }
    T *c = a + NS * (NS + 3), *dense = c + NS;
    for (int i = thread; i < NS; i += threads) c[i] = i < total ? T(p.c[i]) : T(0);
    for (int i = thread; i < NS * p.terms; i += threads)
        dense[i] = i < total * p.terms ? T(p.number[p.dense + i]) : T(0);
    if (thread == 0) {
        s.kind = p.kind, s.d = p.d, s.units = units;
        s.activation = net ? p.layer[0].activation : 0, s.value = net ? T(p.layer[0].value) : T(0);
        s.timed = p.kind == core::kLinear || (net && p.time != core::kNoTime);
        s.degree = p.degree, s.pieces = p.pieces, s.constant = T(p.constant), s.knots = p.knots;
        auto place = [&](const T* of) { return std::int32_t(of - first); };
        s.unit = place(unit), s.bias = place(bias), s.matrix = place(matrix);
        s.a = place(a), s.b = s.a + NS * NS, s.error[0] = s.b + NS, s.error[1] = s.b + 2 * NS;
        s.c = place(c), s.dense = place(dense), s.rtol = place(rtol), s.atol = place(atol);
    }
    __syncthreads();
}

template <class T, int D>
__device__ __forceinline__ Numbers<T, D> read_state(const Plan& p, const void* from, std::int64_t row) {
    Numbers<T, D> y;
    const T* numbers = static_cast<const T*>(from) + row * p.d;
#pragma unroll
    for (int i = 0; i < D; ++i) {
        const int r = component_of<D>(p.kind, p.d, i);
        y.v[i] = r >= 0 ? numbers[r] : T(0);
    }
    return y;
}
template <class T, int D>
__device__ __forceinline__ void write_state(const Plan& p, void* to, std::int64_t row, const Numbers<T, D>& y) {
    T* numbers = static_cast<T*>(to) + row * p.d;
#pragma unroll
    for (int i = 0; i < D; ++i) {
        const int r = component_of<D>(p.kind, p.d, i);
        if (r >= 0) numbers[r] = y.v[i];
    }
}
template <class T>
__device__ __forceinline__ T not_a_number() {
    return T(__int_as_float(0x7fc00000));
}
template <class T, int D>
__device__ __forceinline__ void write_nan(const Plan& p, void* to, std::int64_t row) {
    T* numbers = static_cast<T*>(to) + row * p.d;
    for (int r = 0; r < p.d; ++r) numbers[r] = not_a_number<T>();
}
template <class T, int D>
__device__ __forceinline__ bool finite(const Numbers<T, D>& y) {
    T sum = T(0);
#pragma unroll
    for (int i = 0; i < D; ++i) sum += y.v[i] - y.v[i];
    return sum == T(0);
}
// --- fields

// The piece of a linear field that begins last at or before t; the first one for earlier times.
template <class T>
__device__ __forceinline__ int piece_of(double t) {
    const Small<T>* s = &small_header<T>();
    int low = 0, high = s->pieces - 1;
    while (low < high) {
        const int mid = (low + high + 1) / 2;
        if (s->knots[mid] <= t)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}
template <class T, int D>
struct Unit {  // weights of a hidden unit in registers
    T w[kUnit<T, D>];
    __device__ __forceinline__ explicit Unit(const T* from) {
#pragma unroll
        for (int i = 0; i < kUnit<T, D> / Quad<T>::count; ++i) {
            const Quad<T> quad = reinterpret_cast<const Quad<T>*>(from)[i];
#pragma unroll
            for (int j = 0; j < Quad<T>::count; ++j) w[i * Quad<T>::count + j] = quad.v[j];
        }
    }
};

// f(t, y) of P states at one time.
template <class T, int D, int P>
__device__ __attribute__((noinline)) Numbers<T, P * D> evaluate(double time, Numbers<T, P * D> y) {
    const Small<T>* s = &small_header<T>();
    Numbers<T, P * D> out;
    if (s->kind == core::kMlp) {
#pragma unroll
        for (int i = 0; i < P * D; ++i) out.v[i] = small_at<T>(s->bias)[i % D];
        const int count = s->units, code = s->activation;
        const T value = s->value, t = s->timed ? T(time) : T(0);
        const T* unit = small_at<T>(s->unit);
        for (int u = 0; u < count; u += kUnitsAtOnce, unit += kUnitsAtOnce * kUnit<T, D>) {
            T z[kUnitsAtOnce][P];
#pragma unroll
            for (int q = 0; q < kUnitsAtOnce; ++q) {
                const Unit<T, D> w(unit + q * kUnit<T, D>);
                const T start = activation::multiply_add(w.w[2 * D + 1], t, w.w[2 * D]);
#pragma unroll
                for (int c = 0; c < P; ++c) {
                    T sum = start;
#pragma unroll
                    for (int i = 0; i < D; ++i) sum = activation::multiply_add(w.w[i], y.v[c * D + i], sum);
                    z[q][c] = sum;
                }
            }
            activation::by_code<T>(code, [&](auto f) {
#pragma unroll
                for (int q = 0; q < kUnitsAtOnce; ++q)
#pragma unroll
                    for (int c = 0; c < P; ++c) z[q][c] = f.value(z[q][c], value);
            });
#pragma unroll
            for (int q = 0; q < kUnitsAtOnce; ++q) {
                const T* from = unit + q * kUnit<T, D> + D;
#pragma unroll
                for (int i = 0; i < D; ++i) {
                    const T w = from[i];
#pragma unroll
                    for (int c = 0; c < P; ++c)
                        out.v[c * D + i] = activation::multiply_add(w, z[q][c], out.v[c * D + i]);
                }
            }
        }
    } else if (s->kind == core::kLinear) {
        const int d = s->d, piece = s->pieces > 1 ? piece_of<T>(time) : 0;
        const T theta = s->degree ? T(time - s->knots[piece]) : T(0);
        const T* matrix = small_at<T>(s->matrix) + piece * (s->degree + 1) * d * (d + 1);
        T power = T(1);
#pragma unroll
        for (int i = 0; i < P * D; ++i) out.v[i] = T(0);
        for (int n = 0; n <= s->degree; ++n, power *= theta, matrix += d * (d + 1)) {
#pragma unroll
            for (int i = 0; i < D; ++i) {
                if (i >= d) continue;
                const T* row = matrix + i * (d + 1);
#pragma unroll
                for (int c = 0; c < P; ++c) {
                    T sum = row[d];
#pragma unroll
                    for (int j = 0; j < D; ++j)
                        if (j < d) sum = activation::multiply_add(row[j], y.v[c * D + j], sum);
                    out.v[c * D + i] = activation::multiply_add(power, sum, out.v[c * D + i]);
                }
            }
        }
    } else {
        constexpr int half = D / 2;
#pragma unroll
        for (int c = 0; c < P; ++c) {
            const T *x = y.v + c * D, *v = x + half;
            T xx = T(0), xv = T(0), vv = T(0);
#pragma unroll
            for (int i = 0; i < half; ++i) xx += x[i] * x[i], xv += x[i] * v[i], vv += v[i] * v[i];
            const T q = T(-2) * s->constant / (xx * s->constant + T(1));
#pragma unroll
            for (int i = 0; i < half; ++i) {
                out.v[c * D + i] = v[i];
                out.v[c * D + half + i] = q * (vv * x[i] - xv * T(2) * v[i]);
            }
        }
    }
    return out;
}

// --- steps

// y + h sum_i row_i k_i, over the first `count` stages at most.
template <class T, int D, int NS>
__device__ __forceinline__ Numbers<T, D> advance(const T* row, const Numbers<T, D> (&k)[NS], const Numbers<T, D>& y,
                                                 T h, int count) {
    Numbers<T, D> x;
#pragma unroll
    for (int i = 0; i < D; ++i) x.v[i] = T(0);
#pragma unroll
    for (int j = 0; j < NS; ++j) {
        if (j >= count) continue;
        const T w = row[j];
#pragma unroll
        for (int i = 0; i < D; ++i) x.v[i] = activation::multiply_add(w, k[j].v[i], x.v[i]);
    }
#pragma unroll
    for (int i = 0; i < D; ++i) x.v[i] = activation::multiply_add(h, x.v[i], y.v[i]);
    return x;
}

// --- launching

// Kernels have room for D numbers of a state and for NS stages: call(std::integral_constant D, NS).
inline int small_width_of(int d) {
    return d <= 2 ? 2 : d <= 4 ? 4 : 8;
}
template <int N>
using Int = std::integral_constant<int, N>;
template <class Call>
void by_size(int d, int stages, Call call) {
    auto with_width = [&](auto width) {
        if (stages <= 4) return call(width, Int<4>());
        if (stages <= 7) return call(width, Int<7>());
        return call(width, Int<16>());
    };
    if (d == 2) return with_width(Int<2>());
    if (d == 4) return with_width(Int<4>());
    return with_width(Int<8>());
}

constexpr int kSmallThreads = 128;

// The parts of run_small, by type.
template <class T>
void small_fixed(const Plan&, Stream);
template <class T>
void small_machine(const Plan&, Stream);  // adaptive steps, and fixed ones with an event
template <class T>
void small_evaluate(const Plan&, Stream);
// With `bytes` they only say how large a workspace they need.
template <class T>
void small_vjp(const Plan&, Stream, std::int64_t* bytes);
template <class T>
void small_reverse(const Plan&, Stream, std::int64_t* bytes);  // through fixed steps

}  // namespace nnsym::cuda::ode
