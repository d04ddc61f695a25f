// SPDX-License-Identifier: MIT
// The steps of a tile: every sample has its own step and status, all stages are evaluated together.
#pragma once
#include "ode_tile_geodesics.cuh"

namespace nnsym::cuda::ode {

// --- one step. `step`: h of every sample, 0 where none is made

template <class T>
__device__ void Tile<T>::set_times(int j) {  // no barrier
    if (warp() == 0 && timed()) time[lane()] = stage_time(plan, course[lane()], j);
}
// out = sum_j weight_j k_j. No barrier.
template <class T>
__device__ void Tile<T>::combine(PlanRow row, T* out) const {
    rows_of(rows(), [&](int, int at) {
        T sum = T(0);
        for (int q = row.begin; q < row.end; ++q) sum += stage(plan.stage[q])[at] * T(plan.number[q]);
        out[at] = sum;
    });
}
// out = y + h sum_j weight_j k_j. No barrier.
template <class T>
__device__ void Tile<T>::advance(PlanRow row, T* out) const {
    const T h = step[lane()];
    rows_of(rows(), [&](int, int at) {
        T sum = T(0);
        for (int q = row.begin; q < row.end; ++q) sum += stage(plan.stage[q])[at] * T(plan.number[q]);
        out[at] = y[at] + h * sum;
    });
}
// out = the slope at the argument (rows, and one more that is written)
template <class T>
__device__ void Tile<T>::evaluate(T* argument, T* out) {
    if (!adjoint()) return eval(argument, out, plan.kind == core::kMetric ? tape : nullptr);
    copy(argument, tape, plan.d);
    __syncthreads();
    eval(tape, out, tape);
    vjp(tape, argument + plan.d * kSamples, work);
    T* slope = out + plan.d * kSamples;
    rows_of(plan.d, [&](int, int at) { slope[at] = -work[at]; });
    __syncthreads();
}
template <class T>
__device__ void Tile<T>::first_stage(T* out) {
    set_times(0);
    copy(y, x, rows());
    __syncthreads();
    evaluate(x, out);
}
// The first stage of some samples; that of the others stays.
template <class T>
__device__ void Tile<T>::first_stage_of(unsigned mask) {
    first_stage(work);
    rows_of(rows(), [&](int, int at) { k[at] = bit(mask) ? work[at] : k[at]; });
    __syncthreads();
}
// The stages after the first one, and the state at the end of the step.
template <class T>
__device__ void Tile<T>::take_stages() {
    for (int j = 1; j < plan.stages; ++j) {
        set_times(j);
        advance(plan.a[j], x);
        __syncthreads();
        evaluate(x, stage(j));
    }
    advance(plan.b, next);
    __syncthreads();
}
template <class T>
__device__ void Tile<T>::extra_stages() {
    for (int j = plan.stages; j < layout.total; ++j) {
        set_times(j);
        advance(plan.a[j], x);
        __syncthreads();
        evaluate(x, stage(j));
    }
}
template <class T>
__device__ T Tile<T>::dense_weight(int j, T at) const {
    const double* row = plan.number + plan.dense + j * plan.terms;
    T sum = T(row[plan.terms - 1]);
    for (int p = plan.terms - 2; p >= 0; --p) sum = sum * at + T(row[p]);
    return sum * at;
}
// d weight / d theta
template <class T>
__device__ T Tile<T>::dense_slope(int j, T at) const {
    const double* row = plan.number + plan.dense + j * plan.terms;
    T sum = T(plan.terms * row[plan.terms - 1]);
    for (int p = plan.terms - 2; p >= 0; --p) sum = sum * at + T((p + 1) * row[p]);
    return sum;
}
// The states at t + theta h. No barrier.
template <class T>
__device__ void Tile<T>::dense(T* out) const {
    const T h = step[lane()], at_theta = T(theta[lane()]);
    rows_of(rows(), [&](int, int at) { out[at] = T(0); });
    for (int j = 0; j < layout.total; ++j) {
        const T weight = dense_weight(j, at_theta);
        const T* from = stage(j);
        rows_of(rows(), [&](int, int at) { out[at] += weight * from[at]; });
    }
    rows_of(rows(), [&](int, int at) { out[at] = y[at] + h * out[at]; });
}
template <class T>
__device__ T Tile<T>::tolerance(T size, int r) const {
    const int component = r < plan.d ? r : r - plan.d;
    return size * T(plan.rtol[component]) + T(plan.atol[component]);
}

// --- beginning and end

template <class T>
__device__ void Tile<T>::write_row(const T* state, std::int64_t place) const {  // one state of the lane's sample
    T* out = static_cast<T*>(plan.ys) + place * rows();
    for (int r = warp(); r < rows(); r += warps()) out[r] = state[r * kSamples + lane()];
}
template <class T>
__device__ void Tile<T>::begin(std::int64_t tile) {
    __syncthreads();
    if (threadIdx.x == 0) {
        first = tile * kSamples;
        count = int(plan.samples - first < kSamples ? plan.samples - first : kSamples);
    }
    __syncthreads();
    const bool here_is_one = lane() < count;
    const int d = plan.d;
    T bad[1] = {};
    for (int r = warp(); r < rows(); r += warps()) {
        const void* from = r < d ? plan.y0 : plan.cotangent;
        const T v = here_is_one ? static_cast<const T*>(from)[id() * d + (r < d ? r : r - d)] : T(0);
        y[r * kSamples + lane()] = v;
        bad[0] += v - v;
    }
    add_up(bad);
    bool finite = bad[0] == T(0);
    if (warp() == 0) {
        Course<T>& c = course[lane()];
        finite = finite && here_is_one && sound_times(plan, id());
        const unsigned found = __ballot_sync(kAll, finite);
        if (lane() == 0) fresh = found;
        if (here_is_one) {
            begin_course(plan, c, id(), finite);
            status[lane()] = finite ? core::kSuccess : core::kNonFinite;
            if (!plan.fixed && plan.nodes < 2) c.active = false;
        } else {
            c = Course<T>{};
            c.forward = true;
        }
        step[lane()] = T(0), time[lane()] = 0;
    }
    __syncthreads();
    finite = bit(fresh);
    // States that are not finite count as zero, so that the field is evaluated somewhere.
    if (!finite) {
        if (plan.y_end && here_is_one) {
            T* out = static_cast<T*>(plan.y_end) + id() * rows();
            const T wrong_times = T(__longlong_as_double(0x7ff8000000000000));
            for (int r = warp(); r < rows(); r += warps())
                out[r] = bad[0] == T(0) ? wrong_times : y[r * kSamples + lane()];
        }
        rows_of(rows(), [&](int, int at) { y[at] = T(0); });
    } else if (plan.ys && here_is_one) {
        write_row(y, id());
    }
    __syncthreads();
    if (plan.fixed)
        arrive();
    else
        choose_first_steps();
}
// The first slopes and steps.
template <class T>
__device__ void Tile<T>::choose_first_steps() {
    if (!__syncthreads_or(course[lane()].active)) return;
    first_stage(k);
    if (plan.control.first_step > 0) {
        if (warp() == 0) course[lane()].wanted = plan.control.first_step;
        __syncthreads();
        return;
    }
    T sum[2] = {};
    rows_of(rows(), [&](int r, int at) {
        const T scale = tolerance(activation::magnitude(y[at]), r), a = y[at] / scale, b = k[at] / scale;
        sum[0] += a * a;
        sum[1] += b * b;
    });
    add_up(sum);
    const T d0 = sqrt(sum[0] / T(rows())), d1 = sqrt(sum[1] / T(rows()));
    if (warp() == 0) {
        const Course<T>& c = course[lane()];
        trial[lane()] = c.active ? first_trial(c, d0, d1) : 0;
        const double h = c.direction() * trial[lane()];
        step[lane()] = T(h), time[lane()] = c.t + h;
    }
    __syncthreads();
    rows_of(rows(), [&](int, int at) { x[at] = y[at] + step[lane()] * k[at]; });
    __syncthreads();
    T* second = stage(plan.stages - 1);
    evaluate(x, second);
    T change[1] = {};
    rows_of(rows(), [&](int r, int at) {
        const T part = (second[at] - k[at]) / tolerance(activation::magnitude(y[at]), r);
        change[0] += part * part;
    });
    add_up(change);
    if (warp() == 0 && course[lane()].active)
        choose_first(plan, Powers<T>(plan), course[lane()], d1, T(sqrt(change[0] / T(rows()))), trial[lane()]);
    __syncthreads();
}
// What the end of every sample leaves: the state, nan for the results after it, status and counts.
template <class T>
__device__ void Tile<T>::write_ends() {
    if (lane() < count) {
        const bool was_finite = course[lane()].result > 0;
        if (plan.y_end && was_finite) {
            T* out = static_cast<T*>(plan.y_end) + id() * rows();
            for (int r = warp(); r < rows(); r += warps()) out[r] = y[r * kSamples + lane()];
        }
        if (warp() == 0) write_end(plan, course[lane()], id(), status[lane()]);
        const T nan = T(__longlong_as_double(0x7ff8000000000000));
        // States before steps that were not taken are marked.
        for (std::int64_t n = course[lane()].accepted; plan.states && n < plan.kept_steps; ++n)
            for (int r = warp(); r < rows(); r += warps())
                static_cast<T*>(plan.states)[(n * rows() + r) * plan.samples + id()] = nan;
        for (std::int64_t i = course[lane()].result; plan.ys && i < plan.results; ++i) {
            T* out = static_cast<T*>(plan.ys) + (i * plan.samples + id()) * rows();
            for (int r = warp(); r < rows(); r += warps()) out[r] = nan;
        }
    }
    __syncthreads();
}

// --- taking steps

// Adjoint: the gradient of the parameters over the step just made, of the samples that take it.
template <class T>
__device__ void Tile<T>::accumulate_step(unsigned mask) {
    const int one = __ffs(int(mask)) - 1, d = plan.d;
    for (int q = plan.b.begin; q < plan.b.end; ++q) {
        const int j = plan.stage[q];
        set_times(j);
        advance(plan.a[j], x);
        __syncthreads();
        // Samples that do not take the step repeat one that does.
        if (warp() == 0 && !bit(mask)) time[lane()] = time[one];
        rows_of(d, [&](int r, int at) { tape[at] = bit(mask) ? x[at] : x[r * kSamples + one]; });
        T* a = x + d * kSamples;
        rows_of(d, [&](int r, int at) { spare[at] = bit(mask) ? a[at] : a[r * kSamples + one]; });
        __syncthreads();
        eval(tape, work, tape);
        vjp(tape, spare, work);
        weigh(tape, bit(mask) ? T(-plan.number[q] * course[lane()].h) : T(0));
        accumulate(tape);
        __syncthreads();
    }
}
// `next` becomes the state of the samples that take the step; with fsal its last stage is their first one.
template <class T>
__device__ void Tile<T>::commit(unsigned mask) {
    if (adjoint() && sums) accumulate_step(mask);
    const T* last = stage(plan.stages - 1);
    const bool fsal = plan.fsal && !adjoint();
    rows_of(rows(), [&](int, int at) {
        y[at] = bit(mask) ? next[at] : y[at];
        if (fsal) k[at] = bit(mask) ? last[at] : k[at];
    });
    __syncthreads();
}
// Gradient: the step that the samples are about to take. whole: fixed steps before they were shortened by an event.
template <class T>
__device__ void Tile<T>::keep_step(unsigned mask, const double* whole) {
    if (!record) return;
    const std::int64_t n = steps_taken - record_low;
    const bool kept = steps_taken >= record_low && steps_taken < record_high;
    if ((kept || steps_taken == record_high) && warp() == 0) {
        const Course<T>& c = course[lane()];
        StepRecord& s = record[n * kSamples + lane()];
        s.first_result = c.result;
        if (kept) {
            s.t = c.t, s.h = bit(mask) ? c.h : 0, s.closing = c.closing, s.after = after[lane()];
            s.piece = c.piece, s.late = c.late, s.early = c.early;
            const double share = plan.fixed && c.steps ? 1.0 / double(c.steps) : 0;
            s.begin = double(c.number) * share;
            s.part = whole && bit(mask) ? share * (c.h / whole[lane()]) : share;
        }
    }
    if (kept) copy(y, states + n * rows() * kSamples, rows());
    __syncthreads();
    if (threadIdx.x == 0) ++steps_taken;
    __syncthreads();
}

}  // namespace nnsym::cuda::ode
