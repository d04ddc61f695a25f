// SPDX-License-Identifier: MIT
#include "bindings.h"

void bind_cuda_wilson(py::module_&) {}
