// SPDX-License-Identifier: MIT
// One function a family registers its part of the module _cpu, another its part of _cuda.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

namespace py = pybind11;

// An array's first byte, or the address that a framework gives for its own tensor. Null for None.
inline char* address(const py::handle& h, std::int64_t bytes, bool writable) {
    if (h.is_none()) return nullptr;
    if (py::isinstance<py::int_>(h)) return reinterpret_cast<char*>(h.cast<std::uintptr_t>());
    auto array = py::cast<py::array>(h);
    if (array.nbytes() < bytes || (writable && !array.writeable()))
        throw std::invalid_argument("a buffer is read-only or smaller than its tensor: " +
                                    std::to_string(array.nbytes()) + " of " + std::to_string(bytes) + " bytes");
    return static_cast<char*>(const_cast<void*>(array.data()));
}

void bind_dense(py::module_& m);
void bind_wilson(py::module_& m);
void bind_ode(py::module_& m);
void bind_phi4(py::module_& m);

void bind_cuda_orbit(py::module_& m);
void bind_cuda_dense(py::module_& m);
void bind_cuda_wilson(py::module_& m);
void bind_cuda_ode(py::module_& m);
void bind_cuda_limits(py::module_& m);
void bind_cuda_probe(py::module_& m);
