// SPDX-License-Identifier: MIT
#include "bindings.h"

void bind_cuda_ode(py::module_&) {}
