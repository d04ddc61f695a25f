// SPDX-License-Identifier: MIT
// The reverse pass through the steps that were taken. A tile of samples is integrated once more with its steps
// recorded; then, from the last step to the first, the stages are computed again with tapes and the gradient goes back
// through them. States at the steps are kept, or, with a number of checkpoints, recomputed from as many snapshots in
// the order that needs the fewest steps (Griewank and Walther 2000, Algorithm 799).
#pragma once

namespace {

template <class T, int C>
struct Reverse : Solver<T, C> {
    typedef Solver<T, C> Base;
    typedef typename Base::V V;
    typedef typename Base::I I;
    typedef typename Record<T, C>::Step Step;
    typedef typename Record<T, C>::Output Output;
    static constexpr int S = Base::S;
    using Base::at, Base::d, Base::h, Base::id, Base::job, Base::k, Base::method, Base::next, Base::rows, Base::t,
        Base::total, Base::x, Base::y;

    Record<T, C> taken;
    Grown snapshots;
    V *adjoint_state, *slopes, *gk, *gx, *tapes;
    double* times;

    Reverse(const nnsym::ode::Job& j, Arena& arena) : Base(j, arena) {
        adjoint_state = arena.take<V>(rows * C);
        slopes = arena.take<V>(rows * C);
        gk = arena.take<V>(std::int64_t(total) * rows * C);
        gx = arena.take<V>((rows + 1) * C);
        tapes = arena.take<V>(std::int64_t(total) * this->field.tape_vectors);
        times = arena.take<double>(total * S);
    }

    bool run(std::int64_t first, std::int64_t end) {
        taken.keep_states = job.checkpoints == 0;
        for (; first < end && !taken.failed; first += S) {
            const int count = int(end - first < S ? end - first : S);
            taken.begin();
            this->record = &taken;
            if (job.fixed)
                this->run_fixed(first, count);
            else
                this->run_adaptive(first, first + count, false);
            this->record = nullptr;
            if (!taken.failed) reverse(first, count);
            if (job.gparameters) this->field.settle();
        }
        const bool good = !taken.failed;
        taken.release();
        snapshots.release();
        return good;
    }

    const T* grad_of(std::int64_t index, int l) const {
        return static_cast<const T*>(job.grad) + (index * job.samples + id[l]) * rows;
    }
    void load_initial(std::int64_t first, int count) {
        const T* from = static_cast<const T*>(job.y0) + first * rows;
        for (int l = 0; l < count; ++l)
            for (int r = 0; r < rows; ++r) {
                const T value = from[std::int64_t(l) * rows + r];
                at(y, r, l) = value - value == 0 ? value : T(0);
            }
    }
    void reverse(std::int64_t first, int count) {
        for (int i = 0; i < rows * C; ++i) adjoint_state[i] = V{};
        const std::int64_t steps = taken.step_count;
        if (taken.keep_states) {
            for (std::int64_t n = steps - 1; n >= 0; --n) {
                copy(taken.state(n, rows * C), y);
                reverse_step(n);
            }
        } else if (steps) {
            const std::int64_t slots = job.checkpoints < steps ? job.checkpoints : steps;
            snapshots.used = 0;
            if (!snapshots.push(slots * rows * C * std::int64_t(sizeof(V)))) {
                taken.failed = true;
                return;
            }
            load_initial(first, count);
            copy(y, snapshot(0));
            reverse_between(0, steps, 0, slots - 1);
        }
        load_initial(first, count);
        T* out = static_cast<T*>(job.gy);
        for (int l = 0; l < count; ++l)
            for (int r = 0; r < rows; ++r) out[(first + l) * rows + r] = at(adjoint_state, r, l) + grad_of(0, l)[r];
        if (!job.want_t || job.fixed || !steps) return;
        for (int l = 0; l < S; ++l) {
            t[l] = l < count ? this->begin[l] : 0;
            h[l] = l < count ? this->direction[l] : 0;
            this->late[l] = false;
        }
        this->first_stage();
        for (int l = 0; l < count; ++l) {
            double along = 0;
            // A sample that ended early pulls nothing back, whatever its slope.
            for (int r = 0; r < rows; ++r)
                if (at(adjoint_state, r, l) != 0) along += double(at(adjoint_state, r, l)) * double(at(k, r, l));
            job.gt[id[l] * job.nodes] -= along;
        }
    }
    static void copy_rows(const V* from, V* to, std::int64_t n) {
        for (std::int64_t i = 0; i < n; ++i) to[i] = from[i];
    }
    void copy(const V* from, V* to) const { copy_rows(from, to, rows * C); }
    V* snapshot(std::int64_t slot) { return reinterpret_cast<V*>(snapshots.data) + slot * rows * C; }

    // Steps [low, high) in reverse: the state before step `low` is in its slot, and `left` slots after it are free.
    void reverse_between(std::int64_t low, std::int64_t high, std::int64_t slot, std::int64_t left) {
        while (high - low > 1 && left > 0) {
            const std::int64_t middle = low + split(high - low, left);
            copy(snapshot(slot), y);
            for (std::int64_t n = low; n < middle; ++n) replay(n);
            copy(y, snapshot(slot + 1));
            reverse_between(middle, high, slot + 1, left - 1);
            high = middle;
        }
        for (std::int64_t n = high - 1; n >= low; --n) {
            copy(snapshot(slot), y);
            for (std::int64_t m = low; m < n; ++m) replay(m);
            reverse_step(n);
        }
    }
    // The step before which the next snapshot is taken: with `slots` left, at most C(slots + r, slots) steps can be
    // reversed with r recomputations of each.
    static std::int64_t split(std::int64_t steps, std::int64_t slots) {
        double all = 1, right = 1;  // C(slots + r, slots), C(slots - 1 + r, slots - 1)
        for (std::int64_t r = 1; all < double(steps + 1); ++r) {
            all = all * double(slots + r) / double(r);
            right = right * double(slots - 1 + r) / double(r);
        }
        const std::int64_t at = right >= double(steps) ? 1 : steps - std::int64_t(right + 0.5);
        return at < 1 ? 1 : at > steps - 1 ? steps - 1 : at;
    }

    void restore(std::int64_t n) {
        const Step& s = taken.step(n);
        for (int l = 0; l < S; ++l)
            t[l] = s.t[l], h[l] = s.h[l], this->late[l] = s.late[l], this->early[l] = s.early[l],
            this->closing[l] = s.closing[l];
        this->set_steps();
    }
    void moving(I* mask) const {
        Flag moves[S];
        for (int l = 0; l < S; ++l) moves[l] = h[l] != 0;
        Base::load_mask(moves, mask);
    }
    void replay(std::int64_t n) {
        restore(n);
        this->first_stage();
        this->step();
        I mask[C];
        moving(mask);
        for (int i = 0; i < rows * C; ++i) y[i] = mask[i % C] ? next[i] : y[i];
    }

    void evaluate_with_tape(int j) {
        V* tape = tapes + j * this->field.tape_vectors;
        this->stage_times(j, times + j * S);
        if (j == 0)
            copy(y, tape);
        else
            this->advance(method.a[j], tape);
        this->field.eval(times + j * S, tape, this->stage(j), tape);
    }
    // h weight g added to the gradient of stage j
    void add_scaled(int j, const V* factor, const V* g) {
        V* into = gk + std::int64_t(j) * rows * C;
        for (int i = 0; i < rows * C; ++i) into[i] += factor[i % C] * g[i];
    }
    void dot(const V* a, const V* b, V* out) const {
        for (int i = 0; i < rows * C; ++i) out[i % C] += a[i] * b[i];
    }

    // The state before step n is in y, the gradient of the state after it in adjoint_state.
    void reverse_step(std::int64_t n) {
        const std::int64_t from = n ? taken.step(n - 1).outputs : 0, to = taken.step(n).outputs;
        restore(n);
        bool inside = job.want_t && !job.fixed && to > from;
        for (std::int64_t o = from; o < to; ++o)
            for (int l = 0; l < S; ++l)
                inside = inside || (taken.output(o).index[l] >= 0 && taken.output(o).theta[l] != 1);
        I mask[C];
        moving(mask);
        // Samples that took no step repeat one that did: whatever the field is at its state, it can be evaluated.
        int one = 0;
        while (one < S - 1 && h[one] == 0) ++one;
        for (int i = 0; i < rows * C; ++i) y[i] = mask[i % C] ? y[i] : splat<V>(at(y, i / C, one));
        const int stages = inside ? total : method.used;
        for (int j = 0; j < stages; ++j) evaluate_with_tape(j);
        for (std::int64_t i = 0; i < std::int64_t(stages) * rows * C; ++i) gk[i] = V{};

        V before[C];
        const V* step = this->step_sizes;
        for (int i = 0; i < rows * C; ++i) gx[i] = V{};
        for (std::int64_t o = from; o < to; ++o) take_output(taken.output(o), step);
        // gx: the gradient of y by results inside the step; adjoint_state: that of the state after it.
        V gh[C] = {}, gt[C] = {};
        this->combine(method.b, slopes);
        dot(adjoint_state, slopes, gh);
        for (int q = 0; q < method.b.count; ++q) {
            for (int c = 0; c < C; ++c) before[c] = step[c] * T(method.b.weight[q]);
            add_scaled(method.b.stage[q], before, adjoint_state);
        }
        for (int i = 0; i < rows * C; ++i) adjoint_state[i] += gx[i];
        for (int j = stages - 1; j >= 0; --j) {
            V along[C] = {};
            this->field.vjp(times + j * S, tapes + j * this->field.tape_vectors, gk + std::int64_t(j) * rows * C, gx,
                            along);
            for (int i = 0; i < rows * C; ++i) gx[i] = mask[i % C] ? gx[i] : V{};
            const nnsym::ode::Row& row = method.a[j];
            for (int q = 0; q < row.count; ++q) {
                for (int c = 0; c < C; ++c) before[c] = step[c] * T(row.weight[q]);
                add_scaled(row.stage[q], before, gx);
            }
            for (int i = 0; i < rows * C; ++i) adjoint_state[i] += gx[i];
            if (!job.want_t || !job.fixed) continue;
            this->combine(row, slopes);
            dot(gx, slopes, gh);
            for (int c = 0; c < C; ++c) gh[c] += along[c] * T(method.c[j]), gt[c] += along[c];
        }
        if (job.gparameters) this->field.accumulate(tapes, stages, this->field.tape_vectors, times);
        if (job.want_t && job.fixed) add_times(taken.step(n), gh, gt);
    }
    // A step from t_p + begin D of length part D, D the length of the piece.
    void add_times(const Step& s, const V* gh, const V* gt) {
        for (int l = 0; l < S; ++l) {
            if (h[l] == 0) continue;
            double* out = job.gt + id[l] * job.nodes + s.piece;
            const double a = at(gh, 0, l), b = at(gt, 0, l);
            out[0] += b * (1 - s.begin[l]) - a * s.part[l];
            out[1] += b * s.begin[l] + a * s.part[l];
        }
    }
    void take_output(const Output& o, const V* step) {
        V theta[C], weight[C];
        Flag at_end[S];
        V* g = this->spare;
        for (int i = 0; i < rows * C; ++i) g[i] = V{};
        for (int l = 0; l < S; ++l) {
            at_end[l] = o.theta[l] == 1;
            if (o.index[l] < 0) continue;
            const T* from = grad_of(o.index[l], l);
            for (int r = 0; r < rows; ++r) at(g, r, l) = from[r];
        }
        Base::load_lanes(o.theta, theta);
        if (job.want_t && !job.fixed) {
            V along[C] = {};
            for (int j = 0; j < total; ++j) {
                this->dense_slope(j, theta, weight);
                V sum[C] = {};
                dot(g, this->stage(j), sum);
                for (int c = 0; c < C; ++c) along[c] += weight[c] * sum[c];
            }
            for (int l = 0; l < S; ++l)
                if (o.index[l] >= 0) job.gt[id[l] * job.nodes + o.index[l]] += at(along, 0, l);
        }
        I mask[C];
        Base::load_mask(at_end, mask);
        bool inside = false;
        for (int l = 0; l < S; ++l) inside = inside || (o.index[l] >= 0 && !at_end[l]);
        for (int i = 0; i < rows * C; ++i) {
            adjoint_state[i] += mask[i % C] ? g[i] : V{};
            g[i] = mask[i % C] ? V{} : g[i];
            gx[i] += g[i];
        }
        if (!inside) return;
        for (int j = 0; j < total; ++j) {
            this->dense_weight(j, theta, weight);
            for (int c = 0; c < C; ++c) weight[c] *= step[c];
            add_scaled(j, weight, g);
        }
    }
};

}  // namespace
