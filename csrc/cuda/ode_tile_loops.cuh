// SPDX-License-Identifier: MIT
// Loops over steps in tiles: events, steps that the error controls, fixed ones.
#pragma once
#include "ode_tile_steps.cuh"

namespace nnsym::cuda::ode {

// --- events

template <class T>
__device__ double Tile<T>::event_value(const T* state) {
    double sum = 0;
    for (int r = warp(); r < plan.d; r += warps()) sum += plan.event[r] * double(state[r * kSamples + lane()]);
    __syncthreads();
    sums_of_events[warp()][lane()] = sum;
    __syncthreads();
    sum = -plan.event_value;
    for (int w = 0; w < warps(); ++w) sum += sums_of_events[w][lane()];
    return sum;
}
// Splits `taken` into the samples whose step crosses the event's level, and the others.
template <class T>
__device__ void Tile<T>::find_crossings() {
    bool mine = false;
    if (plan.event) {
        const double before = event_value(y), behind = event_value(next);
        mine = bit(taken) && crosses(plan, before, behind);
    }
    const unsigned found = __ballot_sync(kAll, mine);
    __syncthreads();
    if (threadIdx.x == 0) crossing = found, taken &= ~found;
    __syncthreads();
}
// Shortens the steps of crossing samples to end just behind the crossing; leaves these steps in `next`.
template <class T>
__device__ void Tile<T>::search() {
    const bool mine = bit(crossing);
    const double before = event_value(y), behind = event_value(next);
    Crossing level(course[lane()].h, before, behind);
    if (warp() == 0 && mine) level.begin(course[lane()]);
    __syncthreads();
    for (;;) {
        bool going = false;
        if (warp() == 0) {
            Course<T>& c = course[lane()];
            going = mine && level.propose(c);
            if (!going) c.h = 0;
            step[lane()] = T(c.h);
        }
        if (!__syncthreads_or(going)) break;
        take_stages();
        const double value = event_value(next);
        if (going) level.found(course[lane()], value);
    }
    if (warp() == 0) {
        Course<T>& c = course[lane()];
        c.h = mine ? level.high : 0;
        step[lane()] = T(c.h);
    }
    __syncthreads();
    take_stages();
}

// --- adaptive steps

// One attempt of all samples under way; false: there are none.
template <class T>
__device__ bool Tile<T>::attempt_adaptive() {
    if (warp() == 0) {
        Course<T>& c = course[lane()];
        bool going = c.active;
        if (going) {
            int reason = core::kSuccess;
            going = plan_step(plan, c, reason);
            if (!going) c.active = false, status[lane()] = reason;
        }
        if (!going) c.h = 0;
        step[lane()] = T(c.h);
        const unsigned found = __ballot_sync(kAll, going);
        if (lane() == 0) trying = found;
    }
    __syncthreads();
    if (!trying) return false;
    if (adjoint()) first_stage(k);
    take_stages();
    T sum[3] = {};  // two errors; not 0 where the new state is not finite
    rows_of(rows(), [&](int r, int at) {
        const T scale = tolerance(larger_of(activation::magnitude(y[at]), activation::magnitude(next[at])), r);
        for (int e = 0; e < plan.errors; ++e) {
            T error = T(0);
            for (int q = plan.error[e].begin; q < plan.error[e].end; ++q)
                error += stage(plan.stage[q])[at] * T(plan.number[q]);
            error = step[lane()] * error / scale;
            if (e == 0)
                sum[0] += error * error;
            else
                sum[1] += error * error;
        }
        sum[2] += next[at] - next[at];
    });
    add_up(sum);
    if (warp() == 0) {
        bool good = bit(trying);
        if (good)
            good = judge_step(plan, Powers<T>(plan), course[lane()], error_norm(plan, sum[0], sum[1], rows()),
                              sum[2] == T(0));
        const unsigned found = __ballot_sync(kAll, good);
        if (lane() == 0) taken = found;
    }
    __syncthreads();
    find_crossings();
    accept(taken);
    if (crossing) {
        search();
        accept(crossing);
        if (warp() == 0 && bit(crossing)) course[lane()].active = false, status[lane()] = core::kEvent;
    }
    if (warp() == 0 && bit(taken) && arrived(course[lane()])) course[lane()].active = false;
    __syncthreads();
    return true;
}
// Takes the trial steps of some samples: results inside them, the new state and its slope.
template <class T>
__device__ void Tile<T>::accept(unsigned mask) {
    if (!mask) return;
    if (warp() == 0) after[lane()] = bit(mask) ? end_of_step(plan, course[lane()]) : 0;
    __syncthreads();
    keep_step(mask, nullptr);
    write_inside(mask);
    commit(mask);
    if (warp() == 0) {
        const bool again = bit(mask) && take_step(plan, course[lane()], after[lane()]);
        const unsigned found = __ballot_sync(kAll, again);
        if (lane() == 0) anew = found;
    }
    __syncthreads();
    if (adjoint() || !anew) return;
    if (plan.fsal)
        first_stage_of(anew);
    else
        first_stage(k);
}
// Results at times inside the steps, round by round until every sample has its own.
template <class T>
__device__ void Tile<T>::write_inside(unsigned mask) {
    for (bool extended = false;;) {
        if (warp() == 0) {
            double place = 0;
            const bool mine = bit(mask) && result_inside(course[lane()], after[lane()], place);
            theta[lane()] = place;
            index[lane()] = mine ? course[lane()].result : -1;
            const unsigned found = __ballot_sync(kAll, mine), inside = __ballot_sync(kAll, mine && place != 1);
            if (lane() == 0) here = found, within = inside;
        }
        __syncthreads();
        if (!here) return;
        if (within && plan.ys) {
            if (!extended) extra_stages();
            extended = true;
            dense(work);
        }
        if (plan.ys && bit(here)) write_row(theta[lane()] == 1 ? next : work, index[lane()] * plan.samples + id());
        __syncthreads();
        if (warp() == 0 && bit(here)) next_result(plan, course[lane()], id());
    }
}

// --- fixed steps

// Goes on to the next pieces, results on the way, where samples are at the end of theirs; then who is at the last node
// has arrived.
template <class T>
__device__ void Tile<T>::arrive() {
    for (;;) {
        if (warp() == 0) {
            Course<T>& c = course[lane()];
            std::int64_t place = -1;
            const bool mine = c.active && arrives_at(plan, c, id(), place);
            index[lane()] = place;
            if (c.active && !mine && at_end(plan, c)) c.active = false;
            const unsigned found = __ballot_sync(kAll, mine);
            if (lane() == 0) more = found;
        }
        __syncthreads();
        if (!more) return;
        if (plan.ys && index[lane()] >= 0) write_row(y, index[lane()] * plan.samples + id());
        __syncthreads();
    }
}
template <class T>
__device__ bool Tile<T>::attempt_fixed() {
    if (warp() == 0) {
        Course<T>& c = course[lane()];
        bool again = false;
        if (c.active)
            plan_fixed_step(plan, c, id(), again);
        else
            c.h = 0;
        step[lane()] = T(c.h), trial[lane()] = c.h;
        const unsigned found = __ballot_sync(kAll, c.active), renewed = __ballot_sync(kAll, again);
        if (lane() == 0) trying = found, fresh = renewed;
    }
    __syncthreads();
    if (!trying) return false;
    if (plan.states && bit(trying)) {
        T* kept = static_cast<T*>(plan.states) + (course[lane()].trials - 1) * rows() * plan.samples + id();
        for (int r = warp(); r < rows(); r += warps()) kept[r * plan.samples] = y[r * kSamples + lane()];
    }
    if (!plan.fsal || adjoint())
        first_stage(k);
    else if (fresh)
        first_stage_of(fresh);
    take_stages();
    T bad[1] = {};
    rows_of(rows(), [&](int, int at) { bad[0] += next[at] - next[at]; });
    add_up(bad);
    if (warp() == 0) {
        const bool good = bit(trying) && bad[0] == T(0);
        if (bit(trying) && !good) course[lane()].active = false, status[lane()] = core::kNonFinite;
        const unsigned found = __ballot_sync(kAll, good);
        if (lane() == 0) taken = found;
    }
    __syncthreads();
    find_crossings();
    if (taken) {
        keep_step(taken, nullptr);
        commit(taken);
        if (warp() == 0 && bit(taken)) take_fixed_step(plan, course[lane()], id());
        __syncthreads();
    }
    if (crossing) {
        search();
        keep_step(crossing, trial);
        commit(crossing);
        if (warp() == 0 && bit(crossing)) {
            Course<T>& c = course[lane()];
            ++c.accepted;
            c.t += c.h;
            c.active = false, status[lane()] = core::kEvent;
        }
        __syncthreads();
    }
    arrive();
    return true;
}

}  // namespace nnsym::cuda::ode
