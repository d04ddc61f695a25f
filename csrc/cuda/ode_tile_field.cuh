// SPDX-License-Identifier: MIT
// The vector fields on a tile and their reverse passes: those of csrc/cpu/ode_field.inl, ode_net.inl, ode_metric.inl.
//
// A tape holds what the reverse pass of one evaluation reads; its first rows are the input. After `vjp` it holds what
// `accumulate` turns into gradients of the parameters.
#pragma once
#include "ode_tile.cuh"

namespace nnsym::cuda::ode {

template <class T>
__device__ void Tile<T>::eval(T* from, T* out, T* into) {
    if (plan.kind == core::kLinear) return eval_linear(from, out, into);
    if (plan.kind == core::kConformal) return eval_conformal(from, out);
    if (plan.kind == core::kMetric) return eval_metric(from, out, into);
    if (plan.time == core::kConcat) {
        if (warp() == 0) from[plan.d * kSamples + lane()] = T(time[lane()]);
        __syncthreads();
    }
    net_forward(from, out, into);
}

template <class T>
__device__ T Tile<T>::vjp(T* tape, const T* a, T* to) {
    if (plan.kind == core::kLinear) return vjp_linear(tape, a, to);
    if (plan.kind == core::kMlp) return net_backward(tape, a, to);
    if (plan.kind == core::kConformal)
        vjp_conformal(tape, a, to);
    else
        vjp_metric(tape, a, to);
    return T(0);
}

template <class T>
__device__ void Tile<T>::weigh(T* tape, T weight) {
    auto scale = [&](T* rows, int n) {
        rows_of(n, [&](int, int at) { rows[at] = weight == T(0) ? T(0) : rows[at] * weight; });
    };
    const int strands = plan.kind == core::kMetric ? 3 : plan.kind == core::kMlp ? 1 : 0;
    for (int s = 0; s < strands; ++s) {
        T* rows = plan.kind == core::kMetric ? strand(tape, s) : tape;
        for (int l = 0; l < plan.layers; ++l) {
            scale(rows + view[l].slope * kSamples, view[l].out);
            if (plan.time == core::kGate) scale(rows + view[l].gate * kSamples, view[l].out);
        }
    }
    if (plan.kind == core::kLinear) scale(tape + (plan.d + 1 + layout.columns) * kSamples, plan.d);
    __syncthreads();
}

template <class T>
__device__ void Tile<T>::accumulate(const T* tape) {
    if (plan.kind == core::kMlp) {
        const T* from = tape;
        for (int l = 0; l < plan.layers; ++l) {
            accumulate_layer(view[l], from, tape, plan.time == core::kGate);
            from = tape + view[l].kept * kSamples;
        }
    }
    if (plan.kind == core::kMetric)
        for (int s = 0; s < 3; ++s) {
            const T* rows = strand(const_cast<T*>(tape), s);
            const T* from = rows;
            for (int l = 0; l < plan.layers; ++l) {
                const LayerView& v = view[l];
                const int in = v.in;
                T* into = sums + v.at;
                add_outer_products(into, rows + v.slope * kSamples, v.out, from, in,
                                   [&](int j, int i) { return std::int64_t(j) * in + i; });
                if (s == 0) {
                    T* bias = into + std::int64_t(in) * v.out;
                    rows_of(v.out, [&](int r, int at) {
                        const T sum = sum_of_warp(rows[v.slope * kSamples + at]);
                        if (lane() == 0) bias[r] += sum;
                    });
                }
                from = rows + v.kept * kSamples;
            }
        }
    if (plan.kind == core::kLinear) {
        const int d = plan.d;
        const T *powers = tape + (d + 1) * kSamples, *delta = powers + layout.columns * kSamples;
        find_pieces();
        each_piece([&](int one, unsigned mask) {
            rows_of(d, [&](int, int at) { part[at] = bit(mask) ? delta[at] : T(0); });
            __syncthreads();
            add_outer_products(sums + std::int64_t(one) * layout.columns * d, part, d, powers, layout.columns,
                               [&](int i, int column) {
                                   return (std::int64_t(column / (d + 1)) * d + i) * (d + 1) + column % (d + 1);
                               });
            __syncthreads();
        });
    }
}

// --- multilayer perceptron

template <class T>
__device__ void Tile<T>::product(const T* w, int in, int out, const T* from, T* to) {
    multiply(w, in, out, from, static_cast<const T*>(nullptr), to, [](int, int) {});
    __syncthreads();
}

// z = activation(gate (W x + b)). tape: also the slope, gate and W x + b; argument: what the activation is given.
template <class T>
__device__ void Tile<T>::layer_product(const LayerView& v, const T* from, T* z, T* tape, T* argument) {
    const std::int64_t matrix = std::int64_t(v.in) * v.out;
    const T* bias = parameters + v.at + matrix;
    const bool gated = plan.time == core::kGate;
    const int code = v.activation;
    const T value = T(v.value);
    T* slopes = tape ? tape + v.slope * kSamples : nullptr;
    multiply(packed + v.forward, v.in, v.out, from, bias, z, [&](int r, int at) {
        T n[4], s[4];
        load_numbers(z + at, n);
        if (gated) {
            const T weight = bias[v.out + r], shift = bias[2 * v.out + r];
            const int column = at % kSamples;
            T gate[4];
#pragma unroll
            for (int q = 0; q < 4; ++q)
                gate[q] = activation::Activation<T, core::kSigmoid>::value(T(time[column + q]) * weight + shift, T(0));
            if (tape)
                store_numbers(tape + v.gate * kSamples + at, gate), store_numbers(tape + v.ungated * kSamples + at, n);
#pragma unroll
            for (int q = 0; q < 4; ++q) n[q] *= gate[q];
        }
        if (argument) store_numbers(argument + at, n);
        activation::by_code<T>(code, [&](auto f) {
            if (slopes) {
#pragma unroll
                for (int q = 0; q < 4; ++q) n[q] = f.value_and_slope(n[q], value, s[q]);
            } else {
#pragma unroll
                for (int q = 0; q < 4; ++q) n[q] = f.value(n[q], value);
            }
        });
        store_numbers(z + at, n);
        if (slopes) store_numbers(slopes + at, s);
    });
    __syncthreads();
}

template <class T>
__device__ void Tile<T>::net_forward(const T* from, T* out, T* tape) {
    for (int l = 0; l < plan.layers; ++l) {
        const LayerView& v = view[l];
        T* z = l == plan.layers - 1 ? out : tape ? tape + v.kept * kSamples : l & 1 ? odd : even;
        layer_product(v, from, z, tape, nullptr);
        from = z;
    }
}

template <class T>
__device__ T Tile<T>::net_backward(T* tape, const T* a, T* to) {
    T along = T(0);
    const T* g = a;
    for (int l = plan.layers - 1; l >= 0; --l) {
        const LayerView& v = view[l];
        T* delta = tape + v.slope * kSamples;
        if (plan.time == core::kGate) {
            const T* weight = parameters + v.at + std::int64_t(v.in) * v.out + v.out;
            T *gates = tape + v.gate * kSamples, *ungated = tape + v.ungated * kSamples;
            rows_of(v.out, [&](int r, int at) {
                const T before = delta[at] * g[at], gate = gates[at];
                const T inner = before * ungated[at] * gate * (T(1) - gate);
                delta[at] = before * gate;
                gates[at] = inner;
                along += inner * weight[r];
            });
        } else {
            rows_of(v.out, [&](int, int at) { delta[at] *= g[at]; });
        }
        __syncthreads();
        T* into = l == 0 ? to : l & 1 ? odd : even;
        product(packed + v.backward, v.out, v.in, delta, into);
        g = into;
    }
    if (plan.time == core::kConcat && warp() == 0) along += to[plan.d * kSamples + lane()];
    return along;
}

template <class T>
__device__ void Tile<T>::accumulate_layer(const LayerView& v, const T* from, const T* tape, bool gated) {
    const int in = v.in, out = v.out;
    T *into = sums + v.at, *bias = into + std::int64_t(in) * out;
    const T *delta = tape + v.slope * kSamples, *inner = tape + v.gate * kSamples;
    add_outer_products(into, delta, out, from, in, [&](int j, int i) { return std::int64_t(j) * in + i; });
    rows_of(out, [&](int r, int at) {
        const T sum = sum_of_warp(delta[at]);
        T weight = T(0), shift = T(0);
        if (gated) shift = sum_of_warp(inner[at]), weight = sum_of_warp(inner[at] * T(time[lane()]));
        if (lane() != 0) return;
        bias[r] += sum;
        if (gated) bias[out + r] += weight, bias[2 * out + r] += shift;
    });
}

// --- x' = w(t) x + b(t): with the powers theta^p of the time in the piece, sum_p C_p theta^p (x, 1)

// The pieces of the samples, and theta of the lane's sample.
template <class T>
__device__ T Tile<T>::find_pieces() {
    int low = 0, high = plan.pieces - 1;  // the last piece that begins at or before t; the first for earlier times
    const double t = time[lane()];
    while (low < high) {
        const int mid = (low + high + 1) / 2;
        if (plan.knots[mid] <= t)
            low = mid;
        else
            high = mid - 1;
    }
    if (warp() == 0) piece[lane()] = low;
    __syncthreads();
    return T(plan.degree ? t - plan.knots[low] : 0.0);
}
// call(piece, its samples) for every piece that occurs
template <class T>
template <class Call>
__device__ void Tile<T>::each_piece(Call call) {
    for (unsigned left = kAll; left;) {
        const int one = piece[__ffs(int(left)) - 1];
        const unsigned mask = __ballot_sync(kAll, piece[lane()] == one);
        call(one, mask);
        left &= ~mask;
    }
}
template <class T>
__device__ void Tile<T>::eval_linear(const T* from, T* out, T* tape) {
    const int d = plan.d, columns = layout.columns;
    const T theta = find_pieces();
    T* powers = tape ? tape + (d + 1) * kSamples : wide;
    T factor = T(1);
    for (int p = 0; p <= plan.degree; ++p, factor *= theta)
        rows_of(d + 1,
                [&](int r, int at) { powers[p * (d + 1) * kSamples + at] = r < d ? from[at] * factor : factor; });
    __syncthreads();
    each_piece([&](int one, unsigned mask) {
        const T* w = packed + 2 * one * layout.piece_numbers;
        if (mask == kAll) return product(w, columns, d, powers, out);
        product(w, columns, d, powers, part);
        rows_of(d, [&](int, int at) { out[at] = bit(mask) ? part[at] : out[at]; });
        __syncthreads();
    });
}
template <class T>
__device__ T Tile<T>::vjp_linear(T* tape, const T* a, T* to) {
    const int d = plan.d, columns = layout.columns;
    const T theta = find_pieces();
    T* delta = tape + (d + 1 + columns) * kSamples;
    copy(a, delta, d);
    __syncthreads();
    each_piece([&](int one, unsigned mask) {
        const T* w = packed + (2 * one + 1) * layout.piece_numbers;
        if (mask == kAll) return product(w, d, columns, a, wide);
        product(w, d, columns, a, part);
        rows_of(columns, [&](int, int at) { wide[at] = bit(mask) ? part[at] : wide[at]; });
        __syncthreads();
    });
    T along = T(0);
    rows_of(d + 1, [&](int r, int at) {
        T sum = wide[at], factor = T(1);  // theta^(p - 1)
        for (int p = 1; p <= plan.degree; ++p, factor *= theta) {
            const T g = wide[p * (d + 1) * kSamples + at];
            sum += g * factor * theta;
            along += (r < d ? g * tape[at] : g) * factor * T(p);
        }
        if (r < d) to[at] = sum;
    });
    __syncthreads();
    return along;
}

}  // namespace nnsym::cuda::ode
