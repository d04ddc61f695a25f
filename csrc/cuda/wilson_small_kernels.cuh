// SPDX-License-Identifier: MIT
// The kernels of matrices up to 8 x 8.
#pragma once
#include "wilson_small_worker.cuh"

namespace nnsym::cuda {
namespace {

template <class S, bool Exp>
__global__ void __launch_bounds__(128) forward(const __grid_constant__ Params p) {
    typedef typename S::T T;
    Worker<S> me(p);
    me.open(1);
    const Job& job = p.job;
    const int chunks = p.chunks, unit = job.d * job.c * S::F;
    Mat<S> x;
    int total = 0;
    bool ordinary = true;
    T most = 0;

    // The states that the step has made: normalised, and as entry k of the results.
    auto finish = [&](std::int64_t k, bool written) {
        TwoPowers<T> down(0);
        if (job.exponent) {
            most = group_max<S>(most);
            const int shift = shift_of_largest(most);
            ordinary = most > 0 && most * 0 == 0;
            total = ordinary ? total + shift : 0;
            down = TwoPowers<T>(-shift);
            most = 0;
            if (written && me.here && me.l == 0) job.exponent[me.path * job.exponent_path + k] = total;
        }
        for (int chunk = 0; chunk < chunks; ++chunk) {
            if (chunks > 1) me.recall(x, chunk);
            if (job.exponent) {
                each<S, 1>([&](int u, int i, int j) { x.at[u][i][j] = down.of(x.at[u][i][j]); });
                if (chunks > 1) me.keep(x, chunk);
            }
            if (!written) continue;
            if (chunks == 1) {
                me.put(x, me.tile(), job.c);
                me.leave(k);
            } else if (me.here) {
                T* out = static_cast<T*>(job.out) +
                         (job.every ? me.path * job.out_path + (me.segment * job.steps + k) * unit : me.v * unit);
                me.store(x, out, job.c, chunk * S::D);
            }
        }
    };

    for (int chunk = 0; chunk < chunks; ++chunk) {
        me.start(x, chunk);
        if (chunks > 1) me.keep(x, chunk);
        most = largest_of(most, me.largest(x));
    }
    const bool first = job.every ? job.first : job.steps == 0;
    if (job.exponent || first) finish(0, first);
    for (std::int64_t k = 0; k < job.steps; ++k) {
        me.next(1);
        Mat<S> m;
        T f;
        me.template link<Exp>(m, f, k);
        most = 0;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            if (chunks > 1) me.recall(x, chunk);
            if (k == 0 && !job.x0 && !job.exponent) {  // from the identity
                x = m;
                if (Exp) {
                    each<S, 1>([&](int u, int i, int j) { x.at[u][i][j] += f - f; });
                    add_identity(x, f);
                }
            } else
                me.template advance<Exp>(x, m, f);
            if (job.shift) me.shift(x, k);
            if (job.b) {
                Mat<S> b;
                me.load(b, static_cast<const T*>(job.b) + me.path * job.b_path + (me.segment * job.steps + k) * unit,
                        job.c, chunk * S::D);
                each<S, 1>([&](int u, int i, int j) { x.at[u][i][j] += b.at[u][i][j]; });
            }
            if (job.exponent) most = largest_of(most, me.largest(x));
            if (chunks > 1) me.keep(x, chunk);
        }
        const bool written = job.every || k + 1 == job.steps;
        if (job.exponent || written) finish(job.every ? k + 1 : 0, written);
    }
}

template <class S, bool Exp>
__global__ void __launch_bounds__(128) backward(const __grid_constant__ Params p) {
    typedef typename S::T T;
    Worker<S> me(p);
    me.open(-1);
    const Job& job = p.job;
    const int chunks = p.chunks, unit = job.d * job.c * S::F;
    Mat<S> lambda;
    const T* grad = static_cast<const T*>(job.grad) + me.path * job.grad_path;

    for (int chunk = 0; chunk < chunks; ++chunk) {
        me.load(lambda,
                p.carried ? static_cast<const T*>(p.carried) + me.v * unit : grad + (job.every ? job.steps * unit : 0),
                job.c, chunk * S::D);
        if (chunks > 1) me.keep(lambda, chunk);
    }
    for (std::int64_t k = job.steps - 1; k >= 0; --k) {
        me.next(-1);
        Mat<S> g;
        set_zero(g);
        for (int chunk = 0; chunk < chunks; ++chunk) {
            if (chunks > 1) me.recall(lambda, chunk);
            if (job.shift) {
                me.shift(lambda, k);
                if (chunks > 1) me.keep(lambda, chunk);
            }
            Mat<S> before;
            if (chunks == 1)
                me.load_adjoint(before, me.at(p.states), job.c, 0);
            else
                me.load_adjoint(before, static_cast<const T*>(job.states) + me.path * job.states_path + k * unit, job.c,
                                chunk * S::D);
            multiply(g, lambda, before);
        }
        const T* a = me.at(p.w);
        Mat<S> back;  // the adjoint of the link, less f
        T f = 0;
        if constexpr (Exp) {
            const T dt = me.step_size(k);
            Mat<S, 2> pair, r;
            me.load_adjoint(back, a, job.d, 0, dt);
            each<S, 1>([&](int u, int i, int j) {
                pair.at[u][i][j] = back.at[u][i][j];
                pair.at[S::F + u][i][j] = g.at[u][i][j];
            });
            Exponential<S, 2>::run(r, pair, f, me.own());
            each<S, 1>([&](int u, int i, int j) {
                back.at[u][i][j] = r.at[u][i][j];
                g.at[u][i][j] = r.at[S::F + u][i][j] + (f - f);
            });
            if (job.gdt) {
                Mat<S> w;
                me.read(w, a, T(1));
                T sum = 0;
                each<S, 1>([&](int u, int i, int j) { sum += w.at[u][i][j] * g.at[u][i][j]; });
                sum = group_sum<S>(sum);
                if (me.here && me.l == 0) static_cast<T*>(job.gdt)[me.path * p.gdt_path + k] = sum;
            }
            me.put(g, me.tile(), job.d, dt);
        } else {
            me.load_adjoint(back, a, job.d, 0);
            me.put(g, me.tile(), job.d);
        }
        me.leave(k);
        for (int chunk = 0; chunk < chunks; ++chunk) {
            if (chunks > 1) me.recall(lambda, chunk);
            me.template advance<Exp>(lambda, back, f);
            if (job.every) {
                Mat<S> more;
                me.load(more, grad + k * unit, job.c, chunk * S::D);
                each<S, 1>([&](int u, int i, int j) { lambda.at[u][i][j] += more.at[u][i][j]; });
            }
            if (chunks > 1) me.keep(lambda, chunk);
        }
    }
    if (!job.gx0 || !me.here) return;
    for (int chunk = 0; chunk < chunks; ++chunk) {
        if (chunks > 1) me.recall(lambda, chunk);
        me.store(lambda, static_cast<T*>(job.gx0) + me.v * unit, job.c, chunk * S::D);
    }
}

// The derivative of exp at w along the matrix that `states` brings.
template <class S>
__global__ void __launch_bounds__(128) derivative(const __grid_constant__ Params p) {
    typedef typename S::T T;
    Worker<S> me(p);
    me.open(1);
    me.next(1);
    Mat<S> one;
    Mat<S, 2> pair, r;
    me.read(one, me.at(p.w), T(1));
    each<S, 1>([&](int u, int i, int j) { pair.at[u][i][j] = one.at[u][i][j]; });
    me.read(one, me.at(p.states), T(1));
    each<S, 1>([&](int u, int i, int j) { pair.at[S::F + u][i][j] = one.at[u][i][j]; });
    T f;
    Exponential<S, 2>::run(r, pair, f, me.own());
    each<S, 1>([&](int u, int i, int j) { one.at[u][i][j] = r.at[S::F + u][i][j] + (f - f); });
    me.put(one, me.tile(), p.job.d);
    me.leave(0);
}

// --- Magnus exponents: every step of every path on its own, as a path of one step.

// to += by [a, b]
template <class S>
__device__ __forceinline__ void add_commutator(Mat<S>& to, const Mat<S>& a, const Mat<S>& b, typename S::T by) {
    Mat<S> u, v;
    set_zero(u);
    multiply(u, b, a);
    each<S, 1>([&](int p, int i, int j) { v.at[p][i][j] = -u.at[p][i][j]; });
    multiply(v, a, b);
    each<S, 1>([&](int p, int i, int j) { to.at[p][i][j] += by * v.at[p][i][j]; });
}

template <class S>
struct Order6 {
    typedef typename S::T T;
    Mat<S> a1, a2, a3, c1, y, p, q;

    // From dt A_i at `nodes`.
    __device__ __forceinline__ Order6(const Worker<S>& me, const T* nodes, T dt) {
        const int square = me.p.job.d * me.p.job.d * S::F;
        Mat<S> low, high;
        me.read(low, nodes, dt), me.read(a1, nodes + square, dt), me.read(high, nodes + 2 * square, dt);
        each<S, 1>([&](int u, int i, int j) {
            const T x = low.at[u][i][j], z = high.at[u][i][j];
            a2.at[u][i][j] = T(kMagnus6) * z - T(kMagnus6) * x;
            a3.at[u][i][j] = T(10.0 / 3) * z - T(20.0 / 3) * a1.at[u][i][j] + T(10.0 / 3) * x;
            q.at[u][i][j] = a2.at[u][i][j];
        });
        set_zero(c1);
        add_commutator(c1, a1, a2, T(1));
        each<S, 1>([&](int u, int i, int j) {
            y.at[u][i][j] = 2 * a3.at[u][i][j] + c1.at[u][i][j];
            p.at[u][i][j] = T(-20) * a1.at[u][i][j] - a3.at[u][i][j] + c1.at[u][i][j];
        });
        add_commutator(q, a1, y, T(-1.0 / 60));
    }
};

template <class S>
__global__ void __launch_bounds__(128) magnus(const __grid_constant__ Params p) {
    typedef typename S::T T;
    Worker<S> me(p);
    me.open(1);
    me.next(1);
    const T dt = me.step_size(0);
    const T* nodes = me.at(p.w);
    const int square = p.job.d * p.job.d * S::F;
    Mat<S> omega;
    if (p.job.order == 4) {
        Mat<S> a, b;
        me.read(a, nodes, dt), me.read(b, nodes + square, dt);
        each<S, 1>([&](int u, int i, int j) { omega.at[u][i][j] = T(0.5) * a.at[u][i][j] + T(0.5) * b.at[u][i][j]; });
        add_commutator(omega, b, a, T(kMagnus4));
    } else {
        const Order6<S> o(me, nodes, dt);
        each<S, 1>([&](int u, int i, int j) { omega.at[u][i][j] = o.a1.at[u][i][j] + T(1.0 / 12) * o.a3.at[u][i][j]; });
        add_commutator(omega, o.p, o.q, T(1.0 / 240));
    }
    me.put(omega, me.tile(), p.job.d);
    me.leave(0);
}

// From the gradient of Omega, which `states` brings: those of the nodes and of dt.
template <class S>
__global__ void __launch_bounds__(128) magnus_backward(const __grid_constant__ Params p) {
    typedef typename S::T T;
    Worker<S> me(p);
    me.open(1);
    me.next(1);
    const T dt = me.step_size(0);
    const T* nodes = me.at(p.w);
    const int d = p.job.d, square = d * d * S::F;
    Mat<S> g, w;
    me.read(g, me.at(p.states), T(1));
    T sum = 0;
    auto give = [&](int node, const Mat<S>& gradient) {
        me.read(w, nodes + node * square, T(1));
        each<S, 1>([&](int u, int i, int j) { sum += w.at[u][i][j] * gradient.at[u][i][j]; });
        me.put(gradient, me.tile() + node * square, d, dt);
    };
    if (p.job.order == 4) {
#pragma unroll
        for (int node = 0; node < 2; ++node) {
            me.load_adjoint(w, nodes + (1 - node) * square, d, 0, dt);
            Mat<S> gradient;
            each<S, 1>([&](int u, int i, int j) { gradient.at[u][i][j] = T(0.5) * g.at[u][i][j]; });
            add_commutator(gradient, w, g, node ? T(-kMagnus4) : T(kMagnus4));
            give(node, gradient);
        }
    } else {
        const Order6<S> o(me, nodes, dt);
        Mat<S> gp, g1, g2, g3, t;
        set_zero(gp), set_zero(g2);
        add_commutator(gp, g, adjoint(o.q), T(1.0 / 240));
        add_commutator(g2, adjoint(o.p), g, T(1.0 / 240));
        each<S, 1>([&](int u, int i, int j) {
            const T x = g.at[u][i][j], y = gp.at[u][i][j];
            g1.at[u][i][j] = x - 20 * y;
            g3.at[u][i][j] = T(1.0 / 12) * x - y;
            g.at[u][i][j] = T(-1.0 / 60) * g2.at[u][i][j];
        });
        add_commutator(g1, g, adjoint(o.y), T(1));
        const Mat<S> h = adjoint(o.a1);
        set_zero(t);
        add_commutator(t, h, g, T(1));
        each<S, 1>([&](int u, int i, int j) {
            g3.at[u][i][j] += 2 * t.at[u][i][j];
            gp.at[u][i][j] += t.at[u][i][j];
        });
        add_commutator(g2, h, gp, T(1));
        add_commutator(g1, gp, adjoint(o.a2), T(1));
        each<S, 1>([&](int u, int i, int j) {
            const T x = g1.at[u][i][j], y = T(kMagnus6) * g2.at[u][i][j], z = T(10.0 / 3) * g3.at[u][i][j];
            g1.at[u][i][j] = z - y, g2.at[u][i][j] = x - 2 * z, g3.at[u][i][j] = z + y;
        });
        give(0, g1), give(1, g2), give(2, g3);
    }
    sum = group_sum<S>(sum);
    if (p.job.gdt && me.here && me.l == 0) static_cast<T*>(p.job.gdt)[me.v] = sum;
    me.leave(0);
}

}  // namespace
}  // namespace nnsym::cuda
