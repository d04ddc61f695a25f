// SPDX-License-Identifier: MIT
// Integration of samples: fixed steps, and adaptive ones where each sample of a tile has its own and its place is taken
// by the next sample when it is done. No sample's numbers depend on another's.
#pragma once

namespace {

template <class T, int C>
struct Solver : Samples<T, C> {
    typedef Samples<T, C> Base;
    typedef typename Base::V V;
    typedef typename Base::I I;
    typedef Math<T> M;
    static constexpr int L = Base::L, S = Base::S;
    using Base::accepted, Base::active, Base::before_last, Base::begin, Base::commit, Base::direction, Base::due,
        Base::end, Base::finish, Base::h, Base::id, Base::job, Base::jump, Base::k, Base::last, Base::method,
        Base::next, Base::record, Base::result, Base::rows, Base::running, Base::sound, Base::start, Base::t,
        Base::time_of, Base::trials, Base::wanted, Base::was_sound, Base::work, Base::write, Base::x, Base::y;

    V* spare;  // the first stage of samples that keep theirs

    Solver(const nnsym::ode::Job& j, Arena& arena) : Base(j, arena) { spare = arena.take<V>(rows * C); }

    bool run(std::int64_t first, std::int64_t stop) {
        if (!job.fixed) run_adaptive(first, stop, true);
        for (; job.fixed && first < stop; first += S) run_fixed(first, int(stop - first < S ? stop - first : S));
        return true;
    }

    // --- fixed steps

    // The pieces between nodes, of every sample under way.
    struct Piece {
        std::int64_t number, first;  // first: steps of all pieces before, where they are the same for all samples
        std::int64_t steps[S];
        Flag opens[S], closes[S];  // the field jumps at the ends of the piece
        Flag moves[S];
        bool steady;  // the steps of the piece are the same for all that take them, and their times are not read
        double begin[S], end[S], length[S], share[S];  // share: of one step
    };
    void run_fixed(std::int64_t first, int count) {
        for (int l = 0; l < S; ++l) {
            active[l] = false, id[l] = -1;
            if (l < count) start(l, first + l);
        }
        Piece piece{};
        for (; piece.number + 1 < job.nodes && running(); ++piece.number) {
            std::int64_t most = 0;
            for (int l = 0; l < S; ++l) {
                piece.steps[l] = 0, piece.opens[l] = piece.closes[l] = 0,
                piece.begin[l] = piece.length[l] = piece.share[l] = 0;
                if (!active[l]) continue;
                piece.steps[l] = job.steps[id[l] * job.steps_sample + piece.number];
                const std::int8_t* breaks = job.breaks + id[l] * job.breaks_sample + piece.number;
                piece.opens[l] = breaks[0], piece.closes[l] = breaks[1];
                piece.begin[l] = time_of(id[l], piece.number);
                piece.end[l] = time_of(id[l], piece.number + 1);
                piece.length[l] = piece.end[l] - piece.begin[l];
                piece.share[l] = piece.steps[l] ? 1.0 / double(piece.steps[l]) : 0;
                most = piece.steps[l] > most ? piece.steps[l] : most;
            }
            piece.steady = !record && !job.event && !this->field.timed();
            for (int l = 0; l < S; ++l) piece.steady &= !active[l] || (piece.steps[l] == most && !piece.closes[l]);
            for (std::int64_t s = 0; s < most; ++s) fixed_step(piece, s, first);
            piece.first += most;
            arrive(piece.number + 1);
        }
        for (int l = 0; l < S; ++l)
            if (active[l]) finish(l, nnsym::ode::kSuccess);
    }
    void fixed_step(Piece& piece, std::int64_t s, std::int64_t first) {
        Flag taken[S], crossing[S], fresh[S], any_fresh = 0, failed = 0;
        double part[S], before[S];
        const bool same = s > 0 && piece.steady;  // as the step before, and nobody asks when it is
        if (same) {
            for (int l = 0; l < S; ++l) taken[l] = piece.moves[l];
        } else {
            for (int l = 0; l < S; ++l) {
                taken[l] = active[l] & Flag(s < piece.steps[l]);
                part[l] = taken[l] ? piece.share[l] : 0;
                before[l] = double(s) * part[l];
                h[l] = piece.length[l] * part[l];
                t[l] = taken[l] ? piece.begin[l] + double(s) * h[l] : t[l];
                this->late[l] = taken[l] & piece.opens[l] & Flag(s == 0);
                this->early[l] = taken[l] & piece.closes[l] & Flag(s == piece.steps[l] - 1);
                this->closing[l] = piece.end[l];
                fresh[l] = this->late[l] | (taken[l] & Flag(accepted[l] == 0));
                any_fresh |= fresh[l];
            }
            this->set_steps();
            for (int l = 0; l < S; ++l) piece.moves[l] = taken[l];
        }
        for (int l = 0; l < S; ++l) trials[l] += taken[l];
        if (job.given) {  // the steps were taken before: only what they were is recorded
            exchange_states(first, piece.first + s, false);
            record->add_step(*this, taken, piece.number, before, part);
            for (int l = 0; l < S; ++l) accepted[l] += taken[l];
        } else {
            if (job.states) exchange_states(first, piece.first + s, true);
            if (!method.fsal || this->adjoint)
                this->first_stage();
            else if (any_fresh)
                first_stage_of(fresh);
            this->step();
            this->all_finite(next, sound);
            for (int l = 0; l < S; ++l) failed |= taken[l] & (1 - sound[l]);
            for (int l = 0; failed && l < S; ++l) {
                if (!(taken[l] & (1 - sound[l]))) continue;
                t[l] = piece.begin[l] + double(s) * h[l];
                finish(l, nnsym::ode::kNonFinite);
                taken[l] = 0, piece.steady = false;
            }
            const bool events = this->find_crossings(taken, crossing);
            for (int l = 0; l < S; ++l) taken[l] &= 1 - crossing[l];
            if (record) record->add_step(*this, taken, piece.number, before, part);
            commit(taken);
            if (events) end_at_events(piece, crossing, before, part);
        }
        for (int l = 0; !same && l < S; ++l) {
            const double after = s == piece.steps[l] - 1 ? piece.end[l] : t[l] + h[l];
            t[l] = taken[l] ? after : t[l];
        }
    }
    void end_at_events(const Piece& piece, const Flag* crossing, const double* before, double* part) {
        double whole[S];
        for (int l = 0; l < S; ++l) whole[l] = h[l];
        this->search(crossing);
        for (int l = 0; l < S; ++l) part[l] *= crossing[l] ? h[l] / whole[l] : 0;
        if (record) record->add_step(*this, crossing, piece.number, before, part);
        commit(crossing);
        for (int l = 0; l < S; ++l) {
            if (crossing[l]) t[l] += h[l], finish(l, nnsym::ode::kEvent);
            h[l] = whole[l];
        }
    }
    // The state before a step, kept for the reverse pass or read back: [lanes of samples][step][row][lane].
    void exchange_states(std::int64_t first, std::int64_t step, bool keep) {
        for (int c = 0; c < C; ++c) {
            const std::int64_t block = first / L + c;
            if (block * L >= job.samples) return;
            const std::int64_t at = (block * job.kept_steps + step) * rows;
            V* kept = (keep ? static_cast<V*>(job.states) : static_cast<V*>(const_cast<void*>(job.given))) + at;
            for (int r = 0; r < rows; ++r)
                if (keep)
                    store(kept + r, y[r * C + c]);
                else
                    y[r * C + c] = load<V>(kept + r);
        }
    }
    void arrive(std::int64_t node) {
        const std::int64_t index = job.result[node];
        for (int l = 0; l < S; ++l)
            if (active[l]) t[l] = time_of(id[l], node);
        if (index < 0) return;
        auto* output = record ? record->add_output() : nullptr;
        for (int l = 0; l < S; ++l) {
            if (!active[l]) continue;
            write(index, y, l);
            result[l] = index + 1;
            if (output) output->theta[l] = 1, output->index[l] = index;
        }
    }

    // --- adaptive steps

    void run_adaptive(std::int64_t first, std::int64_t stop, bool refill) {
        for (int l = 0; l < S; ++l) active[l] = false, id[l] = -1;
        for (;;) {
            const int idle = S - running();
            if (first < stop && (idle == S || (refill && idle * 4 >= S))) first = fill(first, stop);
            if (running() == 0) {
                if (first < stop) continue;
                return;
            }
            attempt();
        }
    }
    // The next samples into idle places: their first slope and step.
    std::int64_t fill(std::int64_t first, std::int64_t stop) {
        Flag fresh[S];
        for (int l = 0; l < S; ++l) {
            fresh[l] = false;
            if (active[l] || first >= stop) continue;
            start(l, first++);
            if (active[l] && job.nodes < 2) finish(l, nnsym::ode::kSuccess);
            fresh[l] = active[l];
        }
        first_stage_of(fresh);
        if (job.control.first_step > 0) {
            for (int l = 0; l < S; ++l)
                if (fresh[l]) wanted[l] = job.control.first_step;
        } else {
            choose_first(fresh);
        }
        return first;
    }
    // Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.4.
    void choose_first(const Flag* fresh) {
        V norm[C];
        T d0[S], d1[S], d2[S];
        double trial[S], times[S];
        this->scaled_norm(y, nullptr, norm);
        for (int c = 0; c < C; ++c) store(d0 + c * L, norm[c]);
        this->scaled_norm(k, nullptr, norm);
        for (int c = 0; c < C; ++c) store(d1 + c * L, norm[c]);
        for (int l = 0; l < S; ++l) {
            trial[l] = 0;
            if (!fresh[l]) continue;
            trial[l] = d0[l] < T(1e-5) || d1[l] < T(1e-5) ? 1e-6 : 0.01 * double(d0[l]) / double(d1[l]);
            trial[l] = smaller(trial[l], __builtin_fabs(end[l] - begin[l]));
        }
        V step[C];
        for (int l = 0; l < S; ++l) times[l] = direction_of(l) * trial[l];
        Base::load_lanes(times, step);
        for (int l = 0; l < S; ++l) times[l] += t[l];
        for (int i = 0; i < rows * C; ++i) x[i] = y[i] + step[i % C] * k[i];
        // The second slope in the place of the last stage, which no sample under way needs.
        const int j = method.stages - 1;
        this->evaluate(j, times, x);
        this->scaled_norm(this->stage(j), k, norm);
        for (int c = 0; c < C; ++c) store(d2 + c * L, norm[c]);
        T most[S];
        for (int l = 0; l < S; ++l) {
            const double change = fresh[l] ? double(d2[l]) / trial[l] : 0;
            d2[l] = T(change);
            const double base = 0.01 / larger(double(d1[l]), change);
            most[l] = T(base > 1e-30 ? smaller(base, 1e30) : 1e-30);
        }
        for (int c = 0; c < C; ++c) store(most + c * L, raised(load<V>(most + c * L), 1.0 / (method.error_order + 1)));
        for (int l = 0; l < S; ++l) {
            const bool flat = double(d1[l]) <= 1e-15 && double(d2[l]) <= 1e-15;
            const double second = flat ? larger(1e-6, 1e-3 * trial[l]) : double(most[l]);
            const double size = smaller(100 * trial[l], second);
            wanted[l] = fresh[l] ? larger(size > 0 ? size : trial[l], job.control.dt_min) : wanted[l];
        }
    }
    double direction_of(int l) const { return id[l] < 0 ? 1 : direction[l]; }

    // Steps of the samples under way, or the end of those that cannot go on. trial: who makes one.
    void plan(Flag* trial, Flag* lands, Flag* on_jump) {
        const nnsym::ode::Control& control = job.control;
        const double eps = sizeof(T) == 4 ? 0x1p-23 : 0x1p-52;
        double stop[S], size[S];
        Flag stuck = 0, closes[S];  // closes: the field jumps at the end
        for (int l = 0; l < S; ++l) stop[l] = end[l], on_jump[l] = closes[l] = 0;
        for (int l = 0; job.jump_count && l < S; ++l)
            if (active[l] && this->has_jump(l) && (job.jumps[jump[l]] - end[l]) * direction[l] <= 0) {
                stop[l] = job.jumps[jump[l]];
                closes[l] = stop[l] == end[l];
                on_jump[l] = 1 - closes[l];
            }
        for (int l = 0; l < S; ++l) {
            const double left = __builtin_fabs(stop[l] - t[l]),
                         largest = larger(__builtin_fabs(t[l]), __builtin_fabs(end[l]));
            const double wish = smaller(wanted[l], control.dt_max);
            const double floor =
                larger(larger(control.dt_min, 4 * 0x1p-52 * largest), eps / 16 * __builtin_fabs(end[l] - begin[l]));
            lands[l] = wish >= left * (1 - 1e-12);
            size[l] = lands[l] ? left : wish;
            trial[l] = active[l] & Flag(trials[l] < control.max_steps) & (lands[l] | Flag(wish >= floor));
            stuck |= active[l] ^ trial[l];
        }
        for (int l = 0; stuck && l < S; ++l) {
            if (active[l] == trial[l]) continue;
            if (trials[l] >= control.max_steps)
                finish(l, nnsym::ode::kMaxSteps);
            else
                finish(l, was_sound[l] ? nnsym::ode::kStepTooSmall : nnsym::ode::kNonFinite);
        }
        for (int l = 0; l < S; ++l) {
            lands[l] &= trial[l];
            on_jump[l] &= lands[l];
            this->early[l] = on_jump[l] | (closes[l] & lands[l]);
            this->closing[l] = stop[l];
            h[l] = trial[l] ? direction[l] * size[l] : 0;
            trials[l] += trial[l];
        }
    }
    // x^power of positive normal numbers; 1 where the power is 0.
    static V raised(V base, double power) { return power == 0 ? splat<V>(T(1)) : M::exp(M::log(base) * T(power)); }
    // What the PID controller multiplies the step by, before its limits.
    void factors(const V* err, V* out) const {
        const nnsym::ode::Control& control = job.control;
        const double order = method.error_order + 1;
        const double now = -(control.p + control.i + control.d) / order, then = (control.p + 2 * control.d) / order,
                     long_ago = -control.d / order;
        for (int c = 0; c < C; ++c) {
            const V floor = splat<V>(sizeof(T) == 4 ? T(1e-37) : T(1e-300));
            out[c] = raised(maximum(err[c], floor), now) * T(control.safety);
            if (then != 0) out[c] *= raised(load<V>(last + c * L), then);
            if (long_ago != 0) out[c] *= raised(load<V>(before_last + c * L), long_ago);
        }
    }

    void attempt() {
        const nnsym::ode::Control& control = job.control;
        Flag trial[S], lands[S], on_jump[S], taken[S], crossing[S];
        plan(trial, lands, on_jump);
        this->set_steps();
        if (this->adjoint) this->first_stage();
        this->step();
        V err_vector[C], factor_vector[C];
        this->error(err_vector);
        factors(err_vector, factor_vector);
        T err[S], factor[S];
        for (int c = 0; c < C; ++c) store(err + c * L, err_vector[c]), store(factor + c * L, factor_vector[c]);
        this->all_finite(next, sound);
        double scale[S], ratio[S];
        for (int l = 0; l < S; ++l) scale[l] = double(factor[l]), ratio[l] = double(err[l]);
        for (int l = 0; l < S; ++l) {
            sound[l] &= Flag(ratio[l] - ratio[l] == 0);
            taken[l] = trial[l] & sound[l] & Flag(ratio[l] <= 1);
            const double low = taken[l] ? 1 : control.factor_min, high = taken[l] ? control.factor_max : control.safety;
            double f = ratio[l] == 0 ? control.factor_max : scale[l];
            f = sound[l] ? smaller(larger(f, low), high) : control.factor_min;
            const double size = __builtin_fabs(h[l]) * f, wish = smaller(wanted[l], control.dt_max);
            const double then = taken[l] & lands[l] ? larger(size, wish) : size;
            wanted[l] = trial[l] ? then : wanted[l];
            was_sound[l] = trial[l] ? sound[l] : was_sound[l];
        }
        for (int l = 0; l < S; ++l) {
            before_last[l] = taken[l] ? last[l] : before_last[l];
            last[l] = taken[l] ? (err[l] > T(1e-10) ? err[l] : T(1e-10)) : last[l];
        }
        const bool events = this->find_crossings(taken, crossing);
        for (int l = 0; l < S; ++l) taken[l] &= 1 - crossing[l];
        accept(taken, lands, on_jump);
        if (events) {
            this->search(crossing);
            for (int l = 0; l < S; ++l) lands[l] &= 1 - crossing[l], on_jump[l] &= 1 - crossing[l];
            accept(crossing, lands, on_jump);
            for (int l = 0; l < S; ++l)
                if (crossing[l]) finish(l, nnsym::ode::kEvent);
        }
        Flag arrived = 0;
        for (int l = 0; l < S; ++l) arrived |= taken[l] & lands[l] & (1 - on_jump[l]);
        for (int l = 0; arrived && l < S; ++l)
            if (taken[l] & lands[l] & (1 - on_jump[l])) finish(l, nnsym::ode::kSuccess);
    }

    // Takes the trial steps of some samples: results inside them, the new state and its slope.
    void accept(const Flag* taken, const Flag* lands, const Flag* on_jump) {
        double after[S];
        Flag any_taken = 0, jumped = 0;
        for (int l = 0; l < S; ++l) {
            after[l] = lands[l] ? end[l] : t[l] + h[l];
            any_taken |= taken[l];
            jumped |= taken[l] & on_jump[l];
        }
        if (!any_taken) return;
        for (int l = 0; jumped && l < S; ++l)
            if (on_jump[l]) after[l] = job.jumps[jump[l]];
        if (record) record->add_step(*this, taken, 0, nullptr, nullptr);
        write_inside(taken, after);
        commit(taken);
        for (int l = 0; l < S; ++l) {
            this->late[l] = taken[l] ? on_jump[l] : this->late[l];
            t[l] = taken[l] ? after[l] : t[l];
        }
        for (int l = 0; jumped && l < S; ++l)
            if (taken[l] & on_jump[l]) this->pass_jump(l), ++this->jumps_passed[l];
        if (this->adjoint || (method.fsal && !jumped)) return;
        // The first slope anew: of all without fsal, of those at a jump with it.
        if (!method.fsal) return this->first_stage();
        Flag anew[S];
        for (int l = 0; l < S; ++l) anew[l] = taken[l] & on_jump[l];
        first_stage_of(anew);
    }
    // The first stage of some samples; that of the others stays.
    void first_stage_of(const Flag* some) {
        I mask[C];
        Base::load_mask(some, mask);
        for (int i = 0; i < rows * C; ++i) spare[i] = k[i];
        this->first_stage();
        for (int i = 0; i < rows * C; ++i) k[i] = mask[i % C] ? k[i] : spare[i];
    }
    // Results at times inside the steps taken, round by round until every sample has its own.
    void write_inside(const Flag* taken, const double* after) {
        bool extended = false;
        Flag counted[S] = {};
        for (;;) {
            double theta[S];
            Flag here[S], pending = 0, inside = 0;
            for (int l = 0; l < S; ++l) {
                here[l] = taken[l] & Flag((due[l] - after[l]) * direction[l] <= 0);
                theta[l] = due[l] == after[l] ? 1 : (due[l] - t[l]) / h[l];
                theta[l] = here[l] ? theta[l] : 0;
                const Flag within = here[l] & Flag(theta[l] != 1);
                pending |= here[l];
                inside |= within;
                this->dense_steps[l] += within & (1 - counted[l]);
                counted[l] |= within;
            }
            if (!pending) return;
            if (inside) {
                if (!extended) this->extra_stages();
                extended = true;
                this->dense(theta, work);
            }
            auto* output = record ? record->add_output() : nullptr;
            for (int l = 0; l < S; ++l) {
                if (!here[l]) continue;
                write(result[l], theta[l] == 1 ? next : work, l);
                if (output) output->theta[l] = theta[l], output->index[l] = result[l];
                ++result[l];
                this->set_due(l);
            }
        }
    }
};

}  // namespace
