// SPDX-License-Identifier: MIT
// The phi^4 model of one ISA: compiled once per instruction set, with NNSYM_ISA naming it. Exports one table and
// nothing else; cmake/check_symbols.cmake holds that.
// clang-format off: in the order in which they build on each other
#include "../core/kernels.h"
#include "../simd/math.h"
#include "random.inl"
#include "phi4.inl"
// clang-format on

#define NNSYM_JOIN(a, b) a##b
#define NNSYM_TABLE(isa) NNSYM_JOIN(phi4_, isa)

namespace nnsym::phi4 {
extern const Kernels NNSYM_TABLE(NNSYM_ISA);
const Kernels NNSYM_TABLE(NNSYM_ISA) = {{advance<float>, advance<double>}, first_word};
}  // namespace nnsym::phi4
