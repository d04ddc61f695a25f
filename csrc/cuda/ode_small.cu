// SPDX-License-Identifier: MIT
#include "ode_small_pull.cuh"

namespace nnsym::cuda::ode {

namespace {

// Bytes of shared memory of a block: some that leave room for several blocks on a multiprocessor, and the most that a
// reverse pass takes.
constexpr std::int64_t kMostShared = 48 * 1024, kMostSharedReverse = 96 * 1024;
constexpr int kMostWidth = 8, kMostUnits = 256, kMostParameters = 8192;

template <class T>
bool fits(const Job& job) {
    bool found = false;
    const core::Field& f = job.field;
    const bool reverse = job.operation == core::kGradient || job.operation == core::kVjp;
    const int stages = reverse ? job.method.used : job.method.stages + job.method.extra;
    by_size(small_width_of(f.d), stages, [&](auto width, auto room) {
        constexpr int D = decltype(width)::value, NS = decltype(room)::value;
        const SmallSizes sizes = small_sizes<T, D>(f.kind, f.layers, f.layers ? f.layer[0].out : 0, f.d, f.degree,
                                                   f.pieces, NS, job.method.terms);
        const std::int64_t sums = warp_numbers<T, D>(f.kind, sizes.units, f.parameters) * std::int64_t(sizeof(T));
        found = sizes.bytes <= kMostShared && (!reverse || sizes.bytes + kPullWarps * sums <= kMostSharedReverse);
    });
    return found;
}

// With `bytes`: only the size of the workspace.
template <class T>
void run_typed(const Job& job, const Plan& plan, Stream stream, std::int64_t* bytes) {
    if (job.operation == core::kVjp) return small_vjp<T>(plan, stream, bytes);
    if (job.operation == core::kGradient) return small_reverse<T>(plan, stream, bytes);
    if (bytes) return;
    switch (job.operation) {
        case core::kEvaluate:
            return small_evaluate<T>(plan, stream);
        case core::kIntegrate:
            if (job.fixed && !job.event) return small_fixed<T>(plan, stream);
            return small_machine<T>(plan, stream);
        default:
            throw std::logic_error("ode: an operation without small kernels");
    }
}

}  // namespace

bool small_serves(const Job& job) {
    const core::Field& f = job.field;
    if (f.d > kMostWidth || f.d < 1 || job.method.stages + job.method.extra > 16) return false;
    if (f.kind == core::kMlp) {
        if (f.layers != 2 || f.time == core::kGate || f.layer[0].out > kMostUnits) return false;
        if (f.layer[1].activation != core::kIdentity) return false;
    } else if (f.kind == core::kLinear) {
        if (f.parameters > kMostParameters) return false;
    } else if (f.kind != core::kConformal) {
        return false;
    }
    if (job.operation == core::kAdjoint || (job.operation == core::kGradient && (!job.fixed || job.event)))
        return false;
    return job.wide ? fits<double>(job) : fits<float>(job);
}

std::int64_t small_workspace(const Job& job) {
    const Plan plan = make_plan(job);
    std::int64_t bytes = 0;
    if (job.wide)
        run_typed<double>(job, plan, Stream(), &bytes);
    else
        run_typed<float>(job, plan, Stream(), &bytes);
    return bytes;
}

void run_small(const Job& job, void* workspace, Stream stream) {
    Plan plan = make_plan(job);
    plan.workspace = workspace;
    if (job.wide)
        run_typed<double>(job, plan, stream, nullptr);
    else
        run_typed<float>(job, plan, stream, nullptr);
}

// --- the field alone

namespace {

template <class T, int D>
__global__ void __launch_bounds__(kSmallThreads) evaluate_field(const __grid_constant__ Plan p) {
    load_small<T, D, 4>(p);
    const std::int64_t id = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (id >= p.samples) return;
    write_state<T, D>(p, p.ys, id, evaluate<T, D, 1>(p.t[id * p.t_sample], read_state<T, D>(p, p.y0, id)));
}

}  // namespace

template <class T>
void small_evaluate(const Plan& p, Stream stream) {
    by_size(small_width_of(p.d), 4, [&](auto width, auto room) {
        constexpr int D = decltype(width)::value;
        if constexpr (decltype(room)::value == 4)
            launch("ode: field", evaluate_field<T, D>, unsigned(divide_up(p.samples, kSmallThreads)), kSmallThreads,
                   std::size_t(plan_sizes<T, D>(p, 4).bytes), stream, p);
    });
}

}  // namespace nnsym::cuda::ode
