// SPDX-License-Identifier: MIT
// One Runge-Kutta step of a tile of samples, each with its own time and step.
#pragma once

namespace {

typedef std::int64_t Flag;  // 0 or 1 of a sample: as wide as its times, so that loops over samples become vectors

template <class T, int C>
struct Tile {
    typedef typename Vec<T>::F V;
    typedef typename Vec<T>::I I;
    typedef std::remove_reference_t<decltype(I{}[0])> Number;
    static constexpr int L = kLanes<T>, S = C * L;

    const nnsym::ode::Job& job;
    const nnsym::ode::Method& method;
    FieldTile<T, C> field;
    const int d;
    const bool adjoint;  // the state is (y, a), a' = -a^T df/dy
    const int rows;      // of the state
    const int total;     // stages with the extra ones
    V *y, *next, *x, *k, *work;
    V* tapes;  // adjoint: of every stage
    double* tape_times;
    alignas(64) double t[S], h[S];  // h with the sign of the direction
    V step_sizes[C];                // h as vectors, by set_steps
    double closing[S];              // the time of that jump, where `early`
    Flag late[S], early[S];         // the first stage just after a jump; stages at the end of the step just before one

    Tile(const nnsym::ode::Job& j, Arena& arena)
        : job(j),
          method(j.method),
          field(j, arena,
                j.operation == nnsym::ode::kGradient || j.operation == nnsym::ode::kAdjoint ||
                    j.operation == nnsym::ode::kVjp),
          d(j.field.d),
          adjoint(j.operation == nnsym::ode::kAdjoint),
          rows(adjoint ? 2 * d : d),
          total(j.method.stages + j.method.extra) {
        y = arena.take<V>(rows * C);
        next = arena.take<V>(rows * C);
        x = arena.take<V>((rows + 1) * C);
        k = arena.take<V>(std::int64_t(total) * rows * C);
        work = arena.take<V>((rows + 1) * C);
        tapes = arena.take<V>(adjoint ? total * field.tape_vectors : 0);
        tape_times = arena.take<double>(adjoint ? total * S : 0);
        if (!arena.base) return;
        for (int i = 0; i < rows * C; ++i) y[i] = V{};
        for (int l = 0; l < S; ++l) t[l] = h[l] = closing[l] = 0, late[l] = early[l] = 0;
    }

    V* stage(int j) const { return k + std::int64_t(j) * rows * C; }

    static void load_lanes(const double* from, V* to) {
        T lanes[S];
        for (int l = 0; l < S; ++l) lanes[l] = T(from[l]);
        for (int c = 0; c < C; ++c) to[c] = load<V>(lanes + c * L);
    }
    static void load_mask(const Flag* from, I* to) {
        Number lanes[S];
        for (int l = 0; l < S; ++l) lanes[l] = -Number(from[l]);
        for (int c = 0; c < C; ++c) to[c] = load<I>(lanes + c * L);
    }
    // Element r of sample l of a tile.
    static T& at(V* tile, int r, int l) { return reinterpret_cast<T*>(tile)[r * S + l]; }
    static T at(const V* tile, int r, int l) { return reinterpret_cast<const T*>(tile)[r * S + l]; }

    // out = sum_j weight_j k_j
    void combine(const nnsym::ode::Row& row, V* out) const {
        const int n = rows * C;
        if (row.count == 0) {
            for (int i = 0; i < n; ++i) out[i] = V{};
            return;
        }
        T weight[nnsym::ode::kMaxStages];
        const V* from[nnsym::ode::kMaxStages];
        for (int q = 0; q < row.count; ++q) weight[q] = T(row.weight[q]), from[q] = stage(row.stage[q]);
        for (int i = 0; i < n; ++i) {
            V sum = from[0][i] * weight[0];
            for (int q = 1; q < row.count; ++q) sum += from[q][i] * weight[q];
            out[i] = sum;
        }
    }
    void set_steps() { load_lanes(h, step_sizes); }
    // out = y + h sum_j weight_j k_j
    void advance(const nnsym::ode::Row& row, V* out) const {
        combine(row, out);
        for (int i = 0; i < rows * C; ++i) out[i] = y[i] + step_sizes[i % C] * out[i];
    }
    void stage_times(int j, double* out) const {
        if (!field.timed()) return;
        const double c = method.c[j];
        for (int l = 0; l < S; ++l) {
            out[l] = t[l] + c * h[l];
            if (j == 0 && late[l]) out[l] = nudged(out[l], h[l] < 0 ? -1 : 1);
            if (j > 0 && c == 1 && early[l]) out[l] = nudged(closing[l], h[l] < 0 ? 1 : -1);
        }
    }
    // The next number in the direction.
    static double nudged(double v, int direction) {
        if (v == 0) return direction * 2.2250738585072014e-308;  // smaller ones count as zero here
        std::int64_t bits = __builtin_bit_cast(std::int64_t, v);
        bits += (v > 0) == (direction > 0) ? 1 : -1;
        return __builtin_bit_cast(double, bits);
    }
    // k_j at the argument x (rows, and one more that is written)
    void evaluate(int j, const double* times, V* argument) {
        if (!adjoint) return field.eval(times, argument, stage(j), nullptr);
        V* tape = tapes + j * field.tape_vectors;
        for (int l = 0; field.timed() && l < S; ++l) tape_times[j * S + l] = times[l];
        for (int i = 0; i < d * C; ++i) tape[i] = argument[i];
        field.eval(times, tape, stage(j), tape);
        V unused[C] = {};
        field.vjp(times, tape, argument + d * C, work, unused);
        V* slope = stage(j) + d * C;
        for (int i = 0; i < d * C; ++i) slope[i] = -work[i];
    }
    void evaluate_stage(int j) {
        double times[S];
        stage_times(j, times);
        advance(method.a[j], x);
        evaluate(j, times, x);
    }
    void first_stage() {
        double times[S];
        stage_times(0, times);
        for (int i = 0; i < rows * C; ++i) x[i] = y[i];
        evaluate(0, times, x);
    }
    // The stages after the first one, and the state at the end of the step.
    void step() {
        for (int j = 1; j < method.stages; ++j) evaluate_stage(j);
        advance(method.b, next);
    }
    void extra_stages() {
        for (int j = method.stages; j < total; ++j) evaluate_stage(j);
    }

    V tolerance_scale(V size, int r) const { return size * T(job.rtol[r % d]) + T(job.atol[r % d]); }
    // Root mean square of the scaled errors of the step.
    void error(V* out) {
        V sum[2][C] = {};
        for (int e = 0; e < method.errors; ++e) {
            combine(method.error[e], x);
            for (int r = 0; r < rows; ++r)
                for (int c = 0; c < C; ++c) {
                    const int i = r * C + c;
                    const V scale = tolerance_scale(maximum(magnitude(y[i]), magnitude(next[i])), r);
                    const V part = step_sizes[c] * x[i] / scale;
                    sum[e][c] += part * part;
                }
        }
        for (int c = 0; c < C; ++c) {
            if (method.errors == 1)
                out[c] = square_root(sum[0][c] / T(rows));
            else {
                const V below = (sum[0][c] + sum[1][c] * T(0.01)) * T(rows);
                const V ratio = sum[0][c] / square_root(below);
                out[c] = sum[0][c] == V{} ? V{} : ratio;
            }
        }
    }
    // Root mean square of v / (atol + rtol |y|); of v - minus where it is given.
    void scaled_norm(const V* v, const V* minus, V* out) const {
        V sum[C] = {};
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < C; ++c) {
                const int i = r * C + c;
                const V part = (minus ? v[i] - minus[i] : v[i]) / tolerance_scale(magnitude(y[i]), r);
                sum[c] += part * part;
            }
        for (int c = 0; c < C; ++c) out[c] = square_root(sum[c] / T(rows));
    }

    // The state at t + theta h, by the dense output of the step.
    void dense(const double* theta, V* out) const {
        V power[C];
        load_lanes(theta, power);
        for (int i = 0; i < rows * C; ++i) out[i] = V{};
        for (int j = 0; j < total; ++j) {
            V weight[C];
            dense_weight(j, power, weight);
            const V* from = stage(j);
            for (int i = 0; i < rows * C; ++i) out[i] += weight[i % C] * from[i];
        }
        for (int i = 0; i < rows * C; ++i) out[i] = y[i] + step_sizes[i % C] * out[i];
    }
    void dense_weight(int j, const V* theta, V* weight) const {
        const double* row = method.dense + j * method.terms;
        for (int c = 0; c < C; ++c) {
            V sum = splat<V>(T(row[method.terms - 1]));
            for (int p = method.terms - 2; p >= 0; --p) sum = sum * theta[c] + T(row[p]);
            weight[c] = sum * theta[c];
        }
    }
    // d weight / d theta
    void dense_slope(int j, const V* theta, V* slope) const {
        const double* row = method.dense + j * method.terms;
        for (int c = 0; c < C; ++c) {
            V sum = splat<V>(T(method.terms * row[method.terms - 1]));
            for (int p = method.terms - 2; p >= 0; --p) sum = sum * theta[c] + T((p + 1) * row[p]);
            slope[c] = sum;
        }
    }

    bool finite(const V* tile, int l) const {
        T sum = 0;
        for (int r = 0; r < rows; ++r) sum += at(tile, r, l) - at(tile, r, l);
        return sum == 0;
    }
    // Which samples of a tile are finite throughout.
    void all_finite(const V* tile, Flag* out) const {
        V sum[C] = {};
        for (int i = 0; i < rows * C; ++i) sum[i % C] += tile[i] - tile[i];
        for (int c = 0; c < C; ++c) {
            T lanes[L];
            store(lanes, sum[c]);
            for (int l = 0; l < L; ++l) out[c * L + l] = lanes[l] == 0;
        }
    }
    // Adjoint: the gradient of the parameters over the step just taken, of the samples that took it.
    void accumulate_step(const Flag* taken, const Flag* sound) {
        I mask[C];
        load_mask(sound, mask);
        bool all = true;
        for (int l = 0; l < S; ++l) all = all && sound[l];
        for (std::int64_t i = 0; !all && i < method.stages * field.tape_vectors; ++i)
            tapes[i] = mask[i % C] ? tapes[i] : V{};
        for (int j = 0; j < method.stages; ++j) {
            double weight = 0;
            for (int q = 0; q < method.b.count; ++q)
                if (method.b.stage[q] == j) weight = method.b.weight[q];
            double lanes[S];
            for (int l = 0; l < S; ++l) lanes[l] = taken[l] ? -weight * h[l] : 0.0;
            V weights[C];
            load_lanes(lanes, weights);
            field.weigh(tapes + j * field.tape_vectors, weights);
        }
        field.accumulate(tapes, method.used, field.tape_vectors, tape_times);
    }
};

}  // namespace
