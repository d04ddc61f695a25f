// SPDX-License-Identifier: MIT
// The ODE family of one ISA unit: exports one table and nothing else.
// clang-format off: in the order in which they build on each other
#include <cstdlib>

#include "../core/ode.h"
#include "../simd/math.h"
#include "../simd/storage.h"
#include "../simd/activations.h"
#include "ode_activate.inl"
#include "ode_rows.inl"
#include "ode_net.inl"
#include "ode_metric.inl"
#include "ode_field.inl"
#include "ode_tile.inl"
#include "ode_record.inl"
#include "ode_samples.inl"
#include "ode_solve.inl"
#include "ode_reverse.inl"
// clang-format on

#define NNSYM_JOIN(a, b) a##b
#define NNSYM_TABLE(isa) NNSYM_JOIN(ode_, isa)

namespace {

using nnsym::ode::Job;

// Evaluation of the field alone, and its reverse pass.
template <class T, int C>
struct Evaluator : Tile<T, C> {
    typedef Tile<T, C> Base;
    typedef typename Base::V V;
    static constexpr int S = Base::S;
    using Base::at, Base::d, Base::job, Base::x, Base::y;
    V* tape;

    Evaluator(const Job& j, Arena& arena) : Base(j, arena) { tape = arena.take<V>(this->field.tape_vectors); }

    bool run(std::int64_t first, std::int64_t end) {
        const bool reverse = job.operation == nnsym::ode::kVjp;
        for (; first < end; first += S) {
            const int count = int(end - first < S ? end - first : S);
            double t[S] = {};
            V* in = reverse ? tape : x;
            for (int l = 0; l < count; ++l) {
                t[l] = job.t[(first + l) * job.t_sample];
                read(job.y0, first, l, in);
                if (reverse) read(job.cotangent, first, l, y);
            }
            for (int l = count; l < S; ++l) {  // places without a sample repeat one, and pull nothing back
                t[l] = t[0];
                for (int r = 0; r < d; ++r) at(in, r, l) = at(in, r, 0), at(y, r, l) = 0;
            }
            this->field.eval(t, in, this->stage(0), reverse ? tape : nullptr);
            if (!reverse) {
                for (int l = 0; l < count; ++l) write(this->stage(0), first, l, job.ys);
                continue;
            }
            V gt[C] = {};
            this->field.vjp(t, tape, y, x, gt);
            for (int l = 0; l < count; ++l) {
                write(x, first, l, job.gy);
                if (job.gt) job.gt[first + l] = double(at(gt, 0, l));
            }
            if (job.gparameters) this->field.accumulate(tape, 1, 0, t);
        }
        return true;
    }
    void read(const void* from, std::int64_t first, int l, V* tile) const {
        for (int r = 0; r < d; ++r) at(tile, r, l) = static_cast<const T*>(from)[(first + l) * d + r];
    }
    void write(const V* tile, std::int64_t first, int l, void* to) const {
        for (int r = 0; r < d; ++r) static_cast<T*>(to)[(first + l) * d + r] = at(tile, r, l);
    }
};

// call(a null pointer of the struct that does the job)
template <class T, int C, class Call>
auto by_operation(const Job& job, Call call) {
    using namespace nnsym::ode;
    if (job.operation == kGradient) return call(static_cast<Reverse<T, C>*>(nullptr));
    if (job.operation == kIntegrate || job.operation == kAdjoint) return call(static_cast<Solver<T, C>*>(nullptr));
    return call(static_cast<Evaluator<T, C>*>(nullptr));
}
template <class T, class Call>
auto by_width(const Job& job, Call call) {
    return job.vectors == 1 ? by_operation<T, 1>(job, call) : by_operation<T, 2>(job, call);
}

// While a kernel works, numbers below the smallest normal one are zero: the hardware takes a hundred times longer over
// them, and tails of activations are full of them.
struct FlushToZero {
#if defined(__SSE2__)
    const unsigned before = _mm_getcsr();
    FlushToZero() { _mm_setcsr(before | 0x8040); }
    ~FlushToZero() { _mm_setcsr(before); }
#elif defined(__aarch64__)
    const std::uint64_t before = __builtin_aarch64_get_fpcr64();
    FlushToZero() { __builtin_aarch64_set_fpcr64(before | (std::uint64_t(1) << 24)); }
    ~FlushToZero() { __builtin_aarch64_set_fpcr64(before); }
#endif
};

template <class T>
bool run(const Job& job, std::int64_t first, std::int64_t end, void* scratch) {
    [[maybe_unused]] const FlushToZero flush;
    return by_width<T>(job, [&](auto* type) {
        typedef std::remove_pointer_t<decltype(type)> Worker;
        Arena arena{static_cast<char*>(scratch)};
        Worker worker(job, arena);
        return worker.run(first, end);
    });
}
template <class T>
std::int64_t scratch_bytes(const Job& job) {
    return by_width<T>(job, [&](auto* type) {
        typedef std::remove_pointer_t<decltype(type)> Worker;
        Arena arena{nullptr};
        Worker worker(job, arena);
        return arena.used;
    });
}
template <class T, class Call>
void with_field(const Job& job, void* scratch, Call call) {
    by_width<T>(job, [&](auto* type) {
        typedef std::remove_pointer_t<decltype(type)> Worker;
        Arena arena{static_cast<char*>(scratch)};
        Worker worker(job, arena);
        call(worker.field);
        return true;
    });
}
template <class T>
void clear(const Job& job, void* scratch) {
    with_field<T>(job, scratch, [](auto& field) { field.clear(); });
}
template <class T>
void collect(const Job& job, void* scratch) {
    with_field<T>(job, scratch, [&](auto& field) { field.collect(static_cast<T*>(job.gparameters)); });
}
template <class T>
std::int64_t packed_bytes(const Job& job) {
    return FieldTile<T, 1>::packed_count(job.field) * std::int64_t(sizeof(T));
}
template <class T>
void pack(const Job& job, void* packed) {
    const T* parameters = static_cast<const T*>(job.parameters);
    if (job.vectors == 1)
        FieldTile<T, 1>::pack(job.field, parameters, static_cast<T*>(packed));
    else
        FieldTile<T, 2>::pack(job.field, parameters, static_cast<T*>(packed));
}

template <class T>
void activate_numbers(int code, int what, const void* in, double parameter, void* out, std::int64_t n) {
    activate<T>(code, what, static_cast<const T*>(in), T(parameter), static_cast<T*>(out), n);
}

template <class T>
double activation_rate(int code, std::int64_t count) {
    typedef typename Vec<T>::F V;
    V z[4], sum = {};
    for (int i = 0; i < 4; ++i) z[i] = iota<V>() * T(0.1) - T(0.7 - 0.2 * i);
    Rows<T>::by_code(code, [&](auto f) {
        for (std::int64_t n = 0; n < count; n += 4)
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                __asm__ volatile("" : NNSYM_REGISTER(z[i]));
                sum += f.value(z[i], V{});
            }
    });
    return double(sum[0]);
}

}  // namespace

namespace nnsym::ode {
extern const Kernels NNSYM_TABLE(NNSYM_ISA);
const Kernels NNSYM_TABLE(NNSYM_ISA) = {
    {packed_bytes<float>, packed_bytes<double>},
    {pack<float>, pack<double>},
    {scratch_bytes<float>, scratch_bytes<double>},
    {::run<float>, ::run<double>},
    {clear<float>, clear<double>},
    {collect<float>, collect<double>},
    {kLanes<float>, kLanes<double>},
    {activate_numbers<float>, activate_numbers<double>},
    {activation_rate<float>, activation_rate<double>},
};
}  // namespace nnsym::ode
