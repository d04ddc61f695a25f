// SPDX-License-Identifier: MIT
// The Wilson family at the boundary: arrays to pointers. Shapes and dtypes were checked in Python; sizes are checked
// here.
#include "../core/wilson.h"

#include <string>

#include "../core/kernels.h"
#include "../core/parallel.h"
#include "../math/expm.h"
#include "bindings.h"

namespace {

using namespace nnsym::wilson;

// Where an array begins, or null for None.
void* pointer(const py::object& o, bool writable, py::ssize_t itemsize) {
    if (o.is_none()) return nullptr;
    auto array = py::cast<py::array>(o);
    if (writable && !array.writeable()) throw std::invalid_argument("a result is read-only");
    if (array.itemsize() != itemsize) throw std::invalid_argument("an array has the wrong item size");
    return const_cast<void*>(array.data());
}

// Stride of the first axis in real numbers.
std::int64_t path_stride(const py::object& o, py::ssize_t real) {
    if (o.is_none()) return 0;
    auto array = py::cast<py::array>(o);
    return array.strides(0) / real;
}

// Whether the axes from `axis` on are in C order without gaps.
bool contiguous_after(const py::array& array, int axis) {
    if (array.size() == 0) return true;
    py::ssize_t expected = array.itemsize();
    for (int i = int(array.ndim()) - 1; i >= axis; --i) {
        if (array.shape(i) != 1 && array.strides(i) != expected) return false;
        expected *= array.shape(i);
    }
    return true;
}

void check(const py::object& o, const char* name, std::initializer_list<std::int64_t> shape) {
    if (o.is_none()) return;
    auto array = py::cast<py::array>(o);
    bool right = std::size_t(array.ndim()) == shape.size();
    int i = 0;
    for (std::int64_t n : shape) right = right && array.shape(i++) == n;
    if (!right || !contiguous_after(array, 1))
        throw std::invalid_argument(std::string(name) + ": not the shape or layout that the kernel was told");
}

Job job_of(const char* operation, Kind kind, bool tiles, const py::array& w, std::int32_t order) {
    if (w.ndim() != 5 || w.shape(3) != w.shape(4) || !contiguous_after(w, 1))
        throw std::invalid_argument(std::string(operation) + ": w must be (paths, steps, nodes, d, d)");
    Job job{};
    job.kind = kind;
    job.layout = tiles ? kTilesLayout : kLanesLayout;
    job.d = std::int32_t(w.shape(3));
    job.order = order;
    if (order != 0 && order != 2 && order != 4 && order != 6) throw std::invalid_argument("order: 0, 2, 4 or 6");
    if (w.shape(2) != job.nodes()) throw std::invalid_argument("w: not the nodes of its order");
    return job;
}

py::ssize_t real_size(Kind kind) {
    return kind == kFloat64 || kind == kComplex128 ? 8 : 4;
}
py::ssize_t item_size(Kind kind) {
    return real_size(kind) * (kind >= kComplex64 ? 2 : 1);
}

void set_dt(Job& job, const py::object& dt, std::int64_t paths, std::int64_t steps) {
    if (job.order == 0) return;
    auto array = py::cast<py::array>(dt);
    const py::ssize_t real = real_size(job.kind);
    if (array.ndim() != 2 || array.itemsize() != real || (array.shape(0) != 1 && array.shape(0) != paths) ||
        (array.shape(1) != 1 && array.shape(1) != steps))
        throw std::invalid_argument("dt: expected (paths or 1, steps or 1)");
    job.dt = array.data();
    job.dt_path = array.shape(0) == 1 ? 0 : array.strides(0) / real;
    job.dt_step = array.shape(1) == 1 ? 0 : array.strides(1) / real;
    if (job.dt_step > 1) throw std::invalid_argument("dt: its last axis must be contiguous");
}

// out: (paths, segments, d, c), or with `every` (paths, segments * steps + 1, d, c).
void forward(int kind_number, bool tiles, const py::array& w, const py::object& dt, const py::object& x0,
             const py::object& b, py::array out, const py::object& exponent, std::int32_t order, std::int64_t segments,
             bool every, bool first) {
    const Kind kind = Kind(kind_number);
    const py::ssize_t real = real_size(kind), item = item_size(kind);
    Job job = job_of("forward", kind, tiles, w, order);
    const std::int64_t n = w.shape(0), total = w.shape(1), d = job.d, c = out.shape(3);
    if (segments < 1 || total % segments) throw std::invalid_argument("segments: must divide the steps");
    job.operation = kForward;
    job.c = std::int32_t(c);
    job.every = every, job.first = first;
    job.paths = n, job.segments = segments, job.steps = total / segments;
    check(x0, "x0", {n * segments, d, c});
    check(b, "b", {n, total, d, c});
    check(out, "out", {n, every ? total + 1 : segments, d, c});
    check(exponent, "exponent", {n, every ? total + 1 : 1});
    if (!every && !contiguous_after(out, 0)) throw std::invalid_argument("out: must be contiguous");
    if (!x0.is_none() && !contiguous_after(py::cast<py::array>(x0), 0))
        throw std::invalid_argument("x0: must be contiguous");
    if (x0.is_none() && c != d) throw std::invalid_argument("out: without x0 it is square");
    if (!exponent.is_none() && segments != 1) throw std::invalid_argument("segments: one, where exponents are wanted");
    job.w = pointer(py::reinterpret_borrow<py::object>(w), false, item), job.w_path = w.strides(0) / real;
    set_dt(job, dt, n, total);
    job.x0 = pointer(x0, false, item);
    job.b = pointer(b, false, item), job.b_path = path_stride(b, real);
    job.out = pointer(out, true, item), job.out_path = out.strides(0) / real;
    job.exponent = static_cast<std::int32_t*>(pointer(exponent, true, 4));
    job.exponent_path = path_stride(exponent, 4);
    if (n == 0) return;
    py::gil_scoped_release release;
    run(job, nnsym::thread_count());
}

void backward(int kind_number, bool tiles, const py::array& w, const py::object& dt, const py::object& x0,
              const py::object& states, const py::object& shift, const py::array& grad, py::array gw,
              const py::object& gdt, const py::object& gx0, std::int32_t order) {
    const Kind kind = Kind(kind_number);
    const py::ssize_t real = real_size(kind), item = item_size(kind);
    Job job = job_of("backward", kind, tiles, w, order);
    const std::int64_t n = w.shape(0), steps = w.shape(1), d = job.d;
    job.operation = kBackward;
    job.every = grad.ndim() == 4;
    const std::int64_t c = grad.shape(grad.ndim() - 1);
    job.c = std::int32_t(c);
    job.paths = n, job.segments = 1, job.steps = steps;
    const py::object g = py::reinterpret_borrow<py::object>(grad);
    if (job.every)
        check(g, "grad", {n, steps + 1, d, c});
    else
        check(g, "grad", {n, d, c});
    check(x0, "x0", {n, d, c});
    if (!x0.is_none() && !contiguous_after(py::cast<py::array>(x0), 0))
        throw std::invalid_argument("x0: must be contiguous");
    if (x0.is_none() && c != d) throw std::invalid_argument("grad: without x0 it is square");
    check(states, "states", {n, steps + 1, d, c});
    check(shift, "shift", {n, steps});
    check(gw, "gw", {n, steps, job.nodes(), d, d});
    check(gdt, "gdt", {n, steps});
    check(gx0, "gx0", {n, d, c});
    for (const py::object& o : {py::object(gw), gdt, gx0})
        if (!o.is_none() && !contiguous_after(py::cast<py::array>(o), 0))
            throw std::invalid_argument("gradients must be contiguous");
    job.w = pointer(py::reinterpret_borrow<py::object>(w), false, item), job.w_path = w.strides(0) / real;
    set_dt(job, dt, n, steps);
    job.x0 = pointer(x0, false, item);
    job.states = pointer(states, false, item), job.states_path = path_stride(states, real);
    job.shift = static_cast<const std::int32_t*>(pointer(shift, false, 4)), job.shift_path = path_stride(shift, 4);
    job.grad = pointer(g, false, item), job.grad_path = grad.strides(0) / real;
    job.gw = pointer(gw, true, item);
    job.gdt = pointer(gdt, true, real);
    job.gx0 = pointer(gx0, true, item);
    if (n == 0) return;
    py::gil_scoped_release release;
    run(job, nnsym::thread_count());
}

void derivative(int kind_number, bool tiles, const py::array& a, const py::array& tangent, py::array out) {
    const Kind kind = Kind(kind_number);
    const py::ssize_t item = item_size(kind);
    const std::int64_t n = a.shape(0), d = a.shape(1);
    Job job{};
    job.operation = kDerivative;
    job.kind = kind;
    job.layout = tiles ? kTilesLayout : kLanesLayout;
    job.d = job.c = std::int32_t(d);
    job.order = 2;
    job.paths = n, job.segments = 1, job.steps = 1;
    for (const py::array& array : {a, tangent, py::array(out)}) {
        check(array, "matrices", {n, d, d});
        if (!contiguous_after(array, 0)) throw std::invalid_argument("matrices must be contiguous");
    }
    job.w = pointer(py::reinterpret_borrow<py::object>(a), false, item);
    job.grad = pointer(py::reinterpret_borrow<py::object>(tangent), false, item);
    job.out = pointer(out, true, item);
    if (n == 0) return;
    py::gil_scoped_release release;
    run(job, nnsym::thread_count());
}

// Multiply-adds on all threads; the number of floating-point operations done.
double multiply_add(bool wide, std::int64_t count) {
    const int threads = nnsym::thread_count();
    const Kernels& table = *nnsym::kernels().wilson;
    double total = 0;
    {
        py::gil_scoped_release release;
        std::vector<double> sums(std::size_t(threads) * 16);
        auto body = [&](std::int64_t task, int) { sums[std::size_t(task) * 16] = table.multiply_add[wide](count); };
        nnsym::parallel_for(threads, threads, body);
        for (double x : sums) total += x;
    }
    return 2.0 * double(count) * threads * table.lanes[wide] + (total != total);
}

template <class T>
py::list degrees() {
    py::list result;
    for (const taylor::Degree& degree : taylor::Degrees<T>::list)
        result.append(py::make_tuple(degree.degree, degree.exponential));
    return result;
}

}  // namespace

void bind_wilson(py::module_& m) {
    m.def("wilson_forward", &forward, py::arg("kind"), py::arg("tiles"), py::arg("w"), py::arg("dt"), py::arg("x0"),
          py::arg("b"), py::arg("out"), py::arg("exponent"), py::arg("order"), py::arg("segments"), py::arg("every"),
          py::arg("first"));
    m.def("wilson_backward", &backward, py::arg("kind"), py::arg("tiles"), py::arg("w"), py::arg("dt"), py::arg("x0"),
          py::arg("states"), py::arg("shift"), py::arg("grad"), py::arg("gw"), py::arg("gdt"), py::arg("gx0"),
          py::arg("order"));
    m.def("wilson_derivative", &derivative, py::arg("kind"), py::arg("tiles"), py::arg("a"), py::arg("tangent"),
          py::arg("out"));
    m.def("multiply_add", &multiply_add, py::arg("float64"), py::arg("count"));
    m.def("lanes", [](bool wide) { return nnsym::kernels().wilson->lanes[wide]; }, py::arg("float64"));
    m.attr("TAYLOR") = py::dict(py::arg("float32") = degrees<float>(), py::arg("float64") = degrees<double>());
    m.attr("LARGEST_LANES") = std::vector<int>(kLargestLanes, kLargestLanes + kKinds);
    m.attr("TILES_AT") = kTilesAt;
    m.attr("LARGEST_TILES") = std::vector<int>(kLargestTiles, kLargestTiles + kKinds);
}
