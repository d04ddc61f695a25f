// SPDX-License-Identifier: MIT
// Magnus exponents of a step from dt A at its Gauss nodes, and their gradients, in any layout B. Order 6: Blanes,
// Casas, Oteo, Ros, "The Magnus expansion and some of its applications", Physics Reports 470 (2009), section 5.
#pragma once

namespace {

template <class B>
struct Magnus {
    typedef typename B::V V;
    typedef std::remove_reference_t<decltype(V{}[0])> T;

    const B& be;
    int order, d;
    std::int64_t square;
    V* room_[8];

    Magnus(const B& b, int o, V*& arena) : be(b), order(o), d(b.d()), square(B::kField * b.square()) {
        for (V*& p : room_) {
            p = arena;
            if (order > 2) arena += square + kSkew;
        }
    }
    static V s(double x) { return splat<V>(T(x)); }

    void commutator(V* out, const V* a, const V* b, V* room) {
        be.template product<1, false>(room, b, a);
        be.template product<1, true>(out, a, b, s(-1), room);
    }
    void combine_to(V* out, double x, const V* a, double y, const V* b) { combine(out, square, s(x), a, s(y), b); }
    V* node(V* nodes, int i) const { return nodes + i * square; }

    static constexpr double kOrder4 = 0.14433756729740644113;  // sqrt(3) / 12
    static constexpr double kOrder6 = 1.2909944487358056284;   // sqrt(15) / 3
    struct Order6 {
        V *a1, *a2, *c1, *y, *p, *q;
    };
    Order6 order6(V* nodes) {
        V** r = room_;
        Order6 o{node(nodes, 1), r[0], r[1], r[2], r[3], r[4]};
        combine_to(o.a2, kOrder6, node(nodes, 2), -kOrder6, node(nodes, 0));
        combine(r[5], square, s(10.0 / 3), node(nodes, 2), s(-20.0 / 3), node(nodes, 1), s(10.0 / 3),
                node(nodes, 0));  // a3
        commutator(o.c1, o.a1, o.a2, r[6]);
        combine_to(o.y, 2, r[5], 1, o.c1);
        commutator(o.q, o.a1, o.y, r[6]);
        combine_to(o.q, -1.0 / 60, o.q, 1, o.a2);
        combine(o.p, square, s(-20), o.a1, s(-1), r[5], s(1), o.c1);
        return o;
    }
    // nodes: dt A_i, one after the other.
    void exponent(V* omega, V* nodes) {
        if (order == 4) {
            commutator(omega, node(nodes, 1), node(nodes, 0), room_[0]);
            combine(omega, square, s(kOrder4), omega, s(0.5), node(nodes, 0), s(0.5), node(nodes, 1));
        } else {
            Order6 o = order6(nodes);
            V* a3 = room_[5];
            commutator(omega, o.p, o.q, room_[6]);
            combine(omega, square, s(1.0 / 240), omega, s(1), o.a1, s(1.0 / 12), a3);
        }
    }
    // g: gradient of Omega, overwritten; out: gradients of the nodes, which are read too (out is not nodes).
    void backward(V* out, V* g, V* nodes) {
        V** r = room_;
        if (order == 4) {
            for (int i = 0; i < 2; ++i) {
                be.adjoint(r[0], node(nodes, 1 - i), d, d);
                commutator(node(out, i), r[0], g, r[1]);
                const double sign = i ? -kOrder4 : kOrder4;
                combine_to(node(out, i), sign, node(out, i), 0.5, g);
            }
            return;
        }
        Order6 o = order6(nodes);  // r[5] .. r[7] are free now
        V *h = r[5], *room = r[6], *gp = r[7];
        V *g1 = node(out, 0), *g2 = node(out, 1), *g3 = node(out, 2);
        be.adjoint(h, o.q, d, d);
        commutator(gp, g, h, room);
        combine(gp, square, s(1.0 / 240), gp);
        be.adjoint(h, o.p, d, d);
        commutator(g2, h, g, room);
        combine(g2, square, s(1.0 / 240), g2);
        combine_to(g1, 1, g, -20, gp);
        combine_to(g3, 1.0 / 12, g, -1, gp);
        V *gc1 = gp, *gc2 = g;
        combine(gc2, square, s(-1.0 / 60), g2);
        be.adjoint(h, o.y, d, d);
        commutator(o.p, gc2, h, room);
        combine_to(g1, 1, g1, 1, o.p);
        be.adjoint(h, o.a1, d, d);
        commutator(o.p, h, gc2, room);  // gradient of y = 2 a3 + c1
        combine_to(g3, 1, g3, 2, o.p);
        combine_to(gc1, 1, gc1, 1, o.p);
        commutator(o.p, h, gc1, room);
        combine_to(g2, 1, g2, 1, o.p);
        be.adjoint(h, o.a2, d, d);
        commutator(o.p, gc1, h, room);
        combine_to(g1, 1, g1, 1, o.p);
        for (std::int64_t i = 0; i < square; ++i) {
            const V x = g1[i], y = g2[i] * s(kOrder6), z = g3[i] * s(10.0 / 3);
            g1[i] = z - y, g2[i] = x - z - z, g3[i] = z + y;
        }
    }
};

}  // namespace
