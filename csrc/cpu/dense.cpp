// SPDX-License-Identifier: MIT
// The dense elements of one ISA: compiled once per instruction set, with NNSYM_ISA naming it. Exports one table and
// nothing else; cmake/check_symbols.cmake holds that.
// clang-format off: in the order in which they build on each other
#include "../core/kernels.h"
#include "../simd/math.h"
#include "../simd/storage.h"
#include "random.inl"
#include "dense_tile.inl"
#include "dense_apply.inl"
#include "dense_draw.inl"
// clang-format on

#define NNSYM_JOIN(a, b) a##b
#define NNSYM_TABLE(isa) NNSYM_JOIN(dense_, isa)

namespace nnsym::dense {
extern const Kernels NNSYM_TABLE(NNSYM_ISA);
const Kernels NNSYM_TABLE(NNSYM_ISA) = {
    {draw_heads<float>, draw_heads<double>},     {draw_scratch<float>, draw_scratch<double>},
    {apply_pass<float>, apply_pass<double>},     {apply_scratch<float>, apply_scratch<double>},
    {draw_normals<float>, draw_normals<double>},
};
}  // namespace nnsym::dense
