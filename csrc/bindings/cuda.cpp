// SPDX-License-Identifier: MIT
// The module _cuda, or _cuda_emulated: addresses and sizes in, kernels queued on the caller's stream. Nothing here
// waits for the device. Shapes, dtypes and devices were checked in Python.
#include "../cuda/device.h"
#include "bindings.h"

namespace {

using namespace nnsym::cuda;

int device_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace

#if defined(NNSYM_EMULATION)
PYBIND11_MODULE(_cuda_emulated, m) {
    m.doc() = "The CUDA kernels of nnsym_fast, run on the CPU for tests.";
    m.attr("emulated") = true;
    m.def("set_order", &emulation::set_order, py::arg("order"));
    bind_cuda_probe(m);
#else
PYBIND11_MODULE(_cuda, m) {
    m.doc() = "CUDA kernels of nnsym_fast. Use them through the package.";
    m.attr("emulated") = false;
#endif
    m.def("device_count", &device_count);
    bind_cuda_orbit(m);
    bind_cuda_dense(m);
    bind_cuda_wilson(m);
    bind_cuda_ode(m);
    bind_cuda_limits(m);
}
