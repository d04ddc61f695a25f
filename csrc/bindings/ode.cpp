// SPDX-License-Identifier: MIT
// The ODE family at the boundary: arrays to pointers. Shapes and dtypes were checked in Python; sizes are checked here.
#include "../core/ode.h"

#include <cstring>
#include <string>

#include "../core/kernels.h"
#include "../core/parallel.h"
#include "bindings.h"
#include "ode_arguments.h"

namespace {

template <class P>
P* pointer(const py::object& o, std::int64_t count, py::ssize_t itemsize, const char* name, bool writable = false) {
    if (o.is_none()) return nullptr;
    auto array = py::cast<py::array>(o);
    if (array.size() != count || array.itemsize() != itemsize || !(array.flags() & py::array::c_style))
        throw std::invalid_argument(std::string(name) + ": not the size or layout that the kernel was told");
    if (writable && !array.writeable()) throw std::invalid_argument(std::string(name) + ": read-only");
    return reinterpret_cast<P*>(const_cast<void*>(array.data()));
}

// Rows of per-sample data, or one row for all: the stride between samples.
std::int64_t sample_stride(const py::array& a, std::int64_t samples, std::int64_t columns, const char* name) {
    if (a.ndim() != 2 || a.shape(1) != columns || (a.shape(0) != 1 && a.shape(0) != samples) || a.itemsize() != 8 ||
        !(a.flags() & py::array::c_style))
        throw std::invalid_argument(std::string(name) + ": expected (samples or 1, columns)");
    return a.shape(0) == 1 ? 0 : columns;
}

typedef const py::object& Object;

// One call for all operations: what an operation does not need is None.
void ode_run(int operation, const FieldData& field, const Tableau* tableau, const py::array& parameters,
             const py::array& y0, const py::array& t, Object steps, Object result, Object breaks, Object jumps,
             Object rtol, Object atol, const Numbers& control, Object event, double event_value, int event_direction,
             Object cotangent, Object ys, Object y_end, Object t_end, Object status, Object stats, Object grad,
             std::int64_t checkpoints, Object gy, Object gparameters, Object gt, Object states, Object given) {
    Job job{};
    job.operation = Operation(operation);
    const py::ssize_t real = y0.itemsize();
    if ((real != 4 && real != 8) || operation < 0 || operation > kVjp) throw std::invalid_argument("y0: float32/64");
    job.wide = real == 8;
    job.field = field.field;
    const std::int64_t d = job.field.d, n = d ? y0.size() / d : 0, state = operation == kAdjoint ? 2 * d : d;
    const bool steps_taken = operation <= kAdjoint;
    job.samples = n;
    if (n * d != y0.size()) throw std::invalid_argument("y0: not the size that the field has");
    auto object = [](const py::array& a) { return py::reinterpret_borrow<py::object>(a); };
    job.parameters = pointer<void>(object(parameters), job.field.parameters, real, "parameters");
    job.y0 = pointer<void>(object(y0), n * d, real, "y0");
    job.nodes = t.ndim() == 2 ? t.shape(1) : 0;
    if (job.nodes < 1) throw std::invalid_argument("t: expected (samples or 1, nodes)");
    job.t_sample = sample_stride(t, n, job.nodes, "t");
    job.t = reinterpret_cast<const double*>(t.data());
    std::int64_t results = steps_taken ? job.nodes : 1;
    if (steps_taken) {
        if (!tableau) throw std::invalid_argument("tableau: none");
        job.method = tableau->method;
        job.fixed = !steps.is_none();
        if (job.fixed) {
            auto array = py::cast<py::array>(steps);
            job.steps_sample = sample_stride(array, n, job.nodes - 1, "steps");
            job.steps = reinterpret_cast<const std::int64_t*>(array.data());
            job.result = pointer<std::int64_t>(result, job.nodes, 8, "result");
            auto flags = py::cast<py::array>(breaks);
            job.breaks_sample = flags.size() == job.nodes ? 0 : job.nodes;
            job.breaks = pointer<std::int8_t>(breaks, job.breaks_sample ? n * job.nodes : job.nodes, 1, "breaks");
            if (!job.result || !job.breaks) throw std::invalid_argument("result, breaks: none");
            results = 0;
            for (std::int64_t node = 0; node < job.nodes; ++node) {
                if (job.result[node] >= 0 && job.result[node] != results++)
                    throw std::invalid_argument("result: must count the results");
            }
            if (job.result[0] != 0) throw std::invalid_argument("result: the first node is one");
        } else {
            if (job.method.errors == 0 || job.method.terms == 0 || job.method.stages < 2)
                throw std::invalid_argument("tableau: not adaptive");
            if (control.size() != 10) throw std::invalid_argument("control: ten numbers");
            job.control = {control[0], control[1], control[2], control[3], control[4],
                           control[5], control[6], control[7], control[8], std::int64_t(control[9])};
            job.rtol = pointer<double>(rtol, d, 8, "rtol"), job.atol = pointer<double>(atol, d, 8, "atol");
            if (!job.rtol || !job.atol) throw std::invalid_argument("rtol, atol: none");
            job.jump_count = jumps.is_none() ? 0 : py::cast<py::array>(jumps).size();
            job.jumps = pointer<double>(jumps, job.jump_count, 8, "jumps");
        }
        job.event = pointer<double>(event, d, 8, "event");
        job.event_value = event_value, job.event_direction = event_direction;
    }
    job.cotangent = pointer<void>(cotangent, n * d, real, "cotangent");
    if ((operation == kAdjoint || operation == kVjp) && !job.cotangent) throw std::invalid_argument("cotangent: none");
    job.ys = pointer<void>(ys, results * n * state, real, "ys", true);
    job.y_end = pointer<void>(y_end, n * state, real, "y_end", true);
    job.t_end = pointer<double>(t_end, n, 8, "t_end", true);
    job.status = pointer<std::int32_t>(status, n, 4, "status", true);
    job.stats = pointer<std::int64_t>(stats, n * 3, 8, "stats", true);
    job.checkpoints = checkpoints;
    job.grad = pointer<void>(grad, results * n * d, real, "grad");
    job.gy = pointer<void>(gy, n * d, real, "gy", true);
    job.gparameters = pointer<void>(gparameters, job.field.parameters, real, "gparameters", true);
    job.gt = pointer<double>(gt, operation == kVjp ? n : n * job.nodes, 8, "gt", true);
    job.want_t = job.gt != nullptr;
    if (!states.is_none() || !given.is_none()) {
        if (!job.fixed || job.steps_sample || job.event)
            throw std::invalid_argument("states: of shared fixed steps only");
        for (std::int64_t i = 0; i + 1 < job.nodes; ++i) job.kept_steps += job.steps[i];
        const std::int64_t lanes = nnsym::kernels().ode->lanes[job.wide];
        const std::int64_t size = (n + lanes - 1) / lanes * lanes * job.kept_steps * d;
        job.states = pointer<void>(states, size, real, "states", true);
        job.given = pointer<void>(given, size, real, "given");
        if (operation > kGradient || (operation == kGradient) != (job.given != nullptr))
            throw std::invalid_argument("states: of an integration, given to a gradient");
    }
    if ((operation == kGradient && (!job.grad || !job.gy)) || (operation == kVjp && !job.gy) ||
        (operation == kEvaluate && !job.ys))
        throw std::invalid_argument("no place for the result");
    if (n == 0) {
        if (job.gparameters) std::memset(job.gparameters, 0, std::size_t(job.field.parameters * real));
        return;
    }
    py::gil_scoped_release release;
    run(job, nnsym::thread_count());
}

py::array activate(int code, int what, const py::array& x, double parameter) {
    if (code < 0 || code >= kActivations) throw std::invalid_argument("code: not an activation");
    const bool wide = x.itemsize() == 8;
    if (!py::isinstance<py::array_t<float>>(x) && !py::isinstance<py::array_t<double>>(x))
        throw std::invalid_argument("x: float32 or float64");
    py::array in = py::array::ensure(x, py::array::c_style);
    py::array out(in.dtype(), std::vector<py::ssize_t>(in.shape(), in.shape() + in.ndim()));
    nnsym::kernels().ode->activate[wide](code, what, in.data(), parameter, out.mutable_data(), in.size());
    return out;
}

// Activations on all threads; the number of them.
double activation_rate(bool wide, int code, std::int64_t count) {
    const int threads = nnsym::thread_count();
    const Kernels& table = *nnsym::kernels().ode;
    double total = 0;
    {
        py::gil_scoped_release release;
        std::vector<double> sums(std::size_t(threads) * 16);
        auto body = [&](std::int64_t task, int) {
            sums[std::size_t(task) * 16] = table.activation_rate[wide](code, count);
        };
        nnsym::parallel_for(threads, threads, body);
        for (double x : sums) total += x;
    }
    return double(count) * threads * table.lanes[wide] + (total != total);
}

}  // namespace

void bind_ode(py::module_& m) {
    bind_ode_arguments(m);
    m.def("ode_run", &ode_run, py::arg("operation"), py::arg("field"), py::arg("tableau"), py::arg("parameters"),
          py::arg("y0"), py::arg("t"), py::arg("steps") = py::none(), py::arg("result") = py::none(),
          py::arg("breaks") = py::none(), py::arg("jumps") = py::none(), py::arg("rtol") = py::none(),
          py::arg("atol") = py::none(), py::arg("control") = Numbers(), py::arg("event") = py::none(),
          py::arg("event_value") = 0.0, py::arg("event_direction") = 0, py::arg("cotangent") = py::none(),
          py::arg("ys") = py::none(), py::arg("y_end") = py::none(), py::arg("t_end") = py::none(),
          py::arg("status") = py::none(), py::arg("stats") = py::none(), py::arg("grad") = py::none(),
          py::arg("checkpoints") = 0, py::arg("gy") = py::none(), py::arg("gparameters") = py::none(),
          py::arg("gt") = py::none(), py::arg("states") = py::none(), py::arg("given") = py::none());
    m.def("ode_lanes", [](bool wide) { return nnsym::kernels().ode->lanes[wide]; }, py::arg("float64"));
    m.def("activate", &activate, py::arg("code"), py::arg("what"), py::arg("x"), py::arg("parameter"));
    m.def("activation_rate", &activation_rate, py::arg("float64"), py::arg("code"), py::arg("count"));
}
