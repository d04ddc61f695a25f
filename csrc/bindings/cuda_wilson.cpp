// SPDX-License-Identifier: MIT
// The Wilson family on CUDA devices at the boundary: addresses (int, or None) and sizes to jobs. Tensors have the
// shapes of bindings/wilson.cpp; every axis after the first is contiguous. A stride NAME_path is that of the first axis
// of NAME in elements, as torch's stride(0) says it; x0, gw, gdt, gx0 and an `out` without `every` are contiguous.
// kind: 0 float32, 1 float64, 2 complex64, 3 complex128. workspace: uint8 tensor of the bytes that wilson_workspace
// says, or None where it says 0.
#include "../core/wilson.h"

#include "../cuda/wilson.h"
#include "bindings.h"

namespace {

using namespace nnsym::wilson;
using nnsym::cuda::OnDevice;
using nnsym::cuda::Stream;

std::int64_t reals(int kind) {
    return kind >= kComplex64 ? 2 : 1;
}
template <class V = void>
V* pointer(const py::object& o) {
    return reinterpret_cast<V*>(address(o, 0, false));
}

Job job_of(Operation operation, int kind, std::int64_t paths, std::int64_t segments, std::int64_t steps, std::int32_t d,
           std::int32_t c, std::int32_t order) {
    if (kind < 0 || kind >= kKinds) throw std::invalid_argument("kind: 0 to 3");
    if (order != 0 && order != 2 && order != 4 && order != 6) throw std::invalid_argument("order: 0, 2, 4 or 6");
    if (paths < 0 || segments < 1 || steps < 0 || d < 1 || c < 0)
        throw std::invalid_argument("sizes: paths, steps and c must be at least 0, segments and d at least 1");
    Job job{};
    job.operation = operation, job.kind = Kind(kind);
    job.paths = paths, job.segments = segments, job.steps = steps;
    job.d = d, job.c = c, job.order = order;
    return job;
}

void run(const Job& job, int device, std::uintptr_t stream, const py::object& workspace) {
    void* memory = pointer(workspace);
    py::gil_scoped_release release;
    OnDevice guard(device);
    if (nnsym::cuda::wilson_workspace(job) && !memory) throw std::invalid_argument("workspace: is needed, got None");
    nnsym::cuda::run_wilson(job, memory, reinterpret_cast<Stream>(stream));
}

// out: (paths, segments, d, c), or with `every` (paths, segments * steps + 1, d, c); steps: of one segment.
void forward(int device, std::uintptr_t stream, int kind, const py::object& w, std::int64_t w_path,
             const py::object& dt, std::int64_t dt_path, std::int64_t dt_step, const py::object& x0,
             const py::object& b, std::int64_t b_path, const py::object& out, std::int64_t out_path,
             const py::object& exponent, std::int64_t exponent_path, std::int64_t paths, std::int64_t segments,
             std::int64_t steps, std::int32_t d, std::int32_t c, std::int32_t order, bool every, bool first,
             const py::object& workspace) {
    Job job = job_of(kForward, kind, paths, segments, steps, d, c, order);
    const std::int64_t f = reals(kind);
    job.every = every, job.first = first;
    job.w = pointer(w), job.w_path = f * w_path;
    job.dt = pointer(dt), job.dt_path = dt_path, job.dt_step = dt_step;
    job.x0 = pointer(x0);
    job.b = pointer(b), job.b_path = f * b_path;
    job.out = pointer(out), job.out_path = f * out_path;
    job.exponent = pointer<std::int32_t>(exponent), job.exponent_path = exponent_path;
    if (paths == 0) return;
    if (!job.x0 && c != d) throw std::invalid_argument("out: without x0 it is square");
    if (order && steps && !job.dt) throw std::invalid_argument("dt: is needed for a Magnus order, got None");
    if (job.exponent && segments != 1) throw std::invalid_argument("segments: one, where exponents are wanted");
    run(job, device, stream, workspace);
}

// grad: (paths, d, c), or with `every` (paths, steps + 1, d, c).
void backward(int device, std::uintptr_t stream, int kind, const py::object& w, std::int64_t w_path,
              const py::object& dt, std::int64_t dt_path, std::int64_t dt_step, const py::object& x0,
              const py::object& states, std::int64_t states_path, const py::object& shift, std::int64_t shift_path,
              const py::object& grad, std::int64_t grad_path, const py::object& gw, const py::object& gdt,
              const py::object& gx0, std::int64_t paths, std::int64_t steps, std::int32_t d, std::int32_t c,
              std::int32_t order, bool every, const py::object& workspace) {
    Job job = job_of(kBackward, kind, paths, 1, steps, d, c, order);
    const std::int64_t f = reals(kind);
    job.every = every;
    job.w = pointer(w), job.w_path = f * w_path;
    job.dt = pointer(dt), job.dt_path = dt_path, job.dt_step = dt_step;
    job.x0 = pointer(x0);
    job.states = pointer(states), job.states_path = f * states_path;
    job.shift = pointer<std::int32_t>(shift), job.shift_path = shift_path;
    job.grad = pointer(grad), job.grad_path = f * grad_path;
    job.gw = pointer(gw), job.gdt = pointer(gdt), job.gx0 = pointer(gx0);
    if (paths == 0) return;
    if (!job.x0 && c != d) throw std::invalid_argument("grad: without x0 it is square");
    if (order && steps && !job.dt) throw std::invalid_argument("dt: is needed for a Magnus order, got None");
    run(job, device, stream, workspace);
}

// a, tangent, out: (paths, d, d), contiguous.
void derivative(int device, std::uintptr_t stream, int kind, const py::object& a, const py::object& tangent,
                const py::object& out, std::int64_t paths, std::int32_t d, const py::object& workspace) {
    Job job = job_of(kDerivative, kind, paths, 1, 1, d, d, 2);
    job.w = pointer(a), job.grad = pointer(tangent), job.out = pointer(out);
    job.w_path = job.grad_path = job.out_path = reals(kind) * d * d;
    run(job, device, stream, workspace);
}

// operation: 0 forward, 1 backward, 2 derivative. x0, states: whether they are given.
std::int64_t workspace(int device, int operation, int kind, std::int64_t paths, std::int64_t segments,
                       std::int64_t steps, std::int32_t d, std::int32_t c, std::int32_t order, bool every, bool x0,
                       bool states) {
    if (operation < 0 || operation >= kOperations) throw std::invalid_argument("operation: 0 to 2");
    Job job = job_of(Operation(operation), kind, paths, segments, steps, d, c, order);
    static const char there = 0;
    job.every = every;
    job.x0 = x0 ? &there : nullptr;
    job.states = states ? &there : nullptr;
    OnDevice guard(device);
    return nnsym::cuda::wilson_workspace(job);
}

}  // namespace

void bind_cuda_wilson(py::module_& m) {
    m.def("wilson_forward", &forward, py::arg("device"), py::arg("stream"), py::arg("kind"), py::arg("w"),
          py::arg("w_path"), py::arg("dt"), py::arg("dt_path"), py::arg("dt_step"), py::arg("x0"), py::arg("b"),
          py::arg("b_path"), py::arg("out"), py::arg("out_path"), py::arg("exponent"), py::arg("exponent_path"),
          py::arg("paths"), py::arg("segments"), py::arg("steps"), py::arg("d"), py::arg("c"), py::arg("order"),
          py::arg("every"), py::arg("first"), py::arg("workspace"));
    m.def("wilson_backward", &backward, py::arg("device"), py::arg("stream"), py::arg("kind"), py::arg("w"),
          py::arg("w_path"), py::arg("dt"), py::arg("dt_path"), py::arg("dt_step"), py::arg("x0"), py::arg("states"),
          py::arg("states_path"), py::arg("shift"), py::arg("shift_path"), py::arg("grad"), py::arg("grad_path"),
          py::arg("gw"), py::arg("gdt"), py::arg("gx0"), py::arg("paths"), py::arg("steps"), py::arg("d"), py::arg("c"),
          py::arg("order"), py::arg("every"), py::arg("workspace"));
    m.def("wilson_derivative", &derivative, py::arg("device"), py::arg("stream"), py::arg("kind"), py::arg("a"),
          py::arg("tangent"), py::arg("out"), py::arg("paths"), py::arg("d"), py::arg("workspace"));
    m.def("wilson_workspace", &workspace, py::arg("device"), py::arg("operation"), py::arg("kind"), py::arg("paths"),
          py::arg("segments"), py::arg("steps"), py::arg("d"), py::arg("c"), py::arg("order"), py::arg("every"),
          py::arg("x0"), py::arg("states"));
    using nnsym::cuda::kWilsonSmall, nnsym::cuda::kWilsonSmallComplex;
    m.attr("WILSON_SMALL") = py::make_tuple(kWilsonSmall, kWilsonSmall, kWilsonSmallComplex, kWilsonSmallComplex);
    m.attr("WILSON_WARP") = nnsym::cuda::kWilsonWarp;
}
