// SPDX-License-Identifier: MIT
// The step control of one sample: which step comes next, whether it is taken, what lies in it, and how a sample ends.
// The decisions are those of csrc/cpu/ode_solve.inl and ode_samples.inl, in the same numbers; they know nothing of who
// computes the stages: a thread for itself, or a block for a tile of samples.
//
// Adaptive: begin_course; first stage; first_trial, choose_first; then plan_step, the stages, judge_step, and, where
// it is taken, take_step. Fixed: begin_course; then arrives_at, plan_fixed_step, the stages, take_fixed_step.
#pragma once
#include "ode.h"

namespace nnsym::cuda::ode {

// Of two numbers; the second where either is nan.
__device__ __forceinline__ double larger(double a, double b) {
    return a > b ? a : b;
}
__device__ __forceinline__ double smaller(double a, double b) {
    return a < b ? a : b;
}
// The next number in the direction; those below the smallest normal one are passed over.
__device__ __forceinline__ double nudged(double v, int direction) {
    if (v == 0) return direction * 2.2250738585072014e-308;
    return __longlong_as_double(__double_as_longlong(v) + ((v > 0) == (direction > 0) ? 1 : -1));
}

// A sample under way.
template <class T>
struct Course {
    double t, h;  // h with the sign of the direction
    double begin, end, wanted;
    double due;           // adaptive: the time of the next result
    double closing;       // the time of the jump that the step ends at, where `early`
    std::int64_t result;  // the next one
    std::int64_t jump;    // the next one
    std::int64_t trials, accepted, searches, dense_steps, jumps_passed;
    std::int64_t piece, number, steps;  // fixed: the piece, the next step in it, and how many it has
    T last, before_last;                // errors of the steps accepted before
    bool active, forward;
    bool late, early;     // the first stage lies just after a jump; stages at the end of the step just before one
    bool lands, on_jump;  // the step ends at the end or at a jump; at a jump
    bool sound;           // the last trial was finite
    bool counted;         // results inside the step needed its extra stages

    __device__ __forceinline__ double direction() const { return forward ? 1.0 : -1.0; }
};

// Exponents of the controller and of the first step.
template <class T>
struct Powers {
    T now, then, long_ago, first;

    __device__ __forceinline__ explicit Powers(const Plan& p) {
        const double order = p.error_order + 1;
        now = T(-(p.control.p + p.control.i + p.control.d) / order);
        then = T((p.control.p + 2 * p.control.d) / order);
        long_ago = T(-p.control.d / order);
        first = T(1.0 / order);
    }
};
// base^power of a positive normal base; 1 where the power is 0
__device__ __forceinline__ float raised(float base, float power) {
    return power == 0 ? 1.0f : expf(logf(base) * power);
}
__device__ __forceinline__ double raised(double base, double power) {
    return power == 0 ? 1.0 : exp(log(base) * power);
}

__device__ __forceinline__ double time_of(const Plan& p, std::int64_t sample, std::int64_t node) {
    return p.t[sample * p.t_sample + node];
}
template <class T>
__device__ __forceinline__ bool has_jump(const Plan& p, const Course<T>& c) {
    return c.jump >= 0 && c.jump < p.jump_count;
}
template <class T>
__device__ __forceinline__ void pass_jump(Course<T>& c) {
    c.jump += c.forward ? 1 : -1;
}
template <class T>
__device__ __forceinline__ void set_due(const Plan& p, Course<T>& c, std::int64_t sample) {
    c.due =
        c.result < p.nodes ? time_of(p, sample, c.result) : c.direction() * __longlong_as_double(0x7ff0000000000000);
}

// Whether the times of a sample, which nobody may have seen, are finite and strictly monotone. Those of nodes inside of
// intervals may coincide.
__device__ __forceinline__ bool sound_times(const Plan& p, std::int64_t sample) {
    double before = time_of(p, sample, 0);
    const double direction = time_of(p, sample, p.nodes - 1) < before ? -1 : 1;
    bool sound = before - before == 0;
    for (std::int64_t i = 1; i < p.nodes; ++i) {
        const double t = time_of(p, sample, i), step = (t - before) * direction;
        sound = sound && t - t == 0 && (step > 0 || (p.nodes != p.results && step == 0));
        before = t;
    }
    return sound;
}

// Fixed steps: the piece between this node and the next.
template <class T>
__device__ __forceinline__ void enter_piece(const Plan& p, Course<T>& c, std::int64_t sample, std::int64_t piece) {
    c.piece = piece, c.number = 0;
    c.steps = piece < p.nodes - 1 ? p.steps[sample * p.steps_sample + piece] : 0;
}

// finite: whether the first state is, which is then the first result; else the sample has ended with kNonFinite.
template <class T>
__device__ __forceinline__ void begin_course(const Plan& p, Course<T>& c, std::int64_t sample, bool finite) {
    c.begin = c.t = time_of(p, sample, 0);
    c.end = time_of(p, sample, p.nodes - 1);
    c.forward = !(c.end < c.begin);
    c.h = c.direction() * 2.2250738585072014e-308;  // no step yet, but its sign is read
    c.wanted = c.due = c.closing = 0;
    c.trials = c.accepted = c.searches = c.dense_steps = c.jumps_passed = 0;
    c.jump = c.piece = c.number = c.steps = 0;
    c.last = c.before_last = T(1);
    c.sound = true;
    c.late = c.early = c.lands = c.on_jump = c.counted = false;
    c.active = finite;
    c.result = finite ? 1 : 0;
    if (p.fixed) enter_piece(p, c, sample, 0);
    if (!finite || p.fixed) return;
    set_due(p, c, sample);
    c.jump = c.forward ? 0 : p.jump_count - 1;
    while (has_jump(p, c) && (p.jumps[c.jump] - c.begin) * c.direction() <= 0) {
        c.late = p.jumps[c.jump] == c.begin;
        pass_jump(c);
    }
}

// Evaluations of the field so far.
template <class T>
__device__ __forceinline__ std::int64_t evaluations(const Plan& p, const Course<T>& c) {
    if (p.nodes < 2) return 0;
    if (c.trials == 0) return p.fixed ? 0 : 2 - (p.control.first_step > 0);
    const std::int64_t firsts = p.fixed ? (p.fsal ? 1 : c.accepted) : 1 + (p.fsal ? c.jumps_passed : c.accepted);
    return firsts + (!p.fixed && p.control.first_step <= 0) + (c.trials + c.searches) * (p.stages - 1) +
           c.dense_steps * p.extra_cost;
}
// The status, end and counts of a sample that has ended.
template <class T>
__device__ __forceinline__ void write_end(const Plan& p, const Course<T>& c, std::int64_t sample, int status) {
    if (p.status) p.status[sample] = status;
    if (p.t_end) p.t_end[sample] = c.t;
    if (!p.stats) return;
    std::int64_t* out = p.stats + sample * 3;
    out[0] = c.accepted, out[1] = c.trials - c.accepted, out[2] = evaluations(p, c);
}

// The time of stage j.
template <class T>
__device__ __forceinline__ double stage_time(const Plan& p, const Course<T>& c, int j) {
    const double share = p.c[j], out = c.t + share * c.h;
    if (j == 0 && c.late) return nudged(out, c.h < 0 ? -1 : 1);
    if (j > 0 && share == 1 && c.early) return nudged(c.closing, c.h < 0 ? 1 : -1);
    return out;
}

// The norm of an error from the sums of squares of its one or two vectors of `rows` numbers.
template <class T>
__device__ __forceinline__ T error_norm(const Plan& p, T first, T second, int rows) {
    if (p.errors == 1) return sqrt(first / T(rows));
    return first == T(0) ? T(0) : first / sqrt((first + second * T(0.01)) * T(rows));
}

// --- adaptive steps

// The first step (Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.4). d0, d1: norms of
// the state and of its slope. The second slope is that at t + direction() trial, y + direction() trial slope.
template <class T>
__device__ __forceinline__ double first_trial(const Course<T>& c, T d0, T d1) {
    const double trial = d0 < T(1e-5) || d1 < T(1e-5) ? 1e-6 : 0.01 * double(d0) / double(d1);
    return smaller(trial, fabs(c.end - c.begin));
}
// change: the norm of the second slope less the first.
template <class T>
__device__ __forceinline__ void choose_first(const Plan& p, const Powers<T>& powers, Course<T>& c, T d1, T change,
                                             double trial) {
    const double d2 = double(change) / trial;
    const double base = 0.01 / larger(double(d1), d2);
    const T most = raised(T(base > 1e-30 ? smaller(base, 1e30) : 1e-30), powers.first);
    const bool flat = double(d1) <= 1e-15 && double(T(d2)) <= 1e-15;
    const double second = flat ? larger(1e-6, 1e-3 * trial) : double(most);
    const double size = smaller(100 * trial, second);
    c.wanted = larger(size > 0 ? size : trial, p.control.dt_min);
}

// Plans the next step; false: there is none, for the reason in `status`.
template <class T>
__device__ __forceinline__ bool plan_step(const Plan& p, Course<T>& c, int& status) {
    const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
    double stop = c.end;
    bool closes = false;  // the field jumps at the end
    c.on_jump = false;
    if (p.jump_count && has_jump(p, c)) {
        const double jump = p.jumps[c.jump];
        if ((jump - c.end) * c.direction() <= 0) stop = jump, closes = stop == c.end, c.on_jump = !closes;
    }
    const double left = fabs(stop - c.t), largest = larger(fabs(c.t), fabs(c.end));
    const double wish = smaller(c.wanted, p.control.dt_max);
    const double floor = larger(larger(p.control.dt_min, 4 * 0x1p-52 * largest), eps / 16 * fabs(c.end - c.begin));
    c.lands = wish >= left * (1 - 1e-12);
    if (c.trials >= p.control.max_steps) {
        status = core::kMaxSteps;
        return false;
    }
    if (!c.lands && !(wish >= floor)) {
        status = c.sound ? core::kStepTooSmall : core::kNonFinite;
        return false;
    }
    c.on_jump = c.on_jump && c.lands;
    c.early = c.on_jump || (closes && c.lands);
    c.closing = stop;
    c.h = c.direction() * (c.lands ? left : wish);
    c.counted = false;
    ++c.trials;
    return true;
}

// Whether the trial step with this error is taken; plans the length of the next one. finite: the new state is.
template <class T>
__device__ __forceinline__ bool judge_step(const Plan& p, const Powers<T>& powers, Course<T>& c, T error, bool finite) {
    const double ratio = double(error);
    const T least = sizeof(T) == 4 ? T(1e-37) : T(1e-300);
    T scale = raised(error > least ? error : least, powers.now) * T(p.control.safety);
    if (powers.then != T(0)) scale *= raised(c.last, powers.then);
    if (powers.long_ago != T(0)) scale *= raised(c.before_last, powers.long_ago);
    c.sound = finite && ratio - ratio == 0;
    const bool taken = c.sound && ratio <= 1;
    const double low = taken ? 1 : p.control.factor_min, high = taken ? p.control.factor_max : p.control.safety;
    double factor = ratio == 0 ? p.control.factor_max : double(scale);
    factor = c.sound ? smaller(larger(factor, low), high) : p.control.factor_min;
    const double size = fabs(c.h) * factor, wish = smaller(c.wanted, p.control.dt_max);
    c.wanted = taken && c.lands ? larger(size, wish) : size;
    if (taken) c.before_last = c.last, c.last = error > T(1e-10) ? error : T(1e-10);
    return taken;
}

// The time at the end of the step.
template <class T>
__device__ __forceinline__ double end_of_step(const Plan& p, const Course<T>& c) {
    return c.on_jump ? p.jumps[c.jump] : c.lands ? c.end : c.t + c.h;
}
// Whether the next result lies in the step that ends at `after`, and where: theta = 1 is the end itself. Of a result
// inside (theta != 1), whether it is the first one, which needs the extra stages, counts in `dense_steps`.
template <class T>
__device__ __forceinline__ bool result_inside(Course<T>& c, double after, double& theta) {
    theta = 0;
    if (!((c.due - after) * c.direction() <= 0)) return false;
    theta = c.due == after ? 1 : (c.due - c.t) / c.h;
    if (theta != 1 && !c.counted) c.counted = true, ++c.dense_steps;
    return true;
}
template <class T>
__device__ __forceinline__ void next_result(const Plan& p, Course<T>& c, std::int64_t sample) {
    ++c.result;
    set_due(p, c, sample);
}
// After the results: the step is taken. True: the first stage must be computed anew, the last one does not serve.
template <class T>
__device__ __forceinline__ bool take_step(const Plan& p, Course<T>& c, double after) {
    ++c.accepted;
    c.late = c.on_jump;
    c.t = after;
    if (c.on_jump) pass_jump(c), ++c.jumps_passed;
    return !p.fsal || c.on_jump;
}
template <class T>
__device__ __forceinline__ bool arrived(const Course<T>& c) {
    return c.lands && !c.on_jump;
}

// --- fixed steps

// Plans the next step of the piece, after arrives_at returned false. fresh: the first stage must be computed anew also
// with fsal.
template <class T>
__device__ __forceinline__ void plan_fixed_step(const Plan& p, Course<T>& c, std::int64_t sample, bool& fresh) {
    const std::int8_t* breaks = p.breaks + sample * p.breaks_sample + c.piece;
    const double begin = time_of(p, sample, c.piece), end = time_of(p, sample, c.piece + 1);
    c.h = (end - begin) * (1.0 / double(c.steps));
    c.t = begin + double(c.number) * c.h;
    c.late = breaks[0] && c.number == 0;
    c.early = breaks[1] && c.number == c.steps - 1;
    c.closing = end;
    fresh = c.late || c.accepted == 0;
    ++c.trials;
}
// Fixed steps: whether the sample is at its end.
template <class T>
__device__ __forceinline__ bool at_end(const Plan& p, const Course<T>& c) {
    return c.piece == p.nodes - 1;
}
// Where no steps of the piece are left, goes on to the node at its end, which is result `index` unless that is -1, and
// to the next piece; true: it did, ask again.
template <class T>
__device__ __forceinline__ bool arrives_at(const Plan& p, Course<T>& c, std::int64_t sample, std::int64_t& index) {
    index = -1;
    if (at_end(p, c) || c.number < c.steps) return false;
    enter_piece(p, c, sample, c.piece + 1);
    c.t = time_of(p, sample, c.piece);
    index = p.result[c.piece];
    if (index >= 0) c.result = index + 1;
    return true;
}
template <class T>
__device__ __forceinline__ void take_fixed_step(const Plan& p, Course<T>& c, std::int64_t sample) {
    ++c.accepted, ++c.number;
    c.t = c.number == c.steps ? time_of(p, sample, c.piece + 1) : c.t + c.h;
}

// --- events

__device__ __forceinline__ bool crosses(const Plan& p, double before, double after) {
    if (before == 0 || !(before < 0 ? after >= 0 : after <= 0)) return false;
    return p.event_direction == 0 || (p.event_direction > 0) == (before < 0);
}
// Shortens a step to end just behind the crossing (regula falsi after Illinois, on real steps): propose sets c.h; then
// the step anew and `found` with the value at its end; when nothing is proposed any more, settle and a last step.
struct Crossing {
    double low, high, g_low, g_high;
    int side, attempt;

    __device__ __forceinline__ Crossing(double h, double before, double after)
        : low(0), high(h), g_low(before), g_high(after), side(0), attempt(0) {}
    template <class T>
    __device__ __forceinline__ Crossing(Course<T>& c, double before, double after) : Crossing(c.h, before, after) {
        begin(c);
    }
    template <class T>
    __device__ __forceinline__ void begin(Course<T>& c) const {
        c.early = c.lands = c.on_jump = false;
    }
    template <class T>
    __device__ __forceinline__ bool propose(Course<T>& c) {
        const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
        if (attempt == 60 || g_high == 0) return false;
        if (fabs(high - low) <= 4 * eps * larger(fabs(c.t), fabs(high))) return false;
        double share = g_low / (g_low - g_high);
        if ((attempt > 20 && attempt % 2) || !(share > 0 && share < 1)) share = 0.5;
        c.h = low + share * (high - low);
        if (c.h == low || c.h == high) c.h = 0.5 * (low + high);
        ++attempt, ++c.searches;
        return true;
    }
    template <class T>
    __device__ __forceinline__ void found(const Course<T>& c, double value) {
        const bool behind = value == value && (value == 0 || (value < 0) != (g_low < 0));
        if (behind) {
            high = c.h, g_high = value;
            if (side > 0) g_low *= 0.5;
        } else {
            low = c.h, g_low = value;
            if (side < 0) g_high *= 0.5;
        }
        side = behind ? 1 : -1;
    }
    template <class T>
    __device__ __forceinline__ void settle(Course<T>& c) const {
        c.h = high;
    }
};

}  // namespace nnsym::cuda::ode
