// SPDX-License-Identifier: MIT
// Paths in a group of threads each: states, and their gradients.
#pragma once
#include "wilson_warp_engine.cuh"

namespace nnsym::cuda {
namespace {

template <class Sh>
struct Forward : Engine<Sh, false> {
    typedef Engine<Sh, false> E;
    typedef typename Sh::T T;
    typedef nnsym::cuda::Tile<Sh> Tile;
    using E::E, E::apply, E::at, E::be, E::c, E::d, E::enter, E::exponent, E::exponential, E::first, E::job, E::matrix,
        E::path, E::shift, E::start, E::step_size;
    static constexpr int F = Sh::F;

    __device__ __forceinline__ void run(std::int64_t v) {
        enter(v);
        const std::int64_t entry = std::int64_t(d) * c * F;
        T* const out = job.every ? static_cast<T*>(job.out) + path * job.out_path + first * entry
                                 : static_cast<T*>(job.out) + v * entry;
        const T* const b = job.b ? static_cast<const T*>(job.b) + path * job.b_path + first * entry : nullptr;
        T* const state = at(2);
        int total = 0;
        Tile x;
        start(x, v);
        auto finish = [&](std::int64_t k, bool emitted) {
            if (job.exponent) {
                const T size = be.largest(x, d, c);
                const int shift_by = shift_of_largest(size);
                shift(x, -shift_by);
                total = size > T(0) && size * T(0) == T(0) ? total + shift_by : 0;
            }
            be.put(state, x);
            if (!emitted) return;
            be.write(out + (job.every ? k * entry : 0), x, d, c);
            if (job.exponent && be.thread == 0) job.exponent[path * job.exponent_path + (job.every ? k : 0)] = total;
        };
        finish(0, job.every ? job.first : job.steps == 0);
        const bool identity = !job.x0 && !job.exponent;
        if (job.order == 0) {
            if (job.steps > 0) be.copy_to(at(0), matrix(0, 0), d);
            copy_commit();
        }
#pragma unroll 1
        for (std::int64_t k = 0; k < job.steps; ++k) {
            if (job.order == 0) {
                const T* link = at(int(k & 1));
                if (k + 1 < job.steps) be.copy_to(at(int((k + 1) & 1)), matrix(k + 1, 0), d);
                copy_commit();
                copy_wait<1>();
                be.sync();
                if (k == 0 && identity) {
                    be.get(x, link);
                } else {
                    be.clear(x);
                    be.multiply(x, link, state, d);
                }
                be.sync();
            } else {
                Tile q[1];
                exponent(q[0], k, step_size(k));
                const T f = exponential(q);
                if (k == 0 && identity) {
                    be.add_identity(q[0], f);
                    if (f != f) be.scale(q[0], f);
                } else {
                    apply(q[0], f, state);
                }
                x = q[0];
            }
            if (b) be.add_matrix(x, T(1), b + k * entry, d, c);
            finish(k + 1, job.every || k + 1 == job.steps);
        }
        copy_wait<0>();
        be.sync();
    }
};

template <class Sh>
struct Backward : Engine<Sh, true> {
    typedef Engine<Sh, true> E;
    typedef typename Sh::T T;
    typedef nnsym::cuda::Tile<Sh> Tile;
    using E::E, E::apply, E::at, E::be, E::c, E::d, E::enter, E::exponent, E::exponential, E::first, E::job, E::kept,
        E::magnus, E::matrix, E::memory, E::nodes, E::path, E::shift, E::slot, E::start, E::step_size;
    static constexpr int F = Sh::F;

    __device__ __forceinline__ int shift_of(std::int64_t k) const {
        return job.shift ? job.shift[path * job.shift_path + k] : 0;
    }
    // x = U_k X of the state in operand 3.
    __device__ __forceinline__ void advance(Tile& x, std::int64_t k) const {
        if (job.order == 0) {
            be.fetch(x, matrix(k, 0), d, d);
            apply(x, T(0), at(3));
        } else {
            Tile q[1];
            exponent(q[0], k, step_size(k));
            const T f = exponential(q);
            apply(q[0], f, at(3));
            x = q[0];
        }
        shift(x, -shift_of(k));
    }
    __device__ __forceinline__ void run(std::int64_t v) {
        enter(v);
        const std::int64_t entry = std::int64_t(d) * c * F, square = std::int64_t(d) * d * F;
        const std::int64_t steps = job.steps;
        const bool derivative = job.operation == nnsym::wilson::kDerivative, recall = !job.states && !derivative;
        const T* const grad = static_cast<const T*>(job.grad) + path * job.grad_path;
        const std::int64_t length = recall ? memory.chunk : steps;
        const std::int64_t chunks = recall && steps > 0 ? (steps + length - 1) / length : 1;
        T* const marks = kept;
        T* const inside = kept + chunks * entry;
        T* const lambda = slot(memory.slots - 1);

        Tile q[2];
        if (!derivative) {
            be.fetch(q[0], grad + (job.every ? steps * entry : 0), d, c);
            be.save(lambda, q[0]);
        }
        // From the start to the last mark, then the chunks from the last to the first.
#pragma unroll 1
        for (std::int64_t m = recall ? -1 : 0; m < chunks; ++m) {
            const std::int64_t chunk = chunks - 1 - m;
            const std::int64_t begin = chunk * length, end = begin + length < steps ? begin + length : steps;
            if (recall) {
                // m < 0: marks 0 .. chunks - 1, by one run with a mark after each chunk.
                const std::int64_t from = m < 0 ? 0 : begin, to = m < 0 ? (chunks - 1) * length : end - 1;
                T* const where = m < 0 ? marks : inside;
                const std::int64_t every = m < 0 ? length : 1;
                if (m < 0)
                    start(q[0], v);
                else
                    be.fetch(q[0], marks + chunk * entry, d, c);
                be.write(where, q[0], d, c);
                std::int64_t left = every;
                T* next = where;
#pragma unroll 1
                for (std::int64_t k = from; k < to; ++k) {
                    be.put(at(3), q[0]);
                    advance(q[0], k);
                    if (--left > 0) continue;
                    left = every, next += entry;
                    be.write(next, q[0], d, c);
                }
                if (m < 0) continue;
            }
#pragma unroll 1
            for (std::int64_t k = end - 1; k >= begin; --k) {
                T dt = T(1);
                if (!derivative) {
                    // The gradient of the link: lambda X^H.
                    const T* const before =
                        recall ? inside + (k - begin) * entry
                               : static_cast<const T*>(job.states) + path * job.states_path + k * entry;
                    be.fetch(q[1], before, d, c);
                    be.put_adjoint(at(1), q[1]);
                    be.clear(q[0]);
                    be.add_slot(q[0], T(1), lambda);
                    shift(q[0], -shift_of(k));
                    be.save(lambda, q[0]);
                    be.put(at(0), q[0]);
                    be.sync();
                    be.clear(q[1]);
                    be.multiply(q[1], at(0), at(1), c);
                    be.sync();
                    if (job.order == 0) {
                        be.write(static_cast<T*>(job.gw) + (path * steps + k) * square, q[1], d, d);
                        be.fetch(q[0], matrix(k, 0), d, d);
                    } else {
                        dt = step_size(k);
                        exponent(q[0], k, dt);
                    }
                    be.put_adjoint(at(0), q[0]);
                    be.sync();
                    be.get(q[0], at(0));
                    be.sync();
                } else {
                    be.fetch(q[0], matrix(0, 0), d, d);
                    be.fetch(q[1], grad, d, d);
                }
                T f = T(0);
                if (job.order > 0) {
                    f = exponential(q);
                    if (f != f) be.scale(q[1], f);
                }
                if (derivative) {
                    be.write(static_cast<T*>(job.out) + v * square, q[1], d, d);
                    continue;
                }
                if (job.order > 2) be.save(slot(0), q[1]);
                // The adjoint state before the step.
                Tile x;
                be.clear(x);
                be.add_slot(x, T(1), lambda);
                be.put(at(3), x);
                apply(q[0], f, at(3));
                if (job.every) be.add_matrix(q[0], T(1), grad + k * entry, d, c);
                be.save(lambda, q[0]);
                if (job.order == 0) continue;
                T part = T(0);
                auto finish = [&](int node, Tile& g) {
                    if (job.gdt) {
                        be.fetch(x, matrix(k, node), d, d);
#pragma unroll
                        for (int r = 0; r < Sh::R; ++r)
#pragma unroll
                            for (int e = 0; e < Sh::C; ++e)
                                if (be.row(r) < d && be.column(e) < d)
#pragma unroll
                                    for (int i = 0; i < F; ++i)
                                        part += g.at[(r * Sh::C + e) * F + i] * x.at[(r * Sh::C + e) * F + i];
                    }
                    be.scale(g, dt);
                    be.write(static_cast<T*>(job.gw) + ((path * steps + k) * nodes() + node) * square, g, d, d);
                };
                if (job.order == 2) {
                    finish(0, q[1]);
                } else {
                    const bool six = job.order == 6;
                    magnus(q[1], six ? kGradient6 : kGradient4, six ? kMagnusRows : kGradient4 + 2, k, dt, finish);
                }
                if (job.gdt) {
                    part = be.sum(part);
                    if (be.thread == 0) static_cast<T*>(job.gdt)[path * steps + k] = part;
                }
            }
        }
        if (job.gx0) {
            be.clear(q[0]);
            be.add_slot(q[0], T(1), lambda);
            be.write(static_cast<T*>(job.gx0) + v * entry, q[0], d, c);
        }
    }
};

template <class Sh, bool Reverse>
__global__ void __launch_bounds__(Sh::kThreads, 256 / Sh::kThreads) line_kernel(const Job job, const Memory memory) {
    typedef typename Sh::T T;
    std::conditional_t<Reverse, Backward<Sh>, Forward<Sh>> line(job, memory, reinterpret_cast<T*>(dynamic_shared()));
    const std::int64_t stride = std::int64_t(gridDim.x) * Sh::kGroups, paths = job.paths * job.segments;
    for (std::int64_t v = std::int64_t(blockIdx.x) * Sh::kGroups + int(threadIdx.x) / Sh::G; v < paths; v += stride) {
        line.run(v);
    }
}

}  // namespace
}  // namespace nnsym::cuda
