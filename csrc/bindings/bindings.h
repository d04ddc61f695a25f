// SPDX-License-Identifier: MIT
// One function a family registers its part of the module _cpu.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

void bind_wilson(py::module_& m);
void bind_ode(py::module_& m);
