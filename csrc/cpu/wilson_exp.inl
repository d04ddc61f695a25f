// SPDX-License-Identifier: MIT
// exp of a matrix, alone or with its derivative along a tangent, in any layout B: Taylor polynomial, scaling, squaring.
//
// The result is M with a factor f for each matrix: exp = M + f 1. As long as f is 1, M holds exp - 1, whose small
// entries would be lost beside one: a step of a path adds M X to X, and squaring takes M to M M + 2 M. Once exp itself
// is small (a decay), exp - 1 would be the inaccurate one: then f becomes 0.
#pragma once

namespace {

template <class V>
NNSYM_INLINE void terms(V& sum, std::int64_t i) {
    (void)sum, (void)i;
}
template <class V, class... Rest>
NNSYM_INLINE void terms(V& sum, std::int64_t i, V c, const V* a, Rest... rest) {
    sum += c * a[i];
    terms(sum, i, rest...);
}
// out = c a + ..., all planes.
template <class V, class... Rest>
NNSYM_INLINE void combine(V* out, std::int64_t n, V c, const V* a, Rest... rest) {
    for (std::int64_t i = 0; i < n; ++i) {
        V sum = c * a[i];
        terms(sum, i, rest...);
        out[i] = sum;
    }
}

// Vectors between matrices, so that a load from one does not wait for a store to the same place of another's page.
constexpr int kSkew = 5;

template <class B, int Algebra>
struct Exponential {
    typedef typename B::V V;
    typedef typename B::I I;
    typedef std::remove_reference_t<decltype(V{}[0])> T;
    static constexpr int kMatrices = 6;
    static constexpr int kTop = taylor::Degrees<T>::count - 1;
    static constexpr int kMostSquarings = sizeof(T) == 4 ? 120 : 1000;

    const B& be;
    V* room[kMatrices];
    std::int64_t n;  // vectors of all planes

    static std::int64_t vectors(const B& be) { return kMatrices * (Algebra * B::kField * be.square() + kSkew); }
    Exponential(const B& b, V*& arena) : be(b), n(Algebra * B::kField * b.square()) {
        for (V*& p : room) p = arena, arena += n + kSkew;
    }

    static V s(double x) { return splat<V>(T(x)); }
    static double theta(int i) {
        const taylor::Degree& degree = taylor::Degrees<T>::list[i];
        return Algebra == 1 ? degree.exponential : degree.derivative;
    }

    // A matrix in, overwritten; exp = M + f 1 out.
    V* run(V* a, V& f) {
        V poison = {};
        const V norm = be.norm(a, poison);
        f = s(1) + poison;
        if (B::kField == 1 && B::kBatch > 1 && be.d() == 1) {  // numbers
            f = f - s(1);
            room[4][0] = Math<T>::exp(a[0]);
            if (Algebra == 2) room[4][1] = room[4][0] * a[1];
            return room[4];
        }
        int i = 0;
        while (i <= kTop && any(norm > s(theta(i)))) ++i;
        if (i > kTop) return scaled(a, norm, f);
        return polynomial(i, a);
    }

private:
    V* polynomial(int i, V* a) {
        switch (taylor::Degrees<T>::list[i].degree) {
            case 2:
                return degree2(a);
            case 4:
                return degree4(a);
            case 8:
                return degree8(a);
            case 12:
                powers3(a);
                return degree12(a);
            default:
                powers3(a);
                return degree18(a);
        }
    }

    V* degree2(V* a) {
        V* r = room[4];
        be.template product<Algebra, false>(r, a, a);
        combine(r, n, s(1), a, s(0.5), r);
        return r;
    }
    V* degree4(V* a) {
        V *a2 = room[0], *p = room[3], *r = room[4];
        be.template product<Algebra, false>(a2, a, a);
        combine(p, n, s(1.0 / 6), a, s(1.0 / 24), a2);
        be.add_identity(p, s(0.5));
        be.template product<Algebra, true>(r, a2, p, s(1), a);
        return r;
    }
    V* degree8(V* a) {
        typedef taylor::T8 C;
        V *a2 = room[0], *p = room[3], *r = room[4], *q = room[5];
        be.template product<Algebra, false>(a2, a, a);
        for (std::int64_t i = 0; i < n; ++i) {
            const V x = a[i], y = a2[i];
            p[i] = s(C::a1) * x + s(C::a2) * y;
            r[i] = x + s(C::c2) * y;
        }
        be.template product<Algebra, true>(q, a2, p, s(C::a3), a2);
        combine(p, n, s(C::b1), a, s(C::b2), a2, s(C::b3), q);
        be.add_identity(p, s(C::b0));
        be.template product<Algebra, true>(r, q, p, s(1), r);
        return r;
    }
    void powers3(V* a) {
        be.template product<Algebra, false>(room[0], a, a);
        be.template product<Algebra, false>(room[1], room[0], a);
    }
    V* degree12(V* a) {
        typedef taylor::T12 C;
        V *a2 = room[0], *a3 = room[1], *p = room[3], *r = room[4], *q = room[5];
        auto cubic = [&](V* out, const double* c) { combine(out, n, s(c[0]), a, s(c[1]), a2, s(c[2]), a3); };
        cubic(p, C::q4);
        cubic(q, C::q3);
        be.template product<Algebra, true>(q, p, p, s(1), q);
        combine(p, n, s(C::q2[1]), a, s(C::q2[2]), a2, s(C::q2[3]), a3, s(1), q);
        be.add_identity(p, s(C::q2[0]));
        cubic(r, C::q1);
        be.template product<Algebra, true>(r, p, q, s(1), r);
        return r;
    }
    V* degree18(V* a) {
        typedef taylor::T18 C;
        V *a2 = room[0], *a3 = room[1], *a6 = room[2], *p = room[3], *r = room[4], *q = room[5];
        be.template product<Algebra, false>(a6, a3, a3);
        combine(p, n, s(C::q1[0]), a, s(C::q1[1]), a2, s(C::q1[2]), a3);
        combine(r, n, s(C::q5[0]), a2, s(C::q5[1]), a3, s(C::q5[2]), a6);
        auto sextic = [&](V* out, const double* c) {
            combine(out, n, s(c[0]), a, s(c[1]), a2, s(c[2]), a3, s(c[3]), a6);
        };
        sextic(q, C::q4);
        be.template product<Algebra, true>(q, p, r, s(1), q);
        combine(p, n, s(C::q3[1]), a, s(C::q3[2]), a2, s(C::q3[3]), a3, s(C::q3[4]), a6, s(1), q);
        be.add_identity(p, s(C::q3[0]));
        sextic(r, C::q2);
        be.template product<Algebra, true>(r, p, q, s(1), r);
        return r;
    }

    // Squarings are counted for each matrix. The 1-norm alone overscales matrices whose powers grow slower than it: all
    // A^k, k > 1, are products of A^2 and A^3, so max(|A^2|^(1/2), |A^3|^(1/3)) may stand for it (Al-Mohy, Higham
    // 2009).
    V* scaled(V* a, V norm, V& f) {
        const double top = theta(kTop);
        const V zero = {};
        I count = norm > s(top) ? exponent(norm * s(1 / top)) + 1 : I{};
        count = count > kMostSquarings ? splat<I>(kMostSquarings) : count;
        scale(a, a, power_of_two(-count));
        powers3(a);
        V unused = {};
        const I room2 = exponent(s(top * top) / maximum(be.norm(room[0], unused), s(smallest()))) >> 1;
        const I room3 = third(exponent(s(top * top * top) / maximum(be.norm(room[1], unused), s(smallest()))));
        I spare = room2 < room3 ? room2 : room3;
        spare = spare < 0 ? I{} : spare;
        spare = spare > count ? count : spare;
        if (any(spare > I{})) {
            const V up = power_of_two(spare);
            count -= spare;
            scale(a, a, up), scale(room[0], room[0], up * up), scale(room[1], room[1], up * up * up);
        }
        V* m = kTop == 3 ? degree12(a) : degree18(a);
        V* next = room[5];
        for (int k = 0; any(count > k); ++k) {
            const auto active = count > k;
            if (any(f != zero)) {
                const V one = active & (be.norm_from_one(m) < s(0.5)) ? f : zero;
                be.add_identity(m, one);
                f = f - one;
            }
            be.template product<Algebra, true>(next, m, m, f + f, m);
            for (std::int64_t i = 0; i < n; ++i) next[i] = active ? next[i] : m[i];
            V* other = m;
            m = next, next = other;
        }
        return m;
    }
    static double smallest() { return sizeof(T) == 4 ? 0x1p-120 : 0x1p-1000; }
    static I third(I x) { return (x * 0x5556) >> 16; }
    void scale(V* out, const V* a, V c) const {
        for (std::int64_t i = 0; i < n; ++i) out[i] = a[i] * c;
    }
};

}  // namespace
