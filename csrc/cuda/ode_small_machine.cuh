// SPDX-License-Identifier: MIT
// Adaptive steps, and fixed ones with an event: a thread takes the steps of one sample after another, by the decisions
// of ode_control.cuh. A warp's threads make their trial steps together, and take new samples together.
#pragma once
#include "ode_small.cuh"

namespace nnsym::cuda::ode {

// A sample of this thread, its state and the stages of its last step: references, so that each stays in registers.
template <class T, int D, int NS>
struct Runner {
    typedef Numbers<T, D> State;
    const Plan& p;
    const Powers<T>& powers;
    std::int64_t& id;
    Course<T>& c;
    State &y, &next, (&k)[NS];
    const Small<T>* field;

    __device__ __forceinline__ double time_of_stage(int j) const { return field->timed ? stage_time(p, c, j) : 0.0; }
    __device__ __forceinline__ void first_stage() { k[0] = evaluate<T, D, 1>(time_of_stage(0), y); }
    __device__ __forceinline__ T scaled_norm(const State& v) const {
        T sum = T(0);
#pragma unroll
        for (int i = 0; i < D; ++i) {
            const T part = v.v[i] / (fabs(y.v[i]) * small_at<T>(field->rtol)[i] + small_at<T>(field->atol)[i]);
            sum += part * part;
        }
        return sqrt(sum / T(p.d));
    }
    __device__ __forceinline__ T error() const {
        T sum[2] = {T(0), T(0)};
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            if (e >= p.errors) continue;
            State zero;
#pragma unroll
            for (int i = 0; i < D; ++i) zero.v[i] = T(0);
            const State x = advance<T, D, NS>(small_at<T>(field->error[e]), k, zero, T(c.h), p.stages);
#pragma unroll
            for (int i = 0; i < D; ++i) {
                const T a = fabs(y.v[i]), b = fabs(next.v[i]);
                const T part = x.v[i] / ((a > b ? a : b) * small_at<T>(field->rtol)[i] + small_at<T>(field->atol)[i]);
                sum[e] += part * part;
            }
        }
        return error_norm(p, sum[0], sum[1], p.d);
    }
    __device__ __forceinline__ double event_value(const State& at) const {
        double sum = -p.event_value;
#pragma unroll
        for (int i = 0; i < D; ++i) {
            const int r = component_of<D>(p.kind, p.d, i);
            if (r >= 0) sum += p.event[r] * double(at.v[i]);
        }
        return sum;
    }

    // The first state, its slope and the first step. False: it is not finite, or the times are not good.
    __device__ __forceinline__ bool begin(std::int64_t sample) {
        id = sample;
        y = read_state<T, D>(p, p.y0, id);
        const bool sound = sound_times(p, id);
        begin_course(p, c, id, finite(y) && sound);
        if (!sound) {
#pragma unroll
            for (int i = 0; i < D; ++i) y.v[i] = not_a_number<T>();
        }
        if (!c.active || p.fixed) return c.active;
        first_stage();
        if (p.control.first_step > 0) {
            c.wanted = p.control.first_step;
            return true;
        }
        const T d0 = scaled_norm(y), d1 = scaled_norm(k[0]);
        const double trial = first_trial(c, d0, d1), step = c.direction() * trial;
        State x;
#pragma unroll
        for (int i = 0; i < D; ++i) x.v[i] = activation::multiply_add(T(step), k[0].v[i], y.v[i]);
        x = evaluate<T, D, 1>(c.t + step, x);
#pragma unroll
        for (int i = 0; i < D; ++i) x.v[i] -= k[0].v[i];
        choose_first(p, powers, c, d1, scaled_norm(x), trial);
        return true;
    }

    // One trial step: whether it is taken; `status` unless negative: how the sample ends, before the step or with it.
    __device__ __forceinline__ bool attempt(int& status) {
        status = -1;
        if (p.fixed) {
            bool fresh;
            plan_fixed_step(p, c, id, fresh);
            if (!p.fsal || fresh) first_stage();
        } else if (!plan_step(p, c, status)) {
            return false;
        }
        // An event is found on real steps: the loop repeats for those who look for it.
        enum { kTrial, kSearch, kLast } mode = kTrial;
        Crossing crossing(0, 0, 0);
        for (;;) {
#pragma unroll
            for (int j = 1; j < NS; ++j) {
                if (j >= p.stages) continue;
                k[j] = evaluate<T, D, 1>(time_of_stage(j),
                                         advance<T, D, NS>(small_at<T>(field->a + j * NS), k, y, T(c.h), j));
            }
            next = advance<T, D, NS>(small_at<T>(field->b), k, y, T(c.h), p.used);
            if (mode == kLast) break;
            if (mode == kTrial) {
                const bool sound = finite(next);
                if (p.fixed && !sound) status = core::kNonFinite;
                if (p.fixed ? !sound : !judge_step(p, powers, c, error(), sound)) return false;
                if (!p.event) break;
                const double before = event_value(y), after = event_value(next);
                if (!crosses(p, before, after)) break;
                crossing = Crossing(c, before, after);
                mode = kSearch;
            } else {
                crossing.found(c, event_value(next));
            }
            if (!crossing.propose(c)) crossing.settle(c), mode = kLast;
        }
        if (mode == kLast) status = core::kEvent;
        return true;
    }
    __device__ __forceinline__ void extra_stages() {
#pragma unroll
        for (int j = 2; j < NS; ++j) {
            if (j < p.stages || j >= p.stages + p.extra) continue;
            k[j] =
                evaluate<T, D, 1>(time_of_stage(j), advance<T, D, NS>(small_at<T>(field->a + j * NS), k, y, T(c.h), j));
        }
    }
    __device__ __forceinline__ T dense_weight(int j, T theta) const {
        const T* row = small_at<T>(field->dense + j * p.terms);
        T sum = row[p.terms - 1];
        for (int n = p.terms - 2; n >= 0; --n) sum = activation::multiply_add(sum, theta, row[n]);
        return sum * theta;
    }
    __device__ __forceinline__ State dense(double theta) const {
        State out;
#pragma unroll
        for (int i = 0; i < D; ++i) out.v[i] = T(0);
#pragma unroll
        for (int j = 0; j < NS; ++j) {
            if (j >= p.stages + p.extra) continue;
            const T w = dense_weight(j, T(theta));
#pragma unroll
            for (int i = 0; i < D; ++i) out.v[i] = activation::multiply_add(w, k[j].v[i], out.v[i]);
        }
#pragma unroll
        for (int i = 0; i < D; ++i) out.v[i] = activation::multiply_add(T(c.h), out.v[i], y.v[i]);
        return out;
    }
    // After its results: the adaptive step is taken, and the slope at its end known, unless the sample ends there.
    __device__ __forceinline__ void take(double after, bool ends) {
        y = next;
        if (p.fsal) {
#pragma unroll
            for (int j = 1; j < NS; ++j)
                if (j == p.stages - 1) k[0] = k[j];
        }
        if (take_step(p, c, after) && !ends) first_stage();
    }
};

namespace {

template <class T, int D, int NS>
__global__ void __launch_bounds__(kSmallThreads) integrate_steps(const __grid_constant__ Plan p) {
    load_small<T, D, NS>(p);
    const Powers<T> powers(p);
    std::int64_t id = -1;
    Course<T> c;
    c.active = false;
    Numbers<T, D> y{}, next{}, k[NS]{};
    Runner<T, D, NS> run{p, powers, id, c, y, next, k, &small_header<T>()};
    std::int64_t coming = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const std::int64_t threads = std::int64_t(gridDim.x) * blockDim.x;
    auto write = [&](std::int64_t index, const Numbers<T, D>& y) {
        if (p.ys) write_state<T, D>(p, p.ys, index * p.samples + run.id, y);
    };
    auto finish = [&](int status) {
        c.active = false;
        write_end(p, c, run.id, status);
        if (p.y_end) write_state<T, D>(p, p.y_end, run.id, run.y);
        for (std::int64_t i = c.result; i < p.results && p.ys; ++i) write_nan<T, D>(p, p.ys, i * p.samples + run.id);
    };
    for (;;) {
        const unsigned idle = __ballot_sync(kAll, !c.active && coming < p.samples);
        const unsigned running = __ballot_sync(kAll, c.active);
        if (!idle && !running) return;
        // New samples wait for each other, as their first slopes cost the warp as much as a part of a step.
        if (!c.active && coming < p.samples && (__popc(idle) >= kWarp / 4 || !running)) {
            if (run.begin(coming))
                write(0, run.y);
            else
                finish(core::kNonFinite);
            coming += threads;
        }
        if (!c.active) continue;
        if (p.fixed) {
            std::int64_t index;
            while (arrives_at(p, c, run.id, index))
                if (index >= 0) write(index, run.y);
            if (at_end(p, c)) {
                finish(core::kSuccess);
                continue;
            }
        }
        int status;
        const bool taken = run.attempt(status);
        if (taken && p.fixed) {
            run.y = run.next;
            if (p.fsal) {
#pragma unroll
                for (int j = 1; j < NS; ++j)
                    if (j == p.stages - 1) run.k[0] = run.k[j];
            }
            if (status < 0)
                take_fixed_step(p, c, run.id);
            else
                ++c.accepted, c.t += c.h;
        } else if (taken) {
            const double after = end_of_step(p, c);
            double theta;
            bool extended = false;
            while (result_inside(c, after, theta)) {
                if (theta != 1 && !extended) run.extra_stages(), extended = true;
                write(c.result, theta == 1 ? run.next : run.dense(theta));
                next_result(p, c, run.id);
            }
            if (status < 0 && arrived(c)) status = core::kSuccess;
            run.take(after, status >= 0);
        }
        if (status >= 0) finish(status);
    }
}

}  // namespace

template <class T>
void small_machine(const Plan& p, Stream stream) {
    by_size(small_width_of(p.d), p.stages + p.extra, [&](auto width, auto room) {
        constexpr int D = decltype(width)::value, NS = decltype(room)::value;
        const std::int64_t most = std::int64_t(multiprocessors()) * 8, blocks = divide_up(p.samples, kSmallThreads);
        launch(p.fixed ? "ode: fixed steps" : "ode: adaptive steps", integrate_steps<T, D, NS>,
               unsigned(blocks < most ? blocks : most), kSmallThreads, std::size_t(plan_sizes<T, D>(p, NS).bytes),
               stream, p);
    });
}

}  // namespace nnsym::cuda::ode
