// SPDX-License-Identifier: MIT
// Launches of the kernels of matrices up to 8 x 8.
#pragma once
#include "wilson_small_kernels.cuh"

namespace nnsym::cuda {
namespace {

// log2 of the lanes that bring one path's pieces: those that leave the fewest idle, of at least 64 bytes at a time.
inline int log2_lanes(int bytes, bool wide) {
    const int size = wide ? 16 : 4, pieces = divide_up(bytes, size);
    int best = 5, least = 1 << 30;
    for (int log = 5; log >= 0; --log) {
        const int width = 1 << log, waste = divide_up(pieces, width) * width;
        if (waste >= least || (width * size < 64 && width < pieces)) continue;
        least = waste, best = log;
    }
    return best;
}
inline bool whole_pieces(const void* base, std::int64_t a, std::int64_t b, std::int64_t c) {
    return (reinterpret_cast<std::uintptr_t>(base) | std::uintptr_t(a) | std::uintptr_t(b) | std::uintptr_t(c)) % 16 ==
           0;
}

template <class S>
struct Launcher {
    typedef typename S::T T;
    Params p{};
    int bytes = 0;  // of a warp's shared memory

    explicit Launcher(const Job& job) {
        p.job = job;
        p.chunks = divide_up(job.c, S::D);
        // Blocks of steps: whole cache lines of every path where that is few steps.
        const int unit = job.nodes() * job.d * job.d * S::kNumber;
        while (((unit << p.block_log) < 128 || ((unit << p.block_log) % 16)) &&
               (std::int64_t(1) << p.block_log) < job.steps)
            ++p.block_log;
    }
    int take(int size) {
        const int at = bytes;
        bytes += divide_up(size, 16) * 16;
        return at;
    }
    int pitch_of(int size) const {  // rows of neighbouring paths in different banks
        int pitch = divide_up(size, 16) * 16;
        while (pitch / 16 % 8 != S::L % 8) pitch += 16;
        return pitch;
    }
    template <class Way>
    void way(Way& w, decltype(Way::base) base, std::int64_t path, std::int64_t segment, int unit, int steps) {
        w.base = base;
        w.path = path, w.segment = segment, w.unit = unit;
        w.pitch = pitch_of(unit * steps);
        w.wide = whole_pieces(base, path, segment, p.job.steps > steps ? unit * steps : 0);
        w.rows = take(S::kGroups * 8);
    }
    // path: stride in reals.
    void feed(Feed& f, const void* base, std::int64_t path, int unit) {
        const int steps = 1 << p.block_log;
        way(f, static_cast<const unsigned char*>(base), path * int(sizeof(T)), p.job.steps * unit, unit, steps);
        f.lanes_log = log2_lanes(unit * steps, f.wide);
        f.at = take(2 * S::kGroups * f.pitch);
    }
    void drain(void* base, std::int64_t path, std::int64_t segment, int unit) {
        way(p.out, static_cast<unsigned char*>(base), path * int(sizeof(T)), segment * int(sizeof(T)), unit, 1);
        p.out.wide = p.out.wide && unit % 16 == 0;
        p.out.lanes_log = log2_lanes(unit, p.out.wide);
        p.out.at = take(S::kGroups * p.out.pitch);
    }
    void run(const char* operation, void (*kernel)(const Params), Stream stream) {
        p.warp_bytes = bytes;
        int warps = 4;
        while (warps > 1 && warps * bytes > 96 * 1024) warps /= 2;
        const std::int64_t groups = p.job.paths * p.job.segments;
        launch(operation, kernel, dim3(unsigned(divide_up(groups, warps * S::kGroups))), dim3(unsigned(warps * kWarp)),
               std::size_t(warps * bytes), stream, p);
    }
};

template <class S>
std::int64_t exponents_bytes(const Job& job) {
    if (job.order <= 2) return 0;
    return divide_up(job.paths * job.segments * job.steps * job.d * job.d * S::kNumber, 256) * 256;
}
// A state of more columns than matrices have.
template <class S>
std::int64_t columns_bytes(const Job& job) {
    return job.c > S::D ? divide_up(job.paths * job.segments, 128) * 128 * job.d * job.c * S::kNumber : 0;
}
// Where states are recomputed: steps between those that are kept.
inline std::int64_t stretch(const Job& job) {
    std::int64_t length = 1;
    while (length * length < job.steps) ++length;
    return length;
}

// A job on its steps, each of them a path of its own.
inline Job each_step(const Job& job) {
    Job steps = job;
    steps.segments = job.segments * job.steps, steps.steps = 1;
    return steps;
}

// S: a matrix; P: a matrix with a derivative.
template <class S, class P>
struct Small {
    static constexpr int F = S::F;
    typedef typename S::T T;

    static std::int64_t state_bytes(const Job& job) {
        return divide_up(job.paths * job.d * job.c * S::kNumber, 256) * 256;
    }
    static std::int64_t workspace(const Job& job) {
        if (job.operation == wilson::kDerivative) return 0;
        std::int64_t bytes = exponents_bytes<S>(job) + columns_bytes<S>(job);
        if (job.operation == wilson::kBackward && !job.states && job.steps > 0) {
            const std::int64_t length = stretch(job);
            bytes += (divide_up(job.steps, length) + length + 2) * state_bytes(job);
        }
        return bytes;
    }

    static void exponents(const Job& job, void* omega, Stream stream) {
        const Job steps = each_step(job);
        const int square = job.d * job.d * F;
        Launcher<P> l(steps);
        l.feed(l.p.w, job.w, job.w_path, job.nodes() * square * int(sizeof(T)));
        l.drain(omega, steps.segments * square, square, square * int(sizeof(T)));
        l.run("wilson: Magnus exponents", magnus<P>, stream);
    }
    static Job with_exponents(const Job& job, void* omega) {
        Job inner = job;
        inner.order = 2, inner.dt = nullptr;
        inner.w = omega, inner.w_path = job.segments * job.steps * job.d * job.d * F;
        return inner;
    }

    static void forward(const Job& job, unsigned char* space, Stream stream) {
        if (job.order > 2 && job.steps > 0) {
            exponents(job, space, stream);
            return forward(with_exponents(job, space), space + exponents_bytes<S>(job), stream);
        }
        Launcher<S> l(job);
        l.p.space = space;
        l.p.groups = divide_up(job.paths * job.segments, 128) * 128;
        const int unit = job.d * job.c * F;
        l.feed(l.p.w, job.w, job.w_path, job.d * job.d * S::kNumber);
        if (l.p.chunks == 1) {
            if (job.every)
                l.drain(job.out, job.out_path, job.steps * unit, unit * int(sizeof(T)));
            else
                l.drain(job.out, job.segments * unit, unit, unit * int(sizeof(T)));
        }
        if (job.order)
            l.run("wilson: product of exponentials", cuda::forward<S, true>, stream);
        else
            l.run("wilson: ordered product", cuda::forward<S, false>, stream);
    }

    static void backward(const Job& job, unsigned char* space, Stream stream) {
        const int square = job.d * job.d * F;
        if (job.order > 2 && job.steps > 0) {
            exponents(job, space, stream);
            Job inner = with_exponents(job, space);
            inner.gw = space, inner.gdt = nullptr;  // in place: a step's gradient is written when it has been read
            backward(inner, space + exponents_bytes<S>(job), stream);
            Launcher<P> l(each_step(job));
            l.feed(l.p.w, job.w, job.w_path, job.nodes() * square * int(sizeof(T)));
            l.feed(l.p.states, space, job.steps * square, square * int(sizeof(T)));
            l.drain(job.gw, job.steps * job.nodes() * square, job.nodes() * square,
                    job.nodes() * square * int(sizeof(T)));
            return l.run("wilson: gradient of Magnus exponents", magnus_backward<P>, stream);
        }
        if (!job.states && job.steps > 0) return recomputing(job, space, stream);
        with_states(job, nullptr, job.steps, space, stream);
    }

    // Of `total` steps of a path, those of the job; states are given.
    static void with_states(const Job& job, const void* carried, std::int64_t total, void* space, Stream stream) {
        const int square = job.d * job.d * F;
        Launcher<P> l(job);
        l.p.space = space;
        l.p.groups = divide_up(job.paths, 128) * 128;
        l.p.carried = carried, l.p.gdt_path = total;
        l.feed(l.p.w, job.w, job.w_path, square * int(sizeof(T)));
        if (job.steps > 0 && l.p.chunks == 1)
            l.feed(l.p.states, job.states, job.states_path, job.d * job.c * P::kNumber);
        l.drain(job.gw, total * square, 0, square * int(sizeof(T)));
        if (job.order)
            l.run("wilson: gradient of a product of exponentials", cuda::backward<P, true>, stream);
        else
            l.run("wilson: gradient of an ordered product", cuda::backward<P, false>, stream);
    }

    // The job on steps [begin, begin + steps).
    static Job stretch_of(const Job& job, std::int64_t begin, std::int64_t steps) {
        const std::int64_t square = std::int64_t(job.d) * job.d * F, unit = std::int64_t(job.d) * job.c * F;
        Job part = job;
        part.steps = steps;
        part.w = static_cast<const T*>(job.w) + begin * square;
        if (job.dt) part.dt = static_cast<const T*>(job.dt) + begin * job.dt_step;
        if (job.shift) part.shift = job.shift + begin;
        if (job.every) part.grad = static_cast<const T*>(job.grad) + begin * unit;
        part.gw = static_cast<T*>(job.gw) + begin * square;
        if (job.gdt) part.gdt = static_cast<T*>(job.gdt) + begin;
        return part;
    }
    // Keeps the first state of every stretch of about sqrt(steps) steps, and all states of one stretch at a time.
    static void recomputing(const Job& job, unsigned char* space, Stream stream) {
        const std::int64_t unit = std::int64_t(job.d) * job.c * F, each = state_bytes(job);
        const std::int64_t length = stretch(job), stretches = divide_up(job.steps, length);
        unsigned char *inside = space + columns_bytes<S>(job), *marks = inside + (length + 1) * each,
                      *carried = marks + stretches * each;
        auto states = [&](std::int64_t m, bool every) {
            const std::int64_t begin = m * length, left = job.steps - begin;
            Job part = stretch_of(job, begin, left < length ? left : length);
            part.operation = wilson::kForward;
            part.every = part.first = every;
            if (m > 0) part.x0 = marks + m * each;
            part.out = every ? inside : marks + (m + 1) * each;
            part.out_path = (part.steps + 1) * unit;
            part.exponent = nullptr, part.b = nullptr;
            forward(part, space, stream);
        };
        for (std::int64_t m = 0; m + 1 < stretches; ++m) states(m, false);
        for (std::int64_t m = stretches - 1; m >= 0; --m) {
            states(m, true);
            const std::int64_t begin = m * length, left = job.steps - begin;
            Job part = stretch_of(job, begin, left < length ? left : length);
            part.states = inside, part.states_path = (part.steps + 1) * unit;
            if (m > 0) part.gx0 = carried;
            with_states(part, m + 1 < stretches ? carried : nullptr, job.steps, space, stream);
        }
    }

    static void run(const Job& job, void* space, Stream stream) {
        unsigned char* bytes = static_cast<unsigned char*>(space);
        if (job.operation == wilson::kForward) return forward(job, bytes, stream);
        if (job.operation == wilson::kBackward) return backward(job, bytes, stream);
        const int square = job.d * job.d * F;
        Launcher<P> l(job);
        l.feed(l.p.w, job.w, square, square * int(sizeof(T)));
        l.feed(l.p.states, job.grad, square, square * int(sizeof(T)));
        l.drain(job.out, square, 0, square * int(sizeof(T)));
        l.run("wilson: derivative of the exponential", derivative<P>, stream);
    }
};

// The job, or the bytes of its workspace. S: of matrices, P: of those with a derivative.
template <class S, class P>
std::int64_t run_shapes(const Job& job, void* space, Stream stream, bool ask) {
    if (ask) return Small<S, P>::workspace(job);
    Small<S, P>::run(job, space, stream);
    return 0;
}

}  // namespace

// Of one kind of numbers; wide: d from 5 on.
template <class T, int F, bool wide>
std::int64_t run_small_of(const wilson::Job&, void* space, Stream, bool ask);

}  // namespace nnsym::cuda
