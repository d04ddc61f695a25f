// SPDX-License-Identifier: MIT
// A path's states and their gradients, in any layout B.
#pragma once

namespace {

template <class B>
struct Line {
    typedef typename B::V V;
    typedef typename B::I I;
    typedef typename B::Stream Stream;
    typedef std::remove_reference_t<decltype(V{}[0])> T;
    typedef nnsym::wilson::Job Job;
    static constexpr int F = B::kField, kBatch = B::kBatch;

    const Job& job;
    B be;
    V* arena;
    std::int64_t path[kBatch];  // of each lane; lanes past the last path repeat the first
    int count, d, c;
    std::int64_t square, state;  // vectors of a link and of a state, all planes
    Magnus<B> magnus;

    Line(const Job& j, std::int64_t first, int n, void* scratch)
        : job(j),
          be(j.d),
          arena(static_cast<V*>(scratch)),
          count(n),
          d(j.d),
          c(j.c),
          square(F * be.square()),
          state(F * B::vectors(j.d, j.c)),
          magnus(be, j.order, arena) {
        for (int l = 0; l < kBatch; ++l) path[l] = first + (l < n ? l : 0);
    }

    static std::int64_t scratch_vectors(const Job& j) {
        const B be(j.d);
        const std::int64_t square = F * be.square(), state = F * B::vectors(j.d, j.c);
        const std::int64_t entry = F * std::int64_t(j.d) * j.c, unit = F * std::int64_t(j.d) * j.d;
        std::int64_t n = 8 * square + 8 * state + turned(j) + 32 * kSkew;
        n += Exponential<B, 2>::vectors(be) + 2 * square;
        if (j.order > 2) n += (8 + 2 * j.nodes()) * square;
        n += 2 * B::stream_vectors(j.nodes() * unit, j.steps) + 8 * B::stream_vectors(1, j.steps) +
             4 * B::stream_vectors(entry, j.steps + 1);
        if (j.operation == nnsym::wilson::kBackward && !j.states) {
            const std::int64_t k = chunk(j.steps);
            n += (k + 1 + (j.steps + k - 1) / k) * state;
        }
        return n;
    }
    // Room for a state or its adjoint.
    static std::int64_t turned(const Job& j) {
        const std::int64_t a = B::vectors(j.d, j.c), b = B::vectors(j.c, j.d);
        return F * (a > b ? a : b);
    }
    static std::int64_t chunk(std::int64_t steps) {
        std::int64_t k = 1;
        while (k * k < steps) ++k;
        return k;
    }

    V* take(std::int64_t n) {
        V* p = arena;
        arena += n + kSkew;
        return p;
    }
    static V s(double x) { return splat<V>(T(x)); }

    // Numbers of `unit` a step for each path; where: of the path's first step. Paths past the last are read, not
    // written.
    template <class Where>
    Stream stream(std::int64_t unit, std::int64_t steps, bool written, Where where) {
        Stream result;
        B::open(result, arena, unit, steps);
        for (int l = 0; l < kBatch; ++l)
            result.base[l] = written && l >= count ? nullptr : const_cast<T*>(where(path[l]));
        return result;
    }
    const T* at(const void* base, std::int64_t stride, std::int64_t v, std::int64_t unit) const {
        return static_cast<const T*>(base) + v / job.segments * stride + v % job.segments * job.steps * unit;
    }

    struct Links {
        Stream w, dt;
        bool shared;  // one dt for all paths
    };
    Links links() {
        const std::int64_t unit = std::int64_t(job.nodes()) * F * d * d;
        Links result{
            stream(unit, job.steps, false, [&](std::int64_t v) { return at(job.w, job.w_path, v, unit); }), {}, true};
        if (job.order == 0) return result;
        result.shared = job.dt_path == 0 || job.dt_step == 0;
        if (!result.shared)
            result.dt = stream(1, job.steps, false, [&](std::int64_t v) { return at(job.dt, job.dt_path, v, 1); });
        return result;
    }
    V step_size(Links& links, std::int64_t k) {
        if (!links.shared) return B::scalar(links.dt, k);
        V dt;
        for (int l = 0; l < int(sizeof(V) / sizeof(T)); ++l) {
            const std::int64_t v = path[l < kBatch ? l : 0];
            dt[l] = static_cast<const T*>(
                job.dt)[v / job.segments * job.dt_path + (v % job.segments * job.steps + k) * job.dt_step];
            if (job.dt_path == 0 && job.segments == 1) return splat<V>(dt[0]);
        }
        return dt;
    }

    // The exponent of step k; for nodes, dt A_i of all of them are left there.
    V* exponent_of(Links& links, std::int64_t k, V* omega, V* nodes) {
        const V dt = step_size(links, k);
        if (job.order == 2) {
            B::fetch(omega, links.w, k, 0, d, d, dt);
            return omega;
        }
        for (int i = 0; i < job.nodes(); ++i)
            B::fetch(nodes + i * square, links.w, k, std::int64_t(i) * F * d * d, d, d, dt);
        magnus.exponent(omega, nodes);
        return omega;
    }

    void start(V* x) {
        if (!job.x0) {
            for (std::int64_t i = 0; i < state; ++i) x[i] = V{};
            be.add_identity(x, s(1));
            return;
        }
        const std::int64_t unit = F * std::int64_t(d) * c;
        Stream x0 = stream(unit, 1, false, [&](std::int64_t v) { return static_cast<const T*>(job.x0) + v * unit; });
        B::fetch(x, x0, 0, 0, d, c, s(1));
    }

    // 2^k x by two factors, as one may not be a number.
    static V ldexp(V x, I k) {
        const I half = k >> 1;
        return x * power_of_two(half) * power_of_two(k - half);
    }
    // Takes the largest part into [1/2, 1) and counts; zeros and what is not finite have no exponent.
    void normalise(V* x, I& total) const {
        V largest = {};
        for (std::int64_t i = 0; i < state; ++i) largest = maximum(magnitude(x[i]), largest);
        V sum = {};
        for (std::int64_t i = 0; i < state; ++i) sum += x[i] * 0;  // NaN if one is not finite
        largest = B::whole(largest, maximum), sum = B::whole(sum, plus);
        constexpr int kLift = sizeof(T) == 4 ? 64 : 512;
        const auto tiny = largest < s(sizeof(T) == 4 ? 0x1p-100 : 0x1p-960);
        const V lifted = tiny ? largest * s(__builtin_ldexp(1, kLift)) : largest;
        I k = exponent(lifted) + 1 - (tiny ? splat<I>(kLift) : I{});
        const auto ordinary = (largest > V{}) & (sum == V{});
        k = ordinary ? k : I{};
        total = ordinary ? total + k : I{};
        for (std::int64_t i = 0; i < state; ++i) x[i] = ldexp(x[i], -k);
    }
    static V plus(V a, V b) { return a + b; }

    struct Scratch {
        V *omega, *nodes, *link;
    };
    Scratch scratch() { return {take(2 * square), job.order > 2 ? take(job.nodes() * square) : nullptr, take(square)}; }
    // to = U_k from, or U_k itself where `from` is null.
    void advance(Links& links, Exponential<B, 1>& exponential, Scratch& room, std::int64_t k, const V* from, V* to) {
        if (job.order == 0) {
            if (from)
                be.template product<false>(to, B::operand(room.link, links.w, k, d, d), from, d, d, c);
            else
                copy(to, B::view(room.link, links.w, k, d, d));
            return;
        }
        V f;
        const V* m = exponential.run(exponent_of(links, k, room.omega, room.nodes), f);
        if (from) return be.template product<true>(to, m, from, d, d, c, f, from);
        copy(to, m);
        spread(to, f);
        be.add_identity(to, f);
    }
    // A factor that is NaN makes all of a matrix NaN.
    void spread(V* a, V f) const {
        if (!any(f != f)) return;
        for (std::int64_t i = 0; i < square; ++i) a[i] += f - f;
    }
    void copy(V* out, const V* in) const {
        for (std::int64_t i = 0; i < state; ++i) out[i] = in[i];
    }

    void forward() {
        Links u = links();
        Exponential<B, 1> exponential(be, arena);
        Scratch room = scratch();
        V *x = take(state), *next = take(state);
        const std::int64_t unit = F * std::int64_t(d) * c;
        Stream b{};
        if (job.b) b = stream(unit, job.steps, false, [&](std::int64_t v) { return at(job.b, job.b_path, v, unit); });
        Stream out = stream(unit, job.every ? job.steps + 1 : 1, true, [&](std::int64_t v) {
            return job.every ? at(job.out, job.out_path, v, unit) : static_cast<const T*>(job.out) + v * unit;
        });
        V* added = job.b ? take(state) : nullptr;
        I total = {};
        start(x);
        if (job.exponent) normalise(x, total);
        auto emit = [&](std::int64_t k) {
            B::put(out, k, 0, d, c, x, s(1));
            if (!job.exponent) return;
            for (int l = 0; l < count; ++l) job.exponent[path[l] * job.exponent_path + k] = std::int32_t(total[l]);
        };
        if (job.every && job.first) emit(0);
        for (std::int64_t k = 0; k < job.steps; ++k) {
            advance(u, exponential, room, k, k == 0 && !job.x0 && !job.exponent ? nullptr : x, next);
            V* other = x;
            x = next, next = other;
            if (job.b) {
                B::fetch(added, b, k, 0, d, c, s(1));
                for (std::int64_t i = 0; i < state; ++i) x[i] += added[i];
            }
            if (job.exponent) normalise(x, total);
            if (job.every) emit(k + 1);
        }
        if (!job.every) emit(0);
        B::finish(out);
    }

    void backward() {
        Links u = links();
        Exponential<B, 2> pair(be, arena);
        Scratch room = scratch();
        const std::int64_t unit = F * std::int64_t(d) * c, link = std::int64_t(job.nodes()) * F * d * d;
        Stream grad = stream(unit, job.every ? job.steps + 1 : 1, false,
                             [&](std::int64_t v) { return static_cast<const T*>(job.grad) + v * job.grad_path; });
        Stream gw = stream(link, job.steps, true,
                           [&](std::int64_t v) { return static_cast<const T*>(job.gw) + v * job.steps * link; });
        Stream gdt{};
        if (job.gdt)
            gdt = stream(1, job.steps, true,
                         [&](std::int64_t v) { return static_cast<const T*>(job.gdt) + v * job.steps; });
        Stream states{};
        if (job.states)
            states = stream(unit, job.steps + 1, false,
                            [&](std::int64_t v) { return static_cast<const T*>(job.states) + v * job.states_path; });
        u.w.way = u.dt.way = grad.way = states.way = -1;
        V *lambda = take(state), *next = take(state), *before = take(state), *added = take(turned(job)),
          *g = take(square);
        V* gnodes = job.order > 2 ? take(job.nodes() * square) : g;

        const std::int64_t length = chunk(job.steps), chunks = job.states ? 1 : (job.steps + length - 1) / length;
        V *marks = nullptr, *inside = nullptr;
        if (!job.states) marks = take((chunks ? chunks : 1) * state), inside = take((length + 1) * state);
        V* shared = pair.room[0];  // no derivative is in hand while states are recomputed
        Exponential<B, 1> plain(be, shared);
        auto forward_step = [&](std::int64_t k, const V* from, V* to) {
            advance(u, plain, room, k, from, to);
            if (!job.shift) return;
            const I shift = shift_of(k);
            for (std::int64_t i = 0; i < state; ++i) to[i] = ldexp(to[i], -shift);
        };
        if (!job.states) {
            start(marks);
            for (std::int64_t m = 0; m + 1 < chunks; ++m) {
                V *x = inside, *y = inside + state;
                copy(x, marks + m * state);
                for (std::int64_t k = m * length; k < (m + 1) * length; ++k) {
                    forward_step(k, x, y);
                    V* other = x;
                    x = y, y = other;
                }
                copy(marks + (m + 1) * state, x);
            }
        }

        B::fetch(lambda, grad, job.every ? job.steps : 0, 0, d, c, s(1));
        for (std::int64_t m = chunks - 1; m >= 0; --m) {
            const std::int64_t begin = job.states ? 0 : m * length;
            const std::int64_t end = job.states || (m + 1) * length > job.steps ? job.steps : (m + 1) * length;
            if (!job.states) {
                copy(inside, marks + m * state);
                for (std::int64_t k = begin; k + 1 < end; ++k) {
                    V* x = inside + (k - begin) * state;
                    forward_step(k, x, x + state);
                }
            }
            for (std::int64_t k = end - 1; k >= begin; --k) {
                if (job.states)
                    be.fetch_adjoint(added, states, k, 0, d, c, s(1), before);
                else
                    be.adjoint(added, inside + (k - begin) * state, d, c);
                const I shift = shift_of(k);
                if (job.shift)
                    for (std::int64_t i = 0; i < state; ++i) lambda[i] = ldexp(lambda[i], -shift);
                if (job.order == 0) {
                    be.template product<false>(g, lambda, added, d, c, d);
                    B::put(gw, k, 0, d, d, g, s(1));
                    const V* a = B::view(room.link, u.w, k, d, d);
                    be.adjoint(room.omega, a, d, d);
                    be.template product<false>(next, room.omega, lambda, d, d, c);
                } else {
                    V* ah = room.omega;  // the pair: adjoint of the exponent, then the gradient of the link
                    const V dt = step_size(u, k);
                    if (job.order == 2)
                        be.fetch_adjoint(ah, u.w, k, 0, d, d, dt, g);
                    else
                        be.adjoint(ah, exponent_of(u, k, g, room.nodes), d, d);
                    be.template product<false>(ah + square, lambda, added, d, c, d);
                    V f;
                    V* r = pair.run(ah, f);
                    be.template product<true>(next, r, lambda, d, d, c, f, lambda);
                    V* derivative = r + square;
                    spread(derivative, f);
                    if (job.order > 2) magnus.backward(gnodes, derivative, room.nodes);
                    V* gn = job.order > 2 ? gnodes : derivative;
                    V sum = {};
                    for (int i = 0; i < job.nodes(); ++i) {
                        const std::int64_t offset = std::int64_t(i) * F * d * d;
                        if (job.gdt) {
                            B::fetch(g, u.w, k, offset, d, d, s(1));
                            for (std::int64_t e = 0; e < square; ++e) sum += g[e] * (gn + i * square)[e];
                        }
                        B::put(gw, k, offset, d, d, (gn + i * square), dt);
                    }
                    if (job.gdt) B::put_scalar(gdt, k, B::whole(sum, plus));
                }
                V* other = lambda;
                lambda = next, next = other;
                if (job.every) {
                    B::fetch(added, grad, k, 0, d, c, s(1));
                    for (std::int64_t i = 0; i < state; ++i) lambda[i] += added[i];
                }
            }
        }
        B::finish(gw);
        if (job.gdt) B::finish(gdt);
        if (job.gx0) {
            Stream gx0 =
                stream(unit, 1, true, [&](std::int64_t v) { return static_cast<const T*>(job.gx0) + v * unit; });
            B::put(gx0, 0, 0, d, c, lambda, s(1));
            B::finish(gx0);
        }
    }
    I shift_of(std::int64_t k) const {
        I result = {};
        if (!job.shift) return result;
        for (int l = 0; l < int(sizeof(V) / sizeof(T)); ++l)
            result[l] = job.shift[path[l < kBatch ? l : 0] * job.shift_path + k];
        return result;
    }

    void derivative() {
        Exponential<B, 2> pair(be, arena);
        const std::int64_t unit = F * std::int64_t(d) * d;
        V* a = take(2 * square);
        auto open = [&](const void* base, bool written) {
            return stream(unit, 1, written, [&](std::int64_t v) { return static_cast<const T*>(base) + v * unit; });
        };
        Stream w = open(job.w, false), e = open(job.grad, false), out = open(job.out, true);
        B::fetch(a, w, 0, 0, d, d, s(1));
        B::fetch(a + square, e, 0, 0, d, d, s(1));
        V f;
        V* m = pair.run(a, f);
        spread(m + square, f);
        B::put(out, 0, 0, d, d, m + square, s(1));
        B::finish(out);
    }

    void run() {
        switch (job.operation) {
            case nnsym::wilson::kForward:
                return forward();
            case nnsym::wilson::kBackward:
                return backward();
            default:
                return derivative();
        }
    }
};

}  // namespace
