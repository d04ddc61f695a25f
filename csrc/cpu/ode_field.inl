// SPDX-License-Identifier: MIT
// The vector fields on a tile of samples, and their reverse passes.
//
// A tape holds what the reverse pass of one evaluation reads; its first rows are the input. After `vjp` it holds what
// `accumulate` turns into gradients of the parameters.
#pragma once

namespace {

template <class T, int C>
struct FieldTile {
    typedef typename Vec<T>::F V;
    typedef typename Vec<T>::I I;
    typedef Panels<T, C> P;
    typedef Outer<T, C> O;
    static constexpr int L = kLanes<T>, S = C * L;

    const nnsym::ode::Job& job;
    const nnsym::ode::Field& field;
    const int d;
    // Gradients of the parameters: sums of a tile, and totals of those before, which lose less to rounding.
    const std::int64_t sum_count;
    V *sums, *totals;
    Net<T, C> net;
    MetricTile<T, C> metric;
    V *wide, *part;  // of the linear field: powers of the input, results of one piece
    std::int64_t tape_vectors;
    int columns;

    static bool linear(const nnsym::ode::Field& f) { return f.kind == nnsym::ode::kLinear; }
    static int columns_of(const nnsym::ode::Field& f) { return (f.degree + 1) * (f.d + 1); }

    static std::int64_t packed_count(const nnsym::ode::Field& f) {
        if (linear(f)) return 2 * std::int64_t(f.pieces) * f.d * columns_of(f);
        return Net<T, C>::packed_count(f);
    }
    static void pack(const nnsym::ode::Field& f, const T* parameters, T* packed) {
        if (!linear(f)) return Net<T, C>::pack(f, parameters, packed);
        const int d = f.d, columns = columns_of(f);
        for (int piece = 0; piece < f.pieces; ++piece, packed += 2 * std::int64_t(d) * columns) {
            const T* w = parameters + std::int64_t(piece) * d * columns;
            auto entry = [&](int i, int column) {  // column: (power, j)
                const int power = column / (d + 1), j = column % (d + 1);
                return w[(std::int64_t(power) * d + i) * (d + 1) + j];
            };
            P::pack(packed, d, columns, entry);
            P::pack(packed + std::int64_t(d) * columns, columns, d, [&](int r, int i) { return entry(i, r); });
        }
    }

    FieldTile(const nnsym::ode::Job& j, Arena& arena, bool with_sums)
        : job(j),
          field(j.field),
          d(j.field.d),
          sum_count(!with_sums      ? 0
                    : linear(field) ? field.pieces * O::blocks(d, columns_of(field))
                                    : Net<T, C>::sum_count(field)),
          sums(arena.take<V>(sum_count)),
          totals(arena.take<V>(sum_count)),
          net(j, arena, with_sums ? sums : nullptr),
          metric(j, net, arena) {
        columns = linear(field) ? columns_of(field) : 0;
        wide = arena.take<V>(columns * C);
        part = arena.take<V>((linear(field) ? (columns > d ? columns : d) : 0) * C);
        tape_vectors = linear(field)                          ? (d + 1 + columns + d) * C
                       : field.kind == nnsym::ode::kConformal ? (d + 1) * C
                       : field.kind == nnsym::ode::kMetric    ? metric.tape_vectors
                                                              : net.tape_vectors;
    }

    // Whether the field reads the time.
    bool timed() const {
        return field.kind == nnsym::ode::kLinear ||
               (field.kind == nnsym::ode::kMlp && field.time != nnsym::ode::kNoTime);
    }
    static void time_vectors(const double* t, V* out) {
        T lanes[S];
        for (int l = 0; l < S; ++l) lanes[l] = T(t[l]);
        for (int c = 0; c < C; ++c) out[c] = load<V>(lanes + c * L);
    }
    // x: d rows, and one more that is written. Where there is a tape, x is its beginning.
    void eval(const double* t, V* x, V* out, V* tape) {
        using namespace nnsym::ode;
        switch (field.kind) {
            case kMlp: {
                V time[C] = {};
                if (field.time != kNoTime) time_vectors(t, time);
                if (field.time == kConcat)
                    for (int c = 0; c < C; ++c) x[d * C + c] = time[c];
                return net.forward(x, time, out, tape);
            }
            case kLinear:
                return eval_linear(t, x, out, tape);
            case kConformal:
                return eval_conformal(x, out);
            case kMetric:
                return metric.eval(x, out, tape);
        }
    }
    // gx (d rows, and one more that is written) = a^T df/dx; gt += a^T df/dt.
    void vjp(const double* t, V* tape, const V* a, V* gx, V* gt) {
        using namespace nnsym::ode;
        switch (field.kind) {
            case kMlp:
                net.backward(tape, a, gx, gt);
                if (field.time == kConcat)
                    for (int c = 0; c < C; ++c) gt[c] += gx[d * C + c];
                return;
            case kLinear:
                return vjp_linear(t, tape, a, gx, gt);
            case kConformal:
                return vjp_conformal(tape, a, gx);
            case kMetric:
                return metric.vjp(tape, a, gx);
        }
    }
    // t: S times for each of the tapes.
    void accumulate(const V* tapes, int count, std::int64_t stride, const double* t) {
        using namespace nnsym::ode;
        if (field.kind == kLinear)
            for (int n = 0; n < count; ++n) accumulate_linear(tapes + n * stride, t + n * S);
        if (field.kind == kMetric)
            for (int n = 0; n < count; ++n) metric.accumulate(tapes + n * stride);
        if (field.kind == kMlp) {
            if (field.time != kGate) return net.accumulate(tapes, count, stride, nullptr);
            for (int n = 0; n < count; ++n) {
                V time[C];
                time_vectors(t + n * S, time);
                net.accumulate(tapes + n * stride, 1, 0, time);
            }
        }
    }
    // What `accumulate` is linear in, times a weight for every sample; nothing where the weight is 0.
    void weigh(V* tape, const V* weight) {
        using namespace nnsym::ode;
        auto scale = [&](V* rows, int n) {
            for (int i = 0; i < n * C; ++i) rows[i] = weight[i % C] == V{} ? V{} : rows[i] * weight[i % C];
        };
        if (field.kind == kMlp)
            for (int l = 0; l < field.layers; ++l) {
                scale(tape + net.view[l].slope, net.view[l].out);
                if (field.time == kGate) scale(tape + net.view[l].gate, net.view[l].out);
            }
        if (field.kind == kLinear) scale(tape + (d + 1 + columns) * C, d);
        if (field.kind == kMetric) metric.weigh(tape, weight);
    }
    void clear() {
        for (std::int64_t i = 0; i < sum_count; ++i) sums[i] = totals[i] = V{};
    }
    void settle() {
        for (std::int64_t i = 0; i < sum_count; ++i) totals[i] += sums[i], sums[i] = V{};
    }
    void collect(T* out) {
        settle();
        for (std::int64_t i = 0; i < sum_count; ++i) sums[i] = totals[i];
        if (!linear(field)) return net.collect(out);
        for (int piece = 0; piece < field.pieces; ++piece) {
            T* w = out + std::int64_t(piece) * d * columns;
            O::collect(sums + piece * O::blocks(d, columns), d, columns, [&](int i, int column) -> T& {
                return w[(std::int64_t(column / (d + 1)) * d + i) * (d + 1) + column % (d + 1)];
            });
        }
    }

    // --- x' = w(t) x + b(t): with the powers theta^p of the time in the piece, sum_p C_p theta^p (x, 1)

    int piece_of(double t) const {
        int low = 0, high = field.pieces - 1;  // the last piece that begins at or before t; the first for earlier times
        while (low < high) {
            const int mid = (low + high + 1) / 2;
            if (field.knots[mid] <= t)
                low = mid;
            else
                high = mid - 1;
        }
        return low;
    }
    void pieces_of(const double* t, int* piece, V* theta) const {
        T lanes[S];
        for (int l = 0; l < S; ++l) {
            piece[l] = field.pieces > 1 ? piece_of(t[l]) : 0;
            lanes[l] = T(field.degree ? t[l] - field.knots[piece[l]] : 0.0);
        }
        for (int c = 0; c < C; ++c) theta[c] = load<V>(lanes + c * L);
    }
    // call(piece, mask of its samples, whether it is that of all) for every piece that occurs
    template <class Call>
    static void each_piece(const int* piece, Call call) {
        typedef std::remove_reference_t<decltype(I{}[0])> Number;
        bool done[S] = {};
        for (int l = 0; l < S; ++l) {
            if (done[l]) continue;
            Number lanes[S];
            bool all = l == 0;
            for (int m = 0; m < S; ++m) {
                const bool same = piece[m] == piece[l];
                lanes[m] = same ? -1 : 0;
                done[m] = done[m] || same;
                all = all && same;
            }
            I mask[C];
            for (int c = 0; c < C; ++c) mask[c] = load<I>(lanes + c * L);
            call(piece[l], mask, all);
        }
    }
    const T* panels(int piece) const {
        return static_cast<const T*>(job.packed) + 2 * std::int64_t(piece) * d * columns;
    }
    void eval_linear(const double* t, const V* x, V* out, V* tape) {
        int piece[S];
        V theta[C];
        pieces_of(t, piece, theta);
        V* powers = tape ? tape + (d + 1) * C : wide;
        for (int c = 0; c < C; ++c) {
            V factor = splat<V>(T(1));
            for (int p = 0; p <= field.degree; ++p, factor *= theta[c]) {
                V* rows = powers + p * (d + 1) * C;
                for (int i = 0; i < d; ++i) rows[i * C + c] = x[i * C + c] * factor;
                rows[d * C + c] = factor;
            }
        }
        each_piece(piece, [&](int one, const I* mask, bool all) {
            if (all) return P::product(panels(one), d, columns, powers, out);
            P::product(panels(one), d, columns, powers, part);
            for (int i = 0; i < d * C; ++i) out[i] = mask[i % C] ? part[i] : out[i];
        });
    }
    void vjp_linear(const double* t, V* tape, const V* a, V* gx, V* gt) {
        int piece[S];
        V theta[C];
        pieces_of(t, piece, theta);
        V* delta = tape + (d + 1 + columns) * C;
        for (int i = 0; i < d * C; ++i) delta[i] = a[i];
        each_piece(piece, [&](int one, const I* mask, bool all) {
            const T* transposed = panels(one) + std::int64_t(d) * columns;
            if (all) return P::product(transposed, columns, d, a, wide);
            P::product(transposed, columns, d, a, part);
            for (int i = 0; i < columns * C; ++i) wide[i] = mask[i % C] ? part[i] : wide[i];
        });
        for (int i = 0; i < d * C; ++i) gx[i] = wide[i];
        for (int c = 0; c < C; ++c) {
            V factor = splat<V>(T(1));  // theta^(p - 1)
            for (int p = 1; p <= field.degree; ++p, factor *= theta[c]) {
                const V* rows = wide + p * (d + 1) * C;
                V along = rows[d * C + c];
                for (int i = 0; i < d; ++i) {
                    gx[i * C + c] += rows[i * C + c] * factor * theta[c];
                    along += rows[i * C + c] * tape[i * C + c];
                }
                gt[c] += along * factor * T(p);
            }
        }
    }
    void accumulate_linear(const V* tape, const double* t) {
        int piece[S];
        V theta[C];
        pieces_of(t, piece, theta);
        const V *powers = tape + (d + 1) * C, *delta = powers + columns * C;
        each_piece(piece, [&](int one, const I* mask, bool all) {
            V* into = sums + one * O::blocks(d, columns);
            if (all) return O::add(into, delta, d, powers, columns, 1, 0);
            for (int i = 0; i < d * C; ++i) part[i] = mask[i % C] ? delta[i] : V{};
            O::add(into, part, d, powers, columns, 1, 0);
        });
    }

    // --- geodesics of (2 / (1 + K x.x))^2 dx.dx: x' = v, v' = -(2 (phi.v) v - v.v phi), phi = -2 K x / (1 + K x.x)

    void eval_conformal(const V* x, V* out) {
        const int n = d / 2;
        const V* v = x + n * C;
        for (int c = 0; c < C; ++c) {
            V xx = {}, xv = {}, vv = {};
            for (int i = 0; i < n; ++i) {
                xx += x[i * C + c] * x[i * C + c];
                xv += x[i * C + c] * v[i * C + c];
                vv += v[i * C + c] * v[i * C + c];
            }
            const V q = T(-2 * field.constant) / (xx * T(field.constant) + T(1));
            for (int i = 0; i < n; ++i) {
                out[i * C + c] = v[i * C + c];
                out[(n + i) * C + c] = q * (vv * x[i * C + c] - xv * T(2) * v[i * C + c]);
            }
        }
    }
    void vjp_conformal(const V* x, const V* a, V* gx) {
        const int n = d / 2;
        const V *v = x + n * C, *b = a + n * C;
        for (int c = 0; c < C; ++c) {
            V xx = {}, xv = {}, vv = {}, bv = {}, bx = {};
            for (int i = 0; i < n; ++i) {
                const V xi = x[i * C + c], vi = v[i * C + c], bi = b[i * C + c];
                xx += xi * xi, xv += xi * vi, vv += vi * vi, bv += bi * vi, bx += bi * xi;
            }
            const V q = T(-2 * field.constant) / (xx * T(field.constant) + T(1));
            const V slope = q * q * (vv * bx - xv * bv * T(2));
            for (int i = 0; i < n; ++i) {
                const V xi = x[i * C + c], vi = v[i * C + c], bi = b[i * C + c];
                gx[i * C + c] = slope * xi + q * (vv * bi - bv * T(2) * vi);
                gx[(n + i) * C + c] = a[i * C + c] + q * (bx * T(2) * vi - bv * T(2) * xi - xv * T(2) * bi);
            }
        }
    }
};

}  // namespace
