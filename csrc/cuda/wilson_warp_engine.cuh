// SPDX-License-Identifier: MIT
// Matrices of d <= 32, each in a group of 4 to 256 threads: exp, Magnus exponents, and states. The operands of the
// current product lie in shared memory; all else that a thread needs of a matrix are its own entries, in registers or
// in slots.
//
// exp is q + f 1 as on the CPU (csrc/cpu/wilson_exp.inl): q holds exp - 1 and f is 1, until exp itself is small.
#pragma once
#include "wilson_warp.h"
#include "wilson_warp_program.cuh"
#include "wilson_warp_tile.cuh"

namespace nnsym::cuda {
namespace {

using nnsym::wilson::Job;

// Where groups find their memory. Numbers are of type T.
struct Memory {
    int operands;              // in shared memory, of each group
    int slots;                 // of each group
    int group;                 // numbers of shared memory of each group
    bool shared_slots;         // after the operands; else in the workspace
    std::int64_t chunk;        // steps between states that are kept
    std::int64_t states;       // numbers of them for each group
    std::int64_t group_bytes;  // of the workspace
    unsigned char* workspace;
};

template <class Sh, bool Reverse>
struct Engine {
    typedef typename Sh::T T;
    typedef nnsym::cuda::Tile<Sh> Tile;
    static constexpr int F = Sh::F, N = Sh::N;
    static constexpr int kPowers = sizeof(T) == 4 ? 3 : 4;
    static constexpr int kSlot = N * Sh::G;  // numbers of a slot
    static constexpr int kTop = kTopDegree<T>;

    const Job& job;
    const Memory& memory;
    Group<Sh> be;
    T *operand, *slots, *kept;
    int d, c;
    std::int64_t path, first;  // first step of the segment

    __device__ __forceinline__ Engine(const Job& j, const Memory& m, T* shared)
        : job(j), memory(m), be(shared + Sh::kGroups * m.group), d(j.d), c(j.c) {
        const int local = int(threadIdx.x) / Sh::G;
        operand = shared + local * m.group;
        const std::int64_t group = std::int64_t(blockIdx.x) * Sh::kGroups + local;
        T* own = reinterpret_cast<T*>(m.workspace + group * m.group_bytes);
        kept = own;
        slots = m.shared_slots ? operand + m.operands * Sh::M : own + m.states;
    }
    __device__ __forceinline__ T* at(int i) const { return operand + i * Sh::M; }
    __device__ __forceinline__ T* slot(int i) const { return slots + i * kSlot; }

    // --- exp

    // The slots of A and its powers are followed by those of their tangents.
    __device__ __forceinline__ void combine(Tile& x, const T (&terms)[6], int t, const Tile& q) const {
        be.clear(x);
        if (terms[5] != T(0)) be.add(x, terms[5], q);
#pragma unroll 1
        for (int i = 0; i < kPowers; ++i)
            if (terms[1 + i] != T(0)) be.add_slot(x, terms[1 + i], slot(t * kPowers + i));
        if (t == 0 && terms[0] != T(0)) be.add_identity(x, terms[0]);
    }
    // q = left right, of operands 0 and 1 (and of tangents 2 and 3); left is right where they are the same.
    template <int Algebra>
    __device__ __forceinline__ void product(Tile (&q)[Algebra], bool same) const {
        const T *left = at(0), *right = same ? left : at(1);
        be.clear(q[0]);
        be.multiply(q[0], left, right, d);
        if constexpr (Algebra == 2) {
            be.clear(q[1]);
            be.multiply(q[1], left, same ? at(2) : at(3), d);
            be.multiply(q[1], at(2), right, d);
        }
    }
    // Of the tile q, overwritten; f comes back, NaN for a matrix that is not finite.
    template <int Algebra>
    __device__ __forceinline__ T exponential(Tile (&q)[Algebra]) const {
        const T norm = be.norm(q[0], T(0), d);
        if (!(norm * T(0) == T(0))) return T(NAN);
        const int degree = degrees_below<T, Algebra>(norm), scheme = degree < kTop ? degree : kTop;
        int count = degree > kTop ? squarings<T, Algebra>(norm) : 0;
        if (count > 0) {
            const T down = power_of_two<T>(-count);
#pragma unroll
            for (int t = 0; t < Algebra; ++t) be.scale(q[t], down);
        }
#pragma unroll
        for (int t = 0; t < Algebra; ++t) be.save(slot(t * kPowers), q[t]);
        T norm2 = T(0);
        const int begin = first_product(scheme), end = first_product(scheme + 1);
#pragma unroll 1
        for (int i = begin; i < end; ++i) {
            const Product<T>& row = product_of<T>(i);
#pragma unroll
            for (int t = 0; t < Algebra; ++t) {
                Tile x;
                combine(x, row.left, t, q[t]);
                be.put(at(2 * t), x);
                if (!row.same) {
                    combine(x, row.right, t, q[t]);
                    be.put(at(2 * t + 1), x);
                }
            }
            be.sync();
            product<Algebra>(q, row.same);
            be.sync();
#pragma unroll
            for (int t = 0; t < Algebra; ++t) {
#pragma unroll 1
                for (int j = 0; j < kPowers; ++j)
                    if (row.sum[1 + j] != T(0)) be.add_slot(q[t], row.sum[1 + j], slot(t * kPowers + j));
                if (row.save >= 0) be.save(slot(t * kPowers + row.save), q[t]);
            }
            if (count > 0 && row.save == 1) norm2 = be.norm(q[0], T(0), d);
            if (count > 0 && row.save == 2) {
                const int spare = spared_squarings<T, Algebra>(count, norm2, be.norm(q[0], T(0), d));
                if (spare > 0) grow<Algebra>(q, power_of_two<T>(spare));
                count -= spare;
            }
        }
        return square<Algebra>(q, count);
    }
    // A, A^2, A^3 and their tangents, in their slots, and q, which is A^3, times powers of `up`.
    template <int Algebra>
    __device__ __forceinline__ void grow(Tile (&q)[Algebra], T up) const {
#pragma unroll
        for (int t = 0; t < Algebra; ++t) {
            Tile x;
            T factor = up;
#pragma unroll 1
            for (int i = 0; i < 3; ++i, factor *= up) {
                be.clear(x);
                be.add_slot(x, factor, slot(t * kPowers + i));
                be.save(slot(t * kPowers + i), x);
            }
#pragma unroll
            for (int e = 0; e < N; ++e) q[t].at[e] = x.at[e];
        }
    }
    template <int Algebra>
    __device__ __forceinline__ T square(Tile (&q)[Algebra], int count) const {
        T f = T(1);
#pragma unroll 1
        for (int k = 0; k < count; ++k) {
            if (f != T(0) && be.norm(q[0], T(1), d) < T(0.5)) {
                be.add_identity(q[0], T(1));
                f = T(0);
            }
#pragma unroll
            for (int t = 0; t < Algebra; ++t) be.put(at(2 * t), q[t]);
            be.sync();
            product<Algebra>(q, true);
            if (f != T(0)) {
#pragma unroll
                for (int t = 0; t < Algebra; ++t) {
                    Tile x;
                    be.get(x, at(2 * t));
                    be.add(q[t], f + f, x);
                }
            }
            be.sync();
        }
        return f;
    }

    // --- a step's exponent

    __device__ __forceinline__ int nodes() const { return job.order == 0 ? 1 : job.order / 2; }

    __device__ __forceinline__ const T* matrix(std::int64_t k, int node) const {
        const std::int64_t square = std::int64_t(d) * d * F;
        return static_cast<const T*>(job.w) + path * job.w_path + ((first + k) * nodes() + node) * square;
    }
    __device__ __forceinline__ T step_size(std::int64_t k) const {
        return static_cast<const T*>(job.dt)[path * job.dt_path + (first + k) * job.dt_step];
    }
    __device__ __forceinline__ void terms(Tile& x, const Terms<T>& row, std::int64_t k, T dt) const {
        be.clear(x);
#pragma unroll 1
        for (int i = 0; i < nodes(); ++i)
            if (row.node[i] != T(0)) be.add_matrix(x, row.node[i] * dt, matrix(k, i), d, d);
#pragma unroll 1
        for (int i = 0; i < (Reverse ? 7 : 3); ++i)
            if (row.slot[i] != T(0)) be.add_slot(x, row.slot[i], slot(i));
    }
    __device__ __forceinline__ void put(T* to, const Tile& x, bool adjoint) const {
        if (adjoint)
            be.put_adjoint(to, x);
        else
            be.put(to, x);
    }
    // Rows of the table of commutators. finish(node, q) takes gradients.
    template <class Finish>
    __device__ __forceinline__ void magnus(Tile& q, int begin, int end, std::int64_t k, T dt, Finish finish) const {
#pragma unroll 1
        for (int i = begin; i < end; ++i) {
            const Commutator<T>& row = commutator_of<T>(i);
            be.clear(q);
            if (row.scale != T(0)) {
                terms(q, row.x, k, dt);
                put(at(0), q, row.adjoint_x);
                terms(q, row.y, k, dt);
                put(at(1), q, row.adjoint_y);
                be.sync();
                be.clear(q);
                be.multiply(q, at(0), at(1), d);
                be.template multiply<true>(q, at(1), at(0), d);
                be.sync();
            }
            Tile x;
            terms(x, row.sum, k, dt);
            be.scale(q, row.scale);
            be.add(q, T(1), x);
            if (row.save >= 0) be.save(slot(row.save), q);
            if (row.save < -1) finish(-2 - row.save, q);
        }
    }
    __device__ __forceinline__ void exponent(Tile& q, std::int64_t k, T dt) const {
        if (job.order == 2) {
            be.clear(q);
            be.add_matrix(q, dt, matrix(k, 0), d, d);
            return;
        }
        const bool six = job.order == 6;
        magnus(q, six ? kExponent6 : kExponent4, six ? kExponent6 + 3 : kExponent4 + 1, k, dt, [](int, Tile&) {});
    }

    // --- states, d x c

    __device__ __forceinline__ void start(Tile& x, std::int64_t v) const {
        be.clear(x);
        if (job.x0)
            be.add_matrix(x, T(1), static_cast<const T*>(job.x0) + v * (std::int64_t(d) * c * F), d, c);
        else
            be.add_identity(x, T(1));
    }
    // q becomes (q + f 1) X, of the state in `state`.
    __device__ __forceinline__ void apply(Tile& q, T f, const T* state) const {
        be.put(at(0), q);
        be.sync();
        be.get(q, state);
        be.scale(q, f);
        be.multiply(q, at(0), state, d);
        be.sync();
    }
    static __device__ __forceinline__ void shift(Tile& x, int k) {
        if (k == 0) return;
        const TwoPowers<T> power(k);
#pragma unroll
        for (int e = 0; e < N; ++e) x.at[e] = power.of(x.at[e]);
    }

    __device__ __forceinline__ void enter(std::int64_t v) {
        path = v / job.segments;
        first = v % job.segments * job.steps;
    }
};

}  // namespace
}  // namespace nnsym::cuda
