// SPDX-License-Identifier: MIT
// Gradients through fixed steps, and of the field alone. A thread goes back through the steps of its sample; a warp's
// samples go together, those that took fewer steps standing still.
#pragma once
#include "ode_small_pull.cuh"

namespace nnsym::cuda::ode {

// One step back: from the gradient of the state after it to that of the state before it.
template <class T, int D>
struct Back {
    Numbers<T, D> gradient;
    T gh, gt;  // of the length of the step, and of its time
};
// gk: gradients of the stages by results inside the step; `stages` of them are needed. All lanes of a warp; where a
// sample stands still h, y, gk and gradient are zero. times: whether gh and gt are wanted.
template <class T, int D, int NS, class StageTime>
__device__ __forceinline__ Back<T, D> step_back(const Sums& sums, const Numbers<T, D>& y, T h, int stages,
                                                const Numbers<T, D>& gradient, Numbers<T, D> (&gk)[NS], bool times,
                                                StageTime stage_time_of) {
    const Small<T>* field = &small_header<T>();
    Numbers<T, D> k[NS];
#pragma unroll
    for (int j = 0; j < NS; ++j) {
        if (j >= stages) continue;
        k[j] =
            evaluate<T, D, 1>(stage_time_of(j), j ? advance<T, D, NS>(small_at<T>(field->a + j * NS), k, y, h, j) : y);
    }
    Back<T, D> out;
    out.gh = out.gt = T(0);
#pragma unroll
    for (int j = 0; j < NS; ++j) {
        if (j >= stages) continue;
        const T w = small_at<T>(field->b)[j];
#pragma unroll
        for (int i = 0; i < D; ++i) {
            out.gh += gradient.v[i] * w * k[j].v[i];
            gk[j].v[i] = activation::multiply_add(h * w, gradient.v[i], gk[j].v[i]);
        }
    }
    out.gradient = gradient;
#pragma unroll
    for (int j = NS - 1; j >= 0; --j) {
        if (j >= stages) continue;
        const T* row = small_at<T>(field->a + j * NS);
        const double time = stage_time_of(j);
        const Pulled<T, D> pulled = pull<T, D>(sums, time, j ? advance<T, D, NS>(row, k, y, h, j) : y, gk[j]);
#pragma unroll
        for (int i = 0; i < D; ++i) out.gradient.v[i] += pulled.gy.v[i];
#pragma unroll
        for (int q = 0; q < j; ++q) {
            const T w = row[q];
#pragma unroll
            for (int i = 0; i < D; ++i) {
                gk[q].v[i] = activation::multiply_add(h * w, pulled.gy.v[i], gk[q].v[i]);
                if (times) out.gh += pulled.gy.v[i] * w * k[q].v[i];
            }
        }
        out.gh += pulled.gt * small_at<T>(field->c)[j], out.gt += pulled.gt;
    }
    return out;
}

namespace {

// Where the states of a reverse pass through fixed steps lie: [slot][component][thread].
struct Kept {
    std::int64_t stride;  // a checkpoint every so many steps
    std::int64_t checkpoints, slots;
};
template <class T>
Kept kept_states(const Plan& p, std::int64_t threads) {
    Kept kept{1, p.most_steps, p.most_steps};
    if (p.given) return {1, 0, 0};
    constexpr std::int64_t budget = std::int64_t(256) << 20;
    if (p.checkpoints || p.most_steps * p.d * threads * std::int64_t(sizeof(T)) > budget) {
        while (kept.stride * kept.stride < p.most_steps) ++kept.stride;
        kept.checkpoints = divide_up(p.most_steps, kept.stride);
        kept.slots = kept.checkpoints + kept.stride;
    }
    return kept;
}

// The steps of a sample one after another, or backwards.
struct Cursor {
    std::int64_t piece, number, steps;
    double begin, end, h;

    __device__ __forceinline__ void enter(const Plan& p, std::int64_t id, std::int64_t at) {
        piece = at;
        steps = p.steps[id * p.steps_sample + piece];
        begin = time_of(p, id, piece), end = time_of(p, id, piece + 1);
        h = steps ? (end - begin) * (1.0 / double(steps)) : 0;
    }
    __device__ __forceinline__ double stage_time(const Plan& p, std::int64_t id, int j) const {
        const std::int8_t* breaks = p.breaks + id * p.breaks_sample + piece;
        const double t = begin + double(number) * h;
        if (j == 0) return breaks[0] && number == 0 ? nudged(t, h < 0 ? -1 : 1) : t;
        if (p.c[j] == 1 && breaks[1] && number == steps - 1) return nudged(end, h < 0 ? 1 : -1);
        return t + p.c[j] * h;
    }
};

template <class T, int D>
__device__ __forceinline__ T* slot_of(const Plan& p, T* kept, std::int64_t slot, std::int64_t threads) {
    return kept + slot * p.d * threads + std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
}
template <class T, int D>
__device__ __forceinline__ void keep(const Plan& p, T* to, std::int64_t stride, const Numbers<T, D>& y) {
#pragma unroll
    for (int i = 0; i < D; ++i) {
        const int r = component_of<D>(p.kind, p.d, i);
        if (r >= 0) to[r * stride] = y.v[i];
    }
}
template <class T, int D>
__device__ __forceinline__ Numbers<T, D> kept_state(const Plan& p, const T* from, std::int64_t stride) {
    Numbers<T, D> y;
#pragma unroll
    for (int i = 0; i < D; ++i) {
        const int r = component_of<D>(p.kind, p.d, i);
        y.v[i] = r >= 0 ? from[r * stride] : T(0);
    }
    return y;
}

template <class T, int D, int NS>
__global__ void __launch_bounds__(kPullThreads) reverse_fixed(const __grid_constant__ Plan p, const std::int64_t offset,
                                                              double* totals, T* kept, const Kept layout) {
    load_small<T, D, NS>(p);
    const Small<T>* field = &small_header<T>();
    const Sums sums = take_sums<T, D>(p, offset);
    const std::int64_t threads = std::int64_t(gridDim.x) * blockDim.x;
    const std::int64_t thread = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    double* own = totals + thread / kWarp * sums.count;
    const int used = p.used;
    const std::int64_t last = p.nodes - 2;
    for (std::int64_t round = 0; round * threads < p.samples; ++round) {
        const std::int64_t sample = round * threads + thread;
        const bool here = sample < p.samples;
        const std::int64_t id = here ? sample : p.samples - 1;
        const Numbers<T, D> start = read_state<T, D>(p, p.y0, id);
        const bool sound = here && finite(start) && sound_times(p, id);

        std::int64_t total = 0;
        for (std::int64_t piece = 0; piece <= last; ++piece) total += p.steps[id * p.steps_sample + piece];
        std::int64_t taken = sound ? total : 0;

        // Steps [from, to) forwards from the state before step `from`; their states to slots place(n), less `skip`
        // ones.
        Cursor cursor;
        auto forward = [&](Numbers<T, D> y, std::int64_t from, std::int64_t to, std::int64_t stride,
                           std::int64_t first) {
            std::int64_t before = 0;
            for (std::int64_t piece = 0; piece <= last && before < to; ++piece) {
                const std::int64_t steps = p.steps[id * p.steps_sample + piece];
                if (before + steps > from) {
                    cursor.enter(p, id, piece);
                    for (std::int64_t n = from > before ? from - before : 0; n < steps && before + n < to; ++n) {
                        cursor.number = n;
                        const std::int64_t at = before + n;
                        if (at % stride == 0)
                            keep<T, D>(p, slot_of<T, D>(p, kept, first + (at - from) / stride, threads), threads, y);
                        Numbers<T, D> k[NS];
#pragma unroll
                        for (int j = 0; j < NS; ++j) {
                            if (j >= used) continue;
                            k[j] = evaluate<T, D, 1>(
                                cursor.stage_time(p, id, j),
                                j ? advance<T, D, NS>(small_at<T>(field->a + j * NS), k, y, T(cursor.h), j) : y);
                        }
                        y = advance<T, D, NS>(small_at<T>(field->b), k, y, T(cursor.h), used);
                        if (!finite(y)) return at;
                    }
                }
                before += steps;
            }
            return to;
        };
        if (!p.given && sound) taken = forward(start, 0, total, layout.stride, 0);

        // Backwards. A lane enters a piece from its end, where a result's gradient arrives.
        Numbers<T, D> gradient;
#pragma unroll
        for (int i = 0; i < D; ++i) gradient.v[i] = T(0);
        auto arrive = [&](std::int64_t node) {
            const std::int64_t index = p.result[node];
            if (index < 0 || !here) return;
            const Numbers<T, D> g = read_state<T, D>(p, p.grad, index * p.samples + id);
#pragma unroll
            for (int i = 0; i < D; ++i) gradient.v[i] += g.v[i];
        };
        double gt_begin = 0, gt_end = 0;
        std::int64_t piece = last;
        cursor.enter(p, id, piece);
        cursor.number = cursor.steps;
        arrive(piece + 1);
        auto leave = [&] {  // towards the piece before
            if (p.want_t && here) p.gt[id * p.nodes + piece + 1] = gt_end;
            gt_end = gt_begin, gt_begin = 0;
        };
        std::int64_t longest = total;
        for (int bits = 16; bits; bits /= 2) {
            const std::int64_t other = __shfl_xor_sync(kAll, longest, bits);
            longest = other > longest ? other : longest;
        }
        for (std::int64_t n = longest - 1; n >= 0; --n) {
            const bool within = n < total;
            if (within) {
                while (cursor.number == 0) {
                    leave();
                    cursor.enter(p, id, --piece);
                    cursor.number = cursor.steps;
                    arrive(piece + 1);
                }
                --cursor.number;
            }
            bool moves = within && n < taken;
            Numbers<T, D> y;
            if (p.given) {
                y = kept_state<T, D>(p, static_cast<const T*>(p.given) + n * p.d * p.samples + id, p.samples);
                moves = moves && finite(y);  // steps that were not taken are marked
            } else if (moves) {
                std::int64_t slot = n;
                if (layout.stride > 1) {
                    const std::int64_t base = n / layout.stride * layout.stride;
                    if (n == taken - 1 || n == base + layout.stride - 1) {
                        const Cursor at = cursor;
                        forward(kept_state<T, D>(p, slot_of<T, D>(p, kept, base / layout.stride, threads), threads),
                                base, n + 1, 1, layout.checkpoints);
                        cursor = at;
                    }
                    slot = layout.checkpoints + n - base;
                }
                y = kept_state<T, D>(p, slot_of<T, D>(p, kept, slot, threads), threads);
            }
            Numbers<T, D> pushed, gk[NS];
#pragma unroll
            for (int i = 0; i < D; ++i) {
                if (!moves) y.v[i] = T(0);
                pushed.v[i] = moves ? gradient.v[i] : T(0);
#pragma unroll
                for (int j = 0; j < NS; ++j) gk[j].v[i] = T(0);
            }
            const Back<T, D> back =
                step_back<T, D, NS>(sums, y, moves ? T(cursor.h) : T(0), used, pushed, gk, p.want_t,
                                    [&](int j) { return moves ? cursor.stage_time(p, id, j) : 0.0; });
            if (!moves) continue;
            gradient = back.gradient;
            const double share = 1.0 / double(cursor.steps), begin = double(cursor.number) * share;
            gt_begin += double(back.gt) * (1 - begin) - double(back.gh) * share;
            gt_end += double(back.gt) * begin + double(back.gh) * share;
        }
        for (;;) {  // what lies before the first step: pieces without steps
            leave();
            if (piece == 0) break;
            cursor.enter(p, id, --piece);
            arrive(piece + 1);
        }
        if (p.want_t && here) p.gt[id * p.nodes] = gt_end;
        arrive(0);
        if (here) write_state<T, D>(p, p.gy, id, gradient);
        settle<T>(sums, own);
    }
}

template <class T, int D>
__global__ void __launch_bounds__(kPullThreads)
    pull_field(const __grid_constant__ Plan p, const std::int64_t offset, double* totals) {
    load_small<T, D, 4>(p);
    const Sums sums = take_sums<T, D>(p, offset);
    const std::int64_t threads = std::int64_t(gridDim.x) * blockDim.x;
    const std::int64_t thread = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (std::int64_t round = 0; round * threads < p.samples; ++round) {
        const std::int64_t id = round * threads + thread;
        const bool here = id < p.samples;
        Numbers<T, D> y, a;
#pragma unroll
        for (int i = 0; i < D; ++i) y.v[i] = a.v[i] = T(0);
        if (here) y = read_state<T, D>(p, p.y0, id), a = read_state<T, D>(p, p.cotangent, id);
        const Pulled<T, D> out = pull<T, D>(sums, here ? p.t[id * p.t_sample] : 0.0, y, a);
        if (here) {
            write_state<T, D>(p, p.gy, id, out.gy);
            if (p.gt) p.gt[id] = double(out.gt);
        }
        settle<T>(sums, totals + thread / kWarp * sums.count);
    }
}

}  // namespace

template <class T>
void small_vjp(const Plan& p, Stream stream, std::int64_t* bytes) {
    by_size(small_width_of(p.d), 4, [&](auto width, auto room) {
        constexpr int D = decltype(width)::value;
        if constexpr (decltype(room)::value == 4) {
            const PullShape shape = pull_shape<T, D>(p, 4, p.gparameters);
            if (bytes) {
                *bytes = shape.totals;
                return;
            }
            double* totals = static_cast<double*>(p.workspace);
            clear(totals, shape, stream);
            launch("ode: gradient of the field", pull_field<T, D>, unsigned(shape.blocks), kPullThreads,
                   std::size_t(shape.shared), stream, p, plan_sizes<T, D>(p, 4).bytes, totals);
            if (p.gparameters) launch_add_sums<T, D>(p, totals, shape.count, shape.warps, stream);
        }
    });
}

template <class T>
void small_reverse(const Plan& p, Stream stream, std::int64_t* bytes) {
    by_size(small_width_of(p.d), p.used, [&](auto width, auto room) {
        constexpr int D = decltype(width)::value, NS = decltype(room)::value;
        const PullShape shape = pull_shape<T, D>(p, NS, p.gparameters);
        const Kept kept = kept_states<T>(p, shape.threads);
        if (bytes) {
            *bytes = shape.totals + kept.slots * p.d * shape.threads * std::int64_t(sizeof(T));
            return;
        }
        double* totals = static_cast<double*>(p.workspace);
        T* states = reinterpret_cast<T*>(static_cast<char*>(p.workspace) + shape.totals);
        clear(totals, shape, stream);
        launch("ode: gradient through fixed steps", reverse_fixed<T, D, NS>, unsigned(shape.blocks), kPullThreads,
               std::size_t(shape.shared), stream, p, plan_sizes<T, D>(p, NS).bytes, totals, states, kept);
        if (p.gparameters) launch_add_sums<T, D>(p, totals, shape.count, shape.warps, stream);
    });
}

}  // namespace nnsym::cuda::ode
