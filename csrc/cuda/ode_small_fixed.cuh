// SPDX-License-Identifier: MIT
// Fixed steps, one thread to P samples whose times are the same.
#pragma once
#include "ode_small.cuh"

namespace nnsym::cuda::ode {

namespace {

template <class T, int D, int NS, int P>
__global__ void __launch_bounds__(kSmallThreads) integrate_fixed(const __grid_constant__ Plan p) {
    typedef Numbers<T, P * D> State;
    load_small<T, D, NS>(p);
    const Small<T>* field = &small_header<T>();
    const std::int64_t first = std::int64_t(blockIdx.x) * (blockDim.x * P) + threadIdx.x;
    if (first >= p.samples) return;
    // Threads beyond the last sample repeat one, and write nothing.
    std::int64_t id[P], taken[P];
    bool here[P], alive[P];
    double t_end[P];
    State y;
    bool any = false;
#pragma unroll
    for (int c = 0; c < P; ++c) {
        id[c] = first + std::int64_t(c) * blockDim.x;
        here[c] = id[c] < p.samples;
        if (!here[c]) id[c] = first;
        const Numbers<T, D> one = read_state<T, D>(p, p.y0, id[c]);
        const bool sound = sound_times(p, id[c]);
        alive[c] = finite(one) && sound;
        any = any || alive[c];
        taken[c] = 0;
        t_end[c] = time_of(p, id[c], 0);
#pragma unroll
        for (int i = 0; i < D; ++i) y.v[c * D + i] = sound ? one.v[i] : not_a_number<T>();
        if (here[c] && p.ys) {
            if (alive[c])
                write_state<T, D>(p, p.ys, id[c], one);
            else
                write_nan<T, D>(p, p.ys, id[c]);
        }
    }
    const int stages = p.stages, used = p.used;
    const bool timed = field->timed;
    std::int64_t done = 0;  // steps before, of samples that have the same number of them
    bool begun = false;
    State k[NS];
    for (std::int64_t piece = 0; piece + 1 < p.nodes; ++piece) {
        const std::int64_t steps = p.steps[id[0] * p.steps_sample + piece];
        const std::int8_t* breaks = p.breaks + id[0] * p.breaks_sample + piece;
        const bool opens = breaks[0], closes = breaks[1];
        const double begin = time_of(p, id[0], piece), end = time_of(p, id[0], piece + 1);
        const double h = steps ? (end - begin) * (1.0 / double(steps)) : 0;
        const T step = T(h);
        for (std::int64_t n = 0; n < steps && any; ++n) {
            const double t = begin + double(n) * h;
            const bool late = opens && n == 0, early = closes && n == steps - 1;
            if (p.states) {
#pragma unroll
                for (int c = 0; c < P; ++c) {
                    if (!here[c]) continue;
                    T* to = static_cast<T*>(p.states) + (done + n) * p.d * p.samples + id[c];
#pragma unroll
                    for (int i = 0; i < D; ++i) {
                        const int r = component_of<D>(p.kind, p.d, i);
                        if (r >= 0) to[r * p.samples] = alive[c] ? y.v[c * D + i] : not_a_number<T>();
                    }
                }
            }
            if (!p.fsal || !begun || late) k[0] = evaluate<T, D, P>(late ? nudged(t, h < 0 ? -1 : 1) : t, y);
            begun = true;
#pragma unroll
            for (int j = 1; j < NS; ++j) {
                if (j >= stages) continue;
                double time = t;
                if (timed) {
                    time = t + p.c[j] * h;
                    if (early && p.c[j] == 1) time = nudged(end, h < 0 ? 1 : -1);
                }
                k[j] = evaluate<T, D, P>(time, advance<T, P * D, NS>(small_at<T>(field->a + j * NS), k, y, step, j));
            }
            const State next = advance<T, P * D, NS>(small_at<T>(field->b), k, y, step, used);
            any = false;
#pragma unroll
            for (int c = 0; c < P; ++c) {
                Numbers<T, D> one;
#pragma unroll
                for (int i = 0; i < D; ++i) one.v[i] = next.v[c * D + i];
                const bool sound = finite(one);
                if (alive[c] && !sound) {
                    t_end[c] = t;
                    if (p.states && here[c])
                        for (int r = 0; r < p.d; ++r)
                            static_cast<T*>(p.states)[((done + n) * p.d + r) * p.samples + id[c]] = not_a_number<T>();
                }
                taken[c] += alive[c] ? 1 : 0;  // of a step that fails, the trial
                alive[c] = alive[c] && sound;
                any = any || alive[c];
#pragma unroll
                for (int i = 0; i < D; ++i) y.v[c * D + i] = alive[c] ? next.v[c * D + i] : y.v[c * D + i];
            }
            if (p.fsal) {
#pragma unroll
                for (int j = 1; j < NS; ++j)
                    if (j == stages - 1) k[0] = k[j];
            }
        }
        if (p.states && !any) {
            for (std::int64_t n = 0; n < steps * p.d; ++n) {
#pragma unroll
                for (int c = 0; c < P; ++c)
                    if (here[c]) {
                        T* to = static_cast<T*>(p.states) + (done * p.d + n) * p.samples + id[c];
                        // Steps of this piece that were taken keep their states: the first one failed is marked.
                        if (n / p.d >= taken[c] - done) *to = not_a_number<T>();
                    }
            }
        }
        done += steps;
        const std::int64_t index = p.result[piece + 1];
#pragma unroll
        for (int c = 0; c < P; ++c) {
            if (alive[c]) t_end[c] = end;
            if (index < 0 || !here[c] || !p.ys) continue;
            const std::int64_t row = index * p.samples + id[c];
            Numbers<T, D> one;
#pragma unroll
            for (int i = 0; i < D; ++i) one.v[i] = alive[c] ? y.v[c * D + i] : not_a_number<T>();
            write_state<T, D>(p, p.ys, row, one);
        }
    }
#pragma unroll
    for (int c = 0; c < P; ++c) {
        if (!here[c]) continue;
        if (p.status) p.status[id[c]] = alive[c] ? core::kSuccess : core::kNonFinite;
        if (p.t_end) p.t_end[id[c]] = t_end[c];
        if (p.y_end) {
            Numbers<T, D> one;
#pragma unroll
            for (int i = 0; i < D; ++i) one.v[i] = y.v[c * D + i];
            write_state<T, D>(p, p.y_end, id[c], one);
        }
        if (!p.stats) continue;
        // A sample that failed made one trial more than it took steps.
        const std::int64_t trials = taken[c], failed = !alive[c] && trials > 0 ? 1 : 0, accepted = trials - failed;
        std::int64_t* out = p.stats + id[c] * 3;
        out[0] = accepted, out[1] = failed;
        out[2] = trials ? (p.fsal ? 1 : accepted) + trials * (stages - 1) : 0;
    }
}

template <class T>
constexpr int kPair = sizeof(T) == 4 ? 2 : 1;

}  // namespace

template <class T>
void small_fixed(const Plan& p, Stream stream) {
    // Two samples to a thread halve the reads of weights, where there are samples enough for all threads.
    const bool pair = sizeof(T) == 4 && p.d <= 4 && p.t_sample == 0 && p.steps_sample == 0 && p.breaks_sample == 0 &&
                      p.samples >= std::int64_t(multiprocessors()) * 1024;
    by_size(small_width_of(p.d), p.stages, [&](auto width, auto room) {
        constexpr int D = decltype(width)::value, NS = decltype(room)::value;
        const std::int64_t bytes = plan_sizes<T, D>(p, NS).bytes;
        if (pair) {
            if constexpr (D <= 4)
                return launch("ode: fixed steps", integrate_fixed<T, D, NS, kPair<T>>,
                              unsigned(divide_up(p.samples, kSmallThreads * kPair<T>)), kSmallThreads,
                              std::size_t(bytes), stream, p);
        }
        launch("ode: fixed steps", integrate_fixed<T, D, NS, 1>, unsigned(divide_up(p.samples, kSmallThreads)),
               kSmallThreads, std::size_t(bytes), stream, p);
    });
}

}  // namespace nnsym::cuda::ode
