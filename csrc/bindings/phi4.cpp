// SPDX-License-Identifier: MIT
// The phi^4 model at the boundary: arrays to pointers. Values were checked in Python; sizes are checked here.
#include "../core/phi4.h"

#include "../core/parallel.h"
#include "bindings.h"

namespace {

using namespace nnsym;

void run(bool wide, const std::vector<std::int64_t>& shape, std::int32_t components, double m2, double coupling,
         const std::vector<double>& kick, const std::vector<double>& drift, const std::vector<double>& step,
         std::uint64_t seed, const std::vector<std::uint32_t>& number, std::uint64_t first, std::int64_t trajectories,
         py::array fields, py::array change, py::array outcome, py::array observables) {
    phi4::Run run{};
    const auto chains = std::int64_t(number.size());
    std::int64_t sites = 1;
    for (std::int64_t length : shape) {
        if (length < 1 || length > (std::int64_t(1) << 31) / sites)
            throw std::invalid_argument("phi4_run: not a shape");
        sites *= length;
    }
    if (shape.empty() || shape.size() > 3 || components < 1 || kick.size() < 2 || drift.size() != kick.size() ||
        step.size() != number.size() || trajectories < 0 || sites > (std::int64_t(1) << 31) / components)
        throw std::invalid_argument("phi4_run: sizes do not fit");
    run.wide = wide;
    run.lattice.dims = int(shape.size());
    run.lattice.planes = shape.size() > 1 ? shape.front() : 1;
    run.lattice.rows = shape.size() > 2 ? shape[1] : 1;
    run.lattice.width = shape.back();
    run.lattice.components = components;
    run.m2 = m2, run.coupling = coupling;
    run.passes = std::int64_t(kick.size()), run.kick = kick.data(), run.drift = drift.data(), run.step = step.data();
    run.seed = seed, run.first = first, run.number = number.data();
    run.chains = chains, run.trajectories = trajectories;
    const std::int64_t count = chains * trajectories;
    run.fields = address(fields, chains * components * sites * (wide ? 8 : 4), true);
    run.change = reinterpret_cast<double*>(address(change, count * 8, true));
    run.outcome = reinterpret_cast<std::uint8_t*>(address(outcome, count, true));
    run.observables = reinterpret_cast<double*>(address(observables, count * (3 + components) * 8, true));
    const int threads = thread_count();
    py::gil_scoped_release release;
    phi4::run(run, threads);
}

}  // namespace

void bind_phi4(py::module_& m) {
    m.def("phi4_run", &run, py::arg("float64"), py::arg("shape"), py::arg("components"), py::arg("m2"),
          py::arg("coupling"), py::arg("kick"), py::arg("drift"), py::arg("step"), py::arg("seed"), py::arg("number"),
          py::arg("first"), py::arg("trajectories"), py::arg("fields"), py::arg("change"), py::arg("outcome"),
          py::arg("observables"));
}
