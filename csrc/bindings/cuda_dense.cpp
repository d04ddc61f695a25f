// SPDX-License-Identifier: MIT
#include "bindings.h"

void bind_cuda_dense(py::module_&) {}
