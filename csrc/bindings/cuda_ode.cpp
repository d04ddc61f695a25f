// SPDX-License-Identifier: MIT
// The ODE family on a device: addresses to a job. Shapes, dtypes and devices were checked in Python.
#include "../cuda/device.h"
#include "../cuda/ode.h"
#include "bindings.h"
#include "ode_arguments.h"

namespace {

using nnsym::cuda::ode::Job;

// A job and what it points into on the host.
struct DeviceJob {
    Job job{};
    py::object field, tableau;

    DeviceJob(int operation, const py::object& field_object, const py::object& tableau_object, bool wide,
              std::int64_t samples, const py::dict& arrays, const py::dict& sizes, const Numbers& control)
        : field(field_object), tableau(tableau_object) {
        if (operation < 0 || operation > kVjp) throw std::invalid_argument("operation: unknown");
        job.operation = Operation(operation), job.wide = wide, job.samples = samples;
        job.field = py::cast<const FieldData&>(field).field;
        job.field.knots = place<const double>(arrays, "knots");
        if (!tableau.is_none()) job.method = py::cast<const Tableau&>(tableau).method;
        job.nodes = number(sizes, "nodes", 1);
        job.t_sample = number(sizes, "t_sample", 0);
        job.steps_sample = number(sizes, "steps_sample", 0);
        job.breaks_sample = number(sizes, "breaks_sample", 0);
        job.results = number(sizes, "results", 1);
        job.most_steps = number(sizes, "most_steps", 0);
        job.kept_steps = number(sizes, "kept_steps", 0);
        job.jump_count = number(sizes, "jump_count", 0);
        job.checkpoints = number(sizes, "checkpoints", 0);
        job.event_direction = std::int32_t(number(sizes, "event_direction", 0));
        job.kernel = std::int32_t(number(sizes, "kernel", 0));
        if (arrays.contains("event")) job.event_value = py::cast<double>(sizes["event_value"]);
        job.fixed = arrays.contains("steps");
        if (control.size() == 10)
            job.control = {control[0], control[1], control[2], control[3], control[4],
                           control[5], control[6], control[7], control[8], std::int64_t(control[9])};
        job.parameters = place<const void>(arrays, "parameters");
        job.t = place<const double>(arrays, "t");
        job.steps = place<const std::int64_t>(arrays, "steps");
        job.result = place<const std::int64_t>(arrays, "result");
        job.breaks = place<const std::int8_t>(arrays, "breaks");
        job.jumps = place<const double>(arrays, "jumps");
        job.rtol = place<const double>(arrays, "rtol");
        job.atol = place<const double>(arrays, "atol");
        job.event = place<const double>(arrays, "event");
        job.y0 = place<const void>(arrays, "y0");
        job.cotangent = place<const void>(arrays, "cotangent");
        job.ys = place<void>(arrays, "ys");
        job.y_end = place<void>(arrays, "y_end");
        job.t_end = place<double>(arrays, "t_end");
        job.status = place<std::int32_t>(arrays, "status");
        job.stats = place<std::int64_t>(arrays, "stats");
        job.states = place<void>(arrays, "states");
        job.given = place<const void>(arrays, "given");
        job.grad = place<const void>(arrays, "grad");
        job.gy = place<void>(arrays, "gy");
        job.gparameters = place<void>(arrays, "gparameters");
        job.gt = place<double>(arrays, "gt");
        job.want_t = job.gt != nullptr;
        check();
    }
    void check() const {
        const bool steps = job.operation <= kAdjoint;
        if (steps && tableau.is_none()) throw std::invalid_argument("tableau: none");
        if (steps && !job.fixed) {
            if (job.method.errors == 0 || job.method.terms == 0 || job.method.stages < 2)
                throw std::invalid_argument("tableau: not adaptive");
            if (!job.rtol || !job.atol) throw std::invalid_argument("rtol, atol: none");
        }
        if (job.samples && (!job.t || !job.y0 || (job.field.parameters && !job.parameters)))
            throw std::invalid_argument("an array that the operation reads is missing");
        if (job.fixed && (!job.result || !job.breaks)) throw std::invalid_argument("result, breaks: none");
        if ((job.operation == kAdjoint || job.operation == kVjp) && !job.cotangent && job.samples)
            throw std::invalid_argument("cotangent: none");
    }
    template <class P>
    static P* place(const py::dict& arrays, const char* name) {
        return arrays.contains(name) ? reinterpret_cast<P*>(address(arrays[name], 0, false)) : nullptr;
    }
    static std::int64_t number(const py::dict& sizes, const char* name, std::int64_t otherwise) {
        return sizes.contains(name) ? py::cast<std::int64_t>(sizes[name]) : otherwise;
    }

    // Whether an integration by these kernels marks the steps of samples that fail in `states`.
    bool marks_states(int device) const {
        const nnsym::cuda::OnDevice guard(device);
        return nnsym::cuda::ode::small_serves(job);
    }
    std::int64_t workspace_bytes(int device) const {
        const nnsym::cuda::OnDevice guard(device);
        return nnsym::cuda::ode::workspace_bytes(job);
    }
    void run(int device, std::uintptr_t stream, std::uintptr_t workspace) const {
        py::gil_scoped_release release;
        const nnsym::cuda::OnDevice guard(device);
        nnsym::cuda::ode::run(job, reinterpret_cast<void*>(workspace), reinterpret_cast<nnsym::cuda::Stream>(stream));
    }
};

}  // namespace

void bind_cuda_ode(py::module_& m) {
    bind_ode_arguments(m);
    py::class_<DeviceJob>(m, "OdeJob", py::module_local())
        .def(py::init<int, const py::object&, const py::object&, bool, std::int64_t, const py::dict&, const py::dict&,
                      const Numbers&>(),
             py::arg("operation"), py::arg("field"), py::arg("tableau"), py::arg("float64"), py::arg("samples"),
             py::arg("arrays"), py::arg("sizes"), py::arg("control"))
        .def("marks_states", &DeviceJob::marks_states, py::arg("device"))
        .def("workspace_bytes", &DeviceJob::workspace_bytes, py::arg("device"))
        .def("run", &DeviceJob::run, py::arg("device"), py::arg("stream"), py::arg("workspace"));
}
