// SPDX-License-Identifier: MIT
// The reverse pass through the steps that were taken. A tile is integrated once more with its steps recorded; then,
// from the last step to the first, the stages are computed again and the gradient goes back through them.
//
// Records fill a fixed memory. Where there are more steps, snapshots of the integration are kept, fewer as it grows
// longer, and the steps are recorded part by part from the last one, each part by integrating again from the snapshot
// before it; snapshots on the way take the places of those that are no longer needed. Integrating again takes the same
// steps to the last bit.
#pragma once
#include "ode_tile_launch.h"
#include "ode_tile_loops.cuh"

namespace nnsym::cuda::ode {

// --- snapshots and records

template <class T>
__device__ void Tile<T>::exchange_snapshot(int slot, bool keep) {
    unsigned char* at = snapshots + slot * layout.snapshot_bytes;
    const int n = rows() * kSamples;
    T* kept = reinterpret_cast<T*>(at);
    unsigned* other = reinterpret_cast<unsigned*>(kept + 2 * n);
    unsigned* courses = reinterpret_cast<unsigned*>(course);
    constexpr int words = int(sizeof(course) / 4);
    __syncthreads();
    if (keep) {
        copy(y, kept, rows());
        copy(k, kept + n, rows());
        for (int i = int(threadIdx.x); i < words; i += int(blockDim.x)) other[i] = courses[i];
    } else {
        copy(kept, y, rows());
        copy(kept + n, k, rows());
        for (int i = int(threadIdx.x); i < words; i += int(blockDim.x)) courses[i] = other[i];
    }
    __syncthreads();
}
// A snapshot of now. Where there is no place, every other one is given up, or with thin = false this one.
template <class T>
__device__ void Tile<T>::push_snapshot(bool thin) {
    if (snapshot_count == kSnapshots) {
        if (!thin) return;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < kSnapshots / 2; ++i) {
                const std::int32_t place = snapshot_place[i];
                snapshot_place[i] = snapshot_place[2 * i], snapshot_place[2 * i] = place;
                snapshot_at[i] = snapshot_at[2 * i];
            }
            snapshot_count = kSnapshots / 2;
            spacing *= 2;
        }
        __syncthreads();
    }
    exchange_snapshot(snapshot_place[snapshot_count], true);
    if (threadIdx.x == 0) snapshot_at[snapshot_count++] = steps_taken;
    __syncthreads();
}
// The number of the next result belongs to the record after the last one.
template <class T>
__device__ void Tile<T>::close_records() {
    const std::int64_t n = steps_taken - record_low;
    if (warp() == 0 && steps_taken >= record_low && steps_taken <= record_high)
        record[n * kSamples + lane()].first_result = course[lane()].result;
    __syncthreads();
}
// Records the steps from low to high.
template <class T>
__device__ void Tile<T>::replay(std::int64_t low, std::int64_t high) {
    __syncthreads();
    if (threadIdx.x == 0) {
        while (snapshot_count > 1 && snapshot_at[snapshot_count - 1] > low) --snapshot_count;
        steps_taken = snapshot_at[snapshot_count - 1];
        record_low = low, record_high = high;
        const std::int64_t places = kSnapshots - snapshot_count + 1, apart = (low - steps_taken + places - 1) / places;
        spacing = apart > layout.record_count ? apart : layout.record_count;
    }
    __syncthreads();
    exchange_snapshot(snapshot_place[snapshot_count - 1], false);
    while (steps_taken < high && attempt())
        if (steps_taken <= low && steps_taken >= snapshot_at[snapshot_count - 1] + spacing) push_snapshot(false);
    close_records();
}

// --- one step

// Gradients of results in the step, or at its end: to `back`, the gradient of the state after it, or to `gx`, that of
// the state before it, and `gk`, those of the stages.
template <class T>
__device__ void Tile<T>::take_outputs() {
    const int d = plan.d;
    for (std::int64_t q = 0;; ++q) {
        if (warp() == 0) {
            const std::int64_t place = outputs_from[lane()] + q;
            const bool mine = place < outputs_to[lane()];
            index[lane()] = mine ? place : -1;
            theta[lane()] = 0;
            if (mine) {
                const Course<T>& c = course[lane()];
                const double due = plan.fixed ? 0 : time_of(plan, id(), place);
                theta[lane()] = plan.fixed || due == after[lane()] ? 1 : (due - c.t) / c.h;
            }
        }
        if (!__syncthreads_or(warp() == 0 && index[lane()] >= 0)) return;
        const std::int64_t place = index[lane()];
        const bool at_the_end = theta[lane()] == 1;
        const T where = T(theta[lane()]), h = step[lane()];
        rows_of(d, [&](int r, int at) {
            spare[at] = place >= 0 ? static_cast<const T*>(plan.grad)[(place * plan.samples + id()) * d + r] : T(0);
        });
        if (plan.want_t && !plan.fixed) {
            T along[1] = {};
            for (int j = 0; j < layout.total; ++j) {
                const T weight = dense_slope(j, where);
                const T* from = stage(j);
                rows_of(d, [&](int, int at) { along[0] += weight * spare[at] * from[at]; });
            }
            add_up(along);
            if (warp() == 0 && place >= 0) plan.gt[id() * plan.nodes + place] += double(along[0]);
        }
        if (place >= 0 && at_the_end) rows_of(d, [&](int, int at) { back[at] += spare[at]; });
        if (place >= 0 && !at_the_end) {
            rows_of(d, [&](int, int at) { gx[at] += spare[at]; });
            for (int j = 0; j < layout.total; ++j) {
                const T weight = dense_weight(j, where) * h;
                T* into = gk + std::int64_t(j) * d * kSamples;
                rows_of(d, [&](int, int at) { into[at] += weight * spare[at]; });
            }
        }
        __syncthreads();
    }
}

// The state before the step is in y, the gradient of the state after it in `back`; times, steps and results are set.
template <class T>
__device__ void Tile<T>::reverse_step(unsigned moving) {
    const int d = plan.d, one = __ffs(int(moving)) - 1;
    const bool moves = bit(moving), times = plan.want_t && plan.fixed;
    // Samples that took no step repeat one that did: whatever the field is at its state, it can be evaluated.
    rows_of(d, [&](int r, int at) { y[at] = moves ? y[at] : y[r * kSamples + one]; });
    bool mine = false;
    if (warp() == 0 && !plan.fixed && outputs_from[lane()] < outputs_to[lane()])
        mine = plan.want_t || time_of(plan, id(), outputs_from[lane()]) != after[lane()];
    const bool inside = __syncthreads_or(mine);
    const int stages = inside ? layout.total : plan.used;
    for (int j = 0; j < (plan.want_t || inside ? stages : stages - 1); ++j) {
        set_times(j);
        advance(plan.a[j], x);
        __syncthreads();
        evaluate(x, stage(j));
    }
    rows_of(stages * d, [&](int, int at) { gk[at] = T(0); });
    rows_of(d, [&](int, int at) { gx[at] = T(0); });
    __syncthreads();
    take_outputs();
    const T h = step[lane()];
    T along[2] = {};  // of the length of the step, and of its time
    if (times)
        rows_of(d, [&](int, int at) {
            T sum = T(0);
            for (int q = plan.b.begin; q < plan.b.end; ++q) sum += stage(plan.stage[q])[at] * T(plan.number[q]);
            along[0] += back[at] * sum;
        });
    rows_of(d, [&](int, int at) {
        for (int q = plan.b.begin; q < plan.b.end; ++q)
            gk[std::int64_t(plan.stage[q]) * d * kSamples + at] += h * T(plan.number[q]) * back[at];
        back[at] += gx[at];
    });
    __syncthreads();
    for (int j = stages - 1; j >= 0; --j) {
        const PlanRow row = plan.a[j];
        set_times(j);
        advance(row, tape);
        __syncthreads();
        eval(tape, stage(j), tape);
        const T part_along = vjp(tape, gk + std::int64_t(j) * d * kSamples, gx);
        if (sums) accumulate(tape);
        rows_of(d, [&](int, int at) {
            const T g = moves ? gx[at] : T(0);
            T sum = T(0);
            for (int q = row.begin; q < row.end; ++q) {
                const std::int64_t place = std::int64_t(plan.stage[q]) * d * kSamples + at;
                const T weight = T(plan.number[q]);
                gk[place] += h * weight * g;
                if (times) sum += k[place] * weight;
            }
            along[0] += g * sum;
            back[at] += g;
        });
        along[0] += part_along * T(plan.c[j]), along[1] += part_along;
        __syncthreads();
    }
    if (!times) return;
    add_up(along);
    if (warp() == 0 && moves) {
        // A step from t_p + before D of length share D, D the length of the piece.
        double* out = plan.gt + id() * plan.nodes + course[lane()].piece;
        const double a = along[0], b = along[1], before = share_before[lane()], length = share[lane()];
        out[0] += b * (1 - before) - a * length;
        out[1] += b * before + a * length;
    }
    __syncthreads();
}

// --- the steps of a tile

template <class T>
__device__ void Tile<T>::begin_reverse() {
    rows_of(plan.d, [&](int, int at) { back[at] = T(0); });
    if (plan.want_t && lane() < count)
        for (std::int64_t i = warp(); i < plan.nodes; i += warps()) plan.gt[id() * plan.nodes + i] = 0;
    __syncthreads();
}
template <class T>
__device__ void Tile<T>::reverse_recorded(std::int64_t low, std::int64_t high) {
    for (std::int64_t n = high - 1; n >= low; --n) {
        const std::int64_t place = (n - low) * kSamples;
        const bool moves = record[place + lane()].h != 0;
        const unsigned moving = __ballot_sync(kAll, moves);
        if (warp() == 0) {
            // Times of samples that took no step are those of one that did, too.
            const StepRecord& s = record[place + (moves ? lane() : __ffs(int(moving)) - 1)];
            Course<T>& c = course[lane()];
            c.t = s.t, c.h = s.h, c.closing = s.closing, c.late = s.late, c.early = s.early, c.piece = s.piece;
            step[lane()] = moves ? T(s.h) : T(0);
            after[lane()] = s.after, share_before[lane()] = s.begin, share[lane()] = s.part;
            outputs_from[lane()] = record[place + lane()].first_result;
            outputs_to[lane()] = record[place + kSamples + lane()].first_result;
        }
        copy(states + (n - low) * rows() * kSamples, y, rows());
        __syncthreads();
        reverse_step(moving);
    }
}
template <class T>
__device__ void Tile<T>::reverse_tile(std::int64_t tile) {
    __syncthreads();
    if (threadIdx.x == 0) {
        steps_taken = record_low = 0, record_high = spacing = layout.record_count;
        snapshot_count = 0;
        for (int i = 0; i < kSnapshots; ++i) snapshot_place[i] = i;
    }
    begin(tile);
    push_snapshot(true);
    while (attempt())
        if (steps_taken >= snapshot_at[snapshot_count - 1] + spacing) push_snapshot(true);
    close_records();
    begin_reverse();
    const std::int64_t all = steps_taken, most = layout.record_count;
    if (all <= most) {
        reverse_recorded(0, all);
    } else {
        for (std::int64_t high = all; high > 0;) {
            const std::int64_t low = high > most ? high - most : 0;
            replay(low, high);
            reverse_recorded(low, high);
            high = low;
        }
    }
    write_gradient(all > 0);
}
// With the states before fixed steps that all samples took.
template <class T>
__device__ void Tile<T>::reverse_given(std::int64_t tile) {
    __syncthreads();
    if (threadIdx.x == 0) {
        first = tile * kSamples;
        count = int(plan.samples - first < kSamples ? plan.samples - first : kSamples);
    }
    __syncthreads();
    const bool present = lane() < count;
    const std::int64_t sample = present ? id() : first;
    if (warp() == 0) {
        begin_course(plan, course[lane()], sample, true);
        outputs_from[lane()] = outputs_to[lane()] = 0;
    }
    begin_reverse();
    std::int64_t step_number = plan.kept_steps;
    for (std::int64_t number = plan.nodes - 2; number >= 0; --number) {
        const std::int64_t place = plan.result[number + 1], steps = plan.steps[number];
        if (place >= 0 && present)
            rows_of(plan.d, [&](int r, int at) {
                back[at] += static_cast<const T*>(plan.grad)[(place * plan.samples + id()) * plan.d + r];
            });
        for (std::int64_t s = steps - 1; s >= 0; --s) {
            --step_number;
            const T* from = static_cast<const T*>(plan.given) + step_number * plan.d * plan.samples + sample;
            T bad[1] = {};  // the state before a step that was not taken is marked
            rows_of(plan.d, [&](int r, int at) {
                y[at] = from[r * plan.samples];
                bad[0] += y[at] - y[at];
            });
            add_up(bad);
            const bool moves = present && bad[0] == T(0);
            const unsigned moving = __ballot_sync(kAll, moves);
            if (!moving) continue;
            if (warp() == 0) {
                Course<T>& c = course[lane()];
                bool unused;
                c.piece = number, c.number = s, c.steps = steps;
                plan_fixed_step(plan, c, sample, unused);
                step[lane()] = moves ? T(c.h) : T(0);
                share[lane()] = 1.0 / double(steps), share_before[lane()] = double(s) * share[lane()];
            }
            __syncthreads();
            reverse_step(moving);
        }
    }
    write_gradient(true);
}
template <class T>
__device__ void Tile<T>::write_gradient(bool moved) {
    const int d = plan.d;
    const bool mine = lane() < count;
    rows_of(d, [&](int r, int at) {
        const std::int64_t place = (mine ? id() : first) * d + r;
        const T from = static_cast<const T*>(plan.y0)[place];
        y[at] = from - from == T(0) ? from : T(0);
        if (mine) static_cast<T*>(plan.gy)[place] = back[at] + static_cast<const T*>(plan.grad)[place];
    });
    __syncthreads();
    if (!plan.want_t || plan.fixed || !moved) return;
    if (warp() == 0) {
        Course<T>& c = course[lane()];
        const std::int64_t sample = mine ? id() : first;
        c.t = time_of(plan, sample, 0);
        c.h = time_of(plan, sample, plan.nodes - 1) < c.t ? -1 : 1;
        c.late = c.early = false;
    }
    first_stage(k);
    T along[1] = {};
    rows_of(d, [&](int, int at) { along[0] += back[at] == T(0) ? T(0) : back[at] * k[at]; });
    add_up(along);
    if (warp() == 0 && mine) plan.gt[id() * plan.nodes] -= double(along[0]);
    __syncthreads();
}

namespace {

template <class T>
__global__ void __launch_bounds__(kTileThreads, kTileBlocks) reverse_tiles(const __grid_constant__ Plan plan) {
    Tile<T>& tile = Tile<T>::here_is();
    tile.set_up(plan);
    for (std::int64_t n = blockIdx.x; n < tile.layout.tiles; n += gridDim.x)
        if (plan.given)
            tile.reverse_given(n);
        else
            tile.reverse_tile(n);
}

}  // namespace

template <class T>
void launch_tile_gradient(const Plan& plan, const Layout& layout, Stream stream) {
    launch("ode: gradient of tiles", reverse_tiles<T>, dim3(unsigned(layout.blocks)), dim3(unsigned(layout.threads)),
           std::size_t(layout.shared_bytes), stream, plan);
}

}  // namespace nnsym::cuda::ode
