// SPDX-License-Identifier: MIT
#include "bindings.h"

void bind_cuda_orbit(py::module_&) {}
