// SPDX-License-Identifier: MIT
// The samples in a tile: which they are, where their results go, how they take steps and how events end them.
#pragma once

namespace {

// Of two numbers; the second where either is nan.
NNSYM_INLINE double larger(double a, double b) {
    return a > b ? a : b;
}
NNSYM_INLINE double smaller(double a, double b) {
    return a < b ? a : b;
}

template <class T, int C>
struct Samples : Tile<T, C> {
    typedef Tile<T, C> Base;
    typedef typename Base::V V;
    typedef typename Base::I I;
    static constexpr int L = Base::L, S = Base::S;
    using Base::at, Base::d, Base::h, Base::job, Base::k, Base::method, Base::next, Base::rows, Base::t, Base::work,
        Base::x, Base::y;

    std::int64_t id[S];  // of the sample; -1: none
    Flag active[S];
    double begin[S], end[S], direction[S], wanted[S];  // times, and the step wanted next
    double due[S];                                     // adaptive: the time of the next result
    std::int64_t result[S], jump[S];                   // next ones
    std::int64_t trials[S], accepted[S], searches[S], dense_steps[S], jumps_passed[S];
    T last[S], before_last[S];  // errors of the steps accepted before
    Flag sound[S];              // the trial just made is finite
    Flag was_sound[S];
    Record<T, C>* record = nullptr;

    Samples(const nnsym::ode::Job& j, Arena& arena) : Base(j, arena) {
        for (int l = 0; l < S; ++l) id[l] = -1, active[l] = false, wanted[l] = 0;
    }

    double time_of(std::int64_t sample, std::int64_t node) const { return job.t[sample * job.t_sample + node]; }
    int running() const {
        int n = 0;
        for (int l = 0; l < S; ++l) n += active[l];
        return n;
    }

    // --- results

    void write(std::int64_t index, const V* tile, int l) const {
        if (!job.ys) return;
        T* out = static_cast<T*>(job.ys) + (index * job.samples + id[l]) * rows;
        for (int r = 0; r < rows; ++r) out[r] = at(tile, r, l);
    }
    void start(int l, std::int64_t sample) {
        id[l] = sample;
        active[l] = true;
        begin[l] = t[l] = time_of(sample, 0);
        end[l] = time_of(sample, job.nodes - 1);
        direction[l] = end[l] < begin[l] ? -1 : 1;
        wanted[l] = 0;
        h[l] = direction[l] * 2.2250738585072014e-308;  // no step yet, but its sign is read
        result[l] = 0;
        trials[l] = accepted[l] = searches[l] = dense_steps[l] = jumps_passed[l] = 0;
        last[l] = before_last[l] = 1;
        was_sound[l] = true;
        this->late[l] = this->early[l] = false;
        const T* from = static_cast<const T*>(job.y0) + sample * d;
        for (int r = 0; r < d; ++r) at(y, r, l) = from[r];
        if (this->adjoint) {
            const T* a = static_cast<const T*>(job.cotangent) + sample * d;
            for (int r = 0; r < d; ++r) at(y, d + r, l) = a[r];
        }
        if (!this->finite(y, l)) {
            finish(l, nnsym::ode::kNonFinite);
            for (int r = 0; r < rows; ++r) at(y, r, l) = 0;
            return;
        }
        write(result[l]++, y, l);
        jump[l] = 0;
        set_due(l);
        if (!job.fixed) {
            jump[l] = direction[l] > 0 ? 0 : job.jump_count - 1;
            while (has_jump(l) && (job.jumps[jump[l]] - begin[l]) * direction[l] <= 0) {
                this->late[l] = job.jumps[jump[l]] == begin[l];
                pass_jump(l);
            }
        }
    }
    void set_due(int l) {
        due[l] = !job.fixed && result[l] < job.nodes ? time_of(id[l], result[l]) : direction[l] * __builtin_inf();
    }
    bool has_jump(int l) const { return jump[l] >= 0 && jump[l] < job.jump_count; }
    void pass_jump(int l) { jump[l] += direction[l] > 0 ? 1 : -1; }

    void finish(int l, nnsym::ode::Status status) {
        active[l] = false;
        const std::int64_t sample = id[l], n = results();
        if (job.status) job.status[sample] = status;
        if (job.t_end) job.t_end[sample] = t[l];
        if (job.y_end) {
            T* out = static_cast<T*>(job.y_end) + sample * rows;
            for (int r = 0; r < rows; ++r) out[r] = at(y, r, l);
        }
        if (job.stats) {
            std::int64_t* out = job.stats + sample * 3;
            out[0] = accepted[l], out[1] = trials[l] - accepted[l], out[2] = evaluations(l);
        }
        if (!job.ys) return;
        const T nan = T(__builtin_nan(""));
        for (std::int64_t i = result[l]; i < n; ++i) {
            T* out = static_cast<T*>(job.ys) + (i * job.samples + sample) * rows;
            for (int r = 0; r < rows; ++r) out[r] = nan;
        }
    }
    std::int64_t results() const {
        if (!job.fixed) return job.nodes;
        std::int64_t n = 0;
        for (std::int64_t node = 0; node < job.nodes; ++node) n += job.result[node] >= 0;
        return n;
    }
    std::int64_t evaluations(int l) const {
        if (job.nodes < 2) return 0;
        if (trials[l] == 0) return job.fixed ? 0 : 2 - (job.control.first_step > 0);
        const std::int64_t firsts =
            job.fixed ? (method.fsal ? 1 : accepted[l]) : 1 + (method.fsal ? jumps_passed[l] : accepted[l]);
        return firsts + (!job.fixed && job.control.first_step <= 0) + (trials[l] + searches[l]) * (method.stages - 1) +
               dense_steps[l] * method.extra_cost;
    }

    // --- committing steps

    // `next` becomes the state of the samples that took the step; with fsal its last stage is their first one.
    void commit(const Flag* taken) {
        if (this->adjoint) this->accumulate_step(taken, sound);
        I mask[C];
        Base::load_mask(taken, mask);
        for (int i = 0; i < rows * C; ++i) y[i] = mask[i % C] ? next[i] : y[i];
        if (method.fsal && !this->adjoint) {
            const V* from = this->stage(method.stages - 1);
            for (int i = 0; i < rows * C; ++i) k[i] = mask[i % C] ? from[i] : k[i];
        }
        for (int l = 0; l < S; ++l) accepted[l] += taken[l];
    }

    // --- events

    double event_value(const V* tile, int l) const {
        double sum = -job.event_value;
        for (int r = 0; r < d; ++r) sum += job.event[r] * double(at(tile, r, l));
        return sum;
    }
    bool crosses(double g0, double g1) const {
        if (g0 == 0 || !(g0 < 0 ? g1 >= 0 : g1 <= 0)) return false;
        return job.event_direction == 0 || (job.event_direction > 0) == (g0 < 0);
    }
    // The samples of the trial step in `next` that cross the event's level.
    bool find_crossings(const Flag* trial, Flag* crossing) const {
        bool found = false;
        for (int l = 0; l < S; ++l) crossing[l] = 0;
        for (int l = 0; job.event && l < S; ++l) {
            crossing[l] = trial[l] && crosses(event_value(y, l), event_value(next, l));
            found = found || crossing[l];
        }
        return found;
    }
    // Shortens the steps of crossing samples to end just behind the crossing (regula falsi after Illinois, on real
    // steps); leaves these steps in `next`. Other samples stand still.
    void search(const Flag* crossing) {
        double low[S], high[S], g_low[S], g_high[S];
        int side[S] = {};  // that the last step replaced
        const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
        for (int l = 0; l < S; ++l) {
            low[l] = 0, high[l] = crossing[l] ? h[l] : 0;
            g_low[l] = crossing[l] ? event_value(y, l) : 0, g_high[l] = crossing[l] ? event_value(next, l) : 0;
            if (crossing[l]) this->early[l] = false;
        }
        for (int attempt = 0; attempt < 60; ++attempt) {
            bool searching = false;
            for (int l = 0; l < S; ++l) {
                h[l] = 0;
                if (!crossing[l] || g_high[l] == 0) continue;
                const double size = __builtin_fabs(high[l] - low[l]);
                const double scale = larger(__builtin_fabs(t[l]), __builtin_fabs(high[l]));
                if (size <= 4 * eps * scale) continue;
                searching = true;
                double share = g_low[l] / (g_low[l] - g_high[l]);
                if ((attempt > 20 && attempt % 2) || !(share > 0 && share < 1)) share = 0.5;
                h[l] = low[l] + share * (high[l] - low[l]);
                if (h[l] == low[l] || h[l] == high[l]) h[l] = 0.5 * (low[l] + high[l]);
            }
            if (!searching) break;
            this->set_steps();
            this->step();
            for (int l = 0; l < S; ++l) {
                if (h[l] == 0) continue;
                ++searches[l];
                const double g = event_value(next, l);
                const bool behind = g == g && (g == 0 || (g < 0) != (g_low[l] < 0));
                if (behind) {
                    high[l] = h[l], g_high[l] = g;
                    if (side[l] > 0) g_low[l] *= 0.5;
                } else {
                    low[l] = h[l], g_low[l] = g;
                    if (side[l] < 0) g_high[l] *= 0.5;
                }
                side[l] = behind ? 1 : -1;
            }
        }
        for (int l = 0; l < S; ++l) h[l] = high[l];
        this->set_steps();
        this->step();
    }
};

}  // namespace
