// SPDX-License-Identifier: MIT
// Geodesics of a learned metric: g = L L^T + epsilon 1, L (lower triangle, row by row) the result of a network of the
// position. With v the velocity, r = (D_v g) v - grad(v.g v) / 2 needs one tangent of the network along v and one
// reverse pass of it, never the n^3 Christoffel symbols; then v' = -g^-1 r.
//
// Reverse pass. With a = v' and b = g^-1 (cotangent of v'), the differential is that of
// S = -b.(D_v g) v + D_b(v.g v) / 2 - b.g a with b and a held: a scalar of L, of its tangents along v and b, and of v.
// So the reverse pass of the network with two tangents gives everything, and needs second derivatives of activations.
#pragma once

namespace {

template <class T, int C>
struct MetricTile {
    typedef typename Vec<T>::F V;
    typedef Net<T, C> N;
    typedef Panels<T, C> P;

    N& net;
    const nnsym::ode::Field& field;
    const int n, entries;  // of L
    const bool here;
    // A tape: the state (2 n + 1 rows), three strands of the network (position, tangents along v and along b), the
    // arguments of its activations, the acceleration, the Cholesky factor of g.
    std::int64_t strand, arguments, acceleration, factor, tape_vectors;
    std::int64_t width;  // vectors of the widest layer
    V *own, *left, *right, *cotangents, *work;

    MetricTile(const nnsym::ode::Job& job, N& network, Arena& arena)
        : net(network),
          field(job.field),
          n(field.d / 2),
          entries(n * (n + 1) / 2),
          here(field.kind == nnsym::ode::kMetric) {
        std::int64_t rows = 0;
        int widest = entries > n ? entries : n;
        for (int l = 0; here && l < field.layers; ++l) {
            rows += field.layer[l].out;
            if (field.layer[l].out > widest) widest = field.layer[l].out;
        }
        width = std::int64_t(widest) * C;
        strand = (2 * n + 1) * C;
        arguments = strand + 3 * net.tape_vectors;
        acceleration = arguments + rows * C;
        factor = acceleration + n * C;
        tape_vectors = factor + std::int64_t(n) * n * C;
        own = arena.take<V>(here ? tape_vectors : 0);
        left = arena.take<V>(here ? width : 0);
        right = arena.take<V>(here ? width : 0);
        cotangents = arena.take<V>(here ? 6 * width : 0);
        work = arena.take<V>(here ? 8 * std::int64_t(n) * C : 0);
    }

    V* strand_of(V* tape, int s) const { return tape + strand + s * net.tape_vectors; }
    static void copy(const V* from, V* to, std::int64_t rows) {
        for (std::int64_t i = 0; i < rows * C; ++i) to[i] = from[i];
    }

    // out_j = sum_i L_ij x_i, out_i = sum_j L_ij x_j
    void transposed_times(const V* lower, const V* x, V* out) const {
        for (int i = 0; i < n * C; ++i) out[i] = V{};
        for (int i = 0, e = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j, ++e)
                for (int c = 0; c < C; ++c) out[j * C + c] += lower[e * C + c] * x[i * C + c];
    }
    void add_times(const V* lower, const V* x, V* out, T sign) const {
        for (int i = 0, e = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j, ++e)
                for (int c = 0; c < C; ++c) out[i * C + c] += lower[e * C + c] * x[j * C + c] * sign;
    }
    // entries += sign x_i y_j
    void add_outer(const V* x, const V* y, V* out, T sign) const {
        for (int i = 0, e = 0; i < n; ++i)
            for (int j = 0; j <= i; ++j, ++e)
                for (int c = 0; c < C; ++c) out[e * C + c] += x[i * C + c] * y[j * C + c] * sign;
    }

    // Activations of the layers, their slopes and arguments.
    void position_strand(V* tape) {
        V* s = strand_of(tape, 0);
        const V* x = s;
        V* z = tape + arguments;
        for (int l = 0; l < field.layers; ++l) {
            const auto& v = net.view[l];
            V* kept = s + v.kept;
            P::product(v.panels, v.out, v.in, x, v.bias, kept, [](int, int) {});
            copy(kept, z, v.out);
            Rows<T>::value_and_slope(v.activation, kept, s + v.slope, v.out * C, v.value);
            x = kept;
            z += v.out * C;
        }
    }
    // The tangent of the layers along the strand's input; before the slopes, in the place of the deltas.
    void tangent_strand(V* tape, int number) {
        V *s = strand_of(tape, number), *slopes = strand_of(tape, 0);
        const V* x = s;
        for (int l = 0; l < field.layers; ++l) {
            const auto& v = net.view[l];
            P::product(v.panels, v.out, v.in, x, s + v.slope);
            for (int i = 0; i < v.out * C; ++i) s[v.kept + i] = s[v.slope + i] * slopes[v.slope + i];
            x = s + v.kept;
        }
    }
    const V* result(V* tape, int number) const { return strand_of(tape, number) + net.view[field.layers - 1].kept; }

    // factor of g = L L^T + epsilon 1
    void cholesky(const V* lower, V* f) const {
        for (int i = 0, row = 0; i < n; row += ++i)
            for (int j = 0, other = 0; j <= i; other += ++j)
                for (int c = 0; c < C; ++c) {
                    V g = splat<V>(T(i == j ? field.constant : 0.0));
                    for (int k = 0; k <= j; ++k) g += lower[(row + k) * C + c] * lower[(other + k) * C + c];
                    for (int k = 0; k < j; ++k) g -= f[(i * n + k) * C + c] * f[(j * n + k) * C + c];
                    f[(i * n + j) * C + c] = i == j ? square_root(g) : g / f[(j * n + j) * C + c];
                }
    }
    void solve(const V* f, V* x) const {
        for (int c = 0; c < C; ++c) {
            for (int i = 0; i < n; ++i) {
                V s = x[i * C + c];
                for (int k = 0; k < i; ++k) s -= f[(i * n + k) * C + c] * x[k * C + c];
                x[i * C + c] = s / f[(i * n + i) * C + c];
            }
            for (int i = n - 1; i >= 0; --i) {
                V s = x[i * C + c];
                for (int k = i + 1; k < n; ++k) s -= f[(k * n + i) * C + c] * x[k * C + c];
                x[i * C + c] = s / f[(i * n + i) * C + c];
            }
        }
    }

    void eval(const V* x, V* out, V* tape) {
        if (!tape) {
            copy(x, own, 2 * n);
            tape = own;
        }
        const V* v = x + n * C;
        copy(x, strand_of(tape, 0), n);
        copy(v, strand_of(tape, 1), n);
        position_strand(tape);
        tangent_strand(tape, 1);
        const V *lower = result(tape, 0), *along = result(tape, 1);
        V *p = work, *q = work + n * C, *a = tape + acceleration;
        transposed_times(lower, v, p);
        transposed_times(along, v, q);
        for (int i = 0; i < n * C; ++i) a[i] = V{};
        add_times(along, p, a, T(-1));
        add_times(lower, q, a, T(-1));
        for (int i = 0; i < entries * C; ++i) left[i] = V{};
        add_outer(v, p, left, T(1));  // half the gradient of v.g v in L
        V *g = left, *into = right;
        const V* slopes = strand_of(tape, 0);
        for (int l = field.layers - 1; l >= 0; --l) {
            const auto& layer = net.view[l];
            for (int i = 0; i < layer.out * C; ++i) g[i] *= slopes[layer.slope + i];
            P::product(layer.transposed, layer.in, layer.out, g, into);
            V* swap = g;
            g = into, into = swap;
        }
        for (int i = 0; i < n * C; ++i) a[i] += g[i];
        cholesky(lower, tape + factor);
        solve(tape + factor, a);
        for (int i = 0; i < n * C; ++i) out[i] = v[i], out[n * C + i] = a[i];
    }

    void vjp(V* tape, const V* cotangent, V* gx) {
        const V *v = tape + n * C, *a = tape + acceleration;
        V* b = strand_of(tape, 2);
        copy(cotangent + n * C, b, n);
        solve(tape + factor, b);
        tangent_strand(tape, 2);
        const V *lower = result(tape, 0), *along_v = result(tape, 1), *along_b = result(tape, 2);
        V *p = work, *pv = p + n * C, *pb = pv + n * C, *q = pb + n * C, *qv = q + n * C, *pa = qv + n * C;
        transposed_times(lower, v, p);
        transposed_times(along_v, v, pv);
        transposed_times(along_b, v, pb);
        transposed_times(lower, b, q);
        transposed_times(along_v, b, qv);
        transposed_times(lower, a, pa);
        V* bar[3] = {cotangents, cotangents + width, cotangents + 2 * width};
        V* spare[3] = {cotangents + 3 * width, cotangents + 4 * width, cotangents + 5 * width};
        for (V* rows : bar)
            for (int i = 0; i < entries * C; ++i) rows[i] = V{};
        add_outer(v, qv, bar[0], T(-1));
        add_outer(b, pv, bar[0], T(-1));
        add_outer(v, pb, bar[0], T(1));
        add_outer(b, pa, bar[0], T(-1));
        add_outer(a, q, bar[0], T(-1));
        add_outer(b, p, bar[1], T(-1));
        add_outer(v, q, bar[1], T(-1));
        add_outer(v, p, bar[2], T(1));
        for (int i = 0; i < n * C; ++i) gx[n * C + i] = cotangent[i];
        add_times(lower, qv, gx + n * C, T(-1));
        add_times(along_v, q, gx + n * C, T(-1));
        add_times(along_b, p, gx + n * C, T(1));
        add_times(lower, pb, gx + n * C, T(1));

        V *s0 = strand_of(tape, 0), *s1 = strand_of(tape, 1), *s2 = strand_of(tape, 2);
        const V* z = tape + acceleration;  // the end of the arguments
        for (int l = field.layers - 1; l >= 0; --l) {
            const auto& layer = net.view[l];
            z -= layer.out * C;
            Rows<T>::curvature(layer.activation, z, left, layer.out * C, layer.value);
            V *d0 = s0 + layer.slope, *d1 = s1 + layer.slope, *d2 = s2 + layer.slope;
            for (int i = 0; i < layer.out * C; ++i) {
                const V slope = d0[i];
                d0[i] = slope * bar[0][i] + left[i] * (d1[i] * bar[1][i] + d2[i] * bar[2][i]);
                d1[i] = slope * bar[1][i];
                d2[i] = slope * bar[2][i];
            }
            const V* delta[3] = {d0, d1, d2};
            for (int s = 0; s < 3; ++s) {
                P::product(layer.transposed, layer.in, layer.out, delta[s], spare[s]);
                V* swap = bar[s];
                bar[s] = spare[s], spare[s] = swap;
            }
        }
        for (int i = 0; i < n * C; ++i) {
            gx[i] = bar[0][i];
            gx[n * C + i] += bar[1][i];
        }
    }
    void accumulate(const V* tape) {
        const V* s = tape + strand;
        for (int l = 0; l < field.layers; ++l) {
            const auto& v = net.view[l];
            const V* x = s + (l == 0 ? 0 : net.view[l - 1].kept);
            Outer<T, C>::add(v.sums, s + v.slope, v.out, x, v.in, 3, net.tape_vectors);
            for (int i = 0; i < v.out * C; ++i) v.bias_sums[i / C] += s[v.slope + i];
        }
    }
    void weigh(V* tape, const V* weight) {
        for (int number = 0; number < 3; ++number)
            for (int l = 0; l < field.layers; ++l) {
                V* delta = strand_of(tape, number) + net.view[l].slope;
                for (int i = 0; i < net.view[l].out * C; ++i)
                    delta[i] = weight[i % C] == V{} ? V{} : delta[i] * weight[i % C];
            }
    }
};

}  // namespace
