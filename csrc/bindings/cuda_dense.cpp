// SPDX-License-Identifier: MIT
// Dense elements on a device: addresses to pointers. Shapes, dtypes and devices were checked in Python.
#include "../cuda/dense.h"

#include <tuple>

#include "bindings.h"

namespace {

using namespace nnsym;
using namespace nnsym::cuda;
using dense::Draw;
using dense::Kind;
using dense::Pass;

// kind, heads, size, haar, pairs, interleaved, scale_std; site, seed, first, step, count.
typedef std::tuple<std::int32_t, std::int32_t, std::int32_t, std::int32_t, std::int32_t, bool, double> GroupTuple;
typedef std::tuple<std::uint32_t, std::uint64_t, std::uint64_t, std::int64_t, std::int64_t> DrawTuple;
typedef std::tuple<std::int32_t, std::int32_t, std::int64_t, std::int64_t, std::int32_t, std::int32_t, std::int32_t,
                   std::int64_t, std::int64_t, std::int64_t>
    BoxTuple;  // source type, result type, outer, its stride, blocks, copies, size, axis stride, inner, offset

void* pointer(std::uintptr_t address) {
    return reinterpret_cast<void*>(address);
}

Draw draw_of(const GroupTuple& group, const DrawTuple& numbers) {
    Draw draw{};
    std::int32_t kind = 0;
    std::tie(kind, draw.heads, draw.size, draw.haar, draw.pairs, draw.interleaved, draw.scale_std) = group;
    std::tie(draw.site, draw.seed, draw.first, draw.step, draw.count) = numbers;
    if (kind < dense::kOrthogonal || kind > dense::kRotary || draw.heads < 1 || draw.haar < 0 || draw.pairs < 0 ||
        draw.haar + 2 * std::int64_t(draw.pairs) > draw.size || draw.size < 1 || draw.count < 0)
        throw std::invalid_argument("dense_draw: not a group");
    draw.kind = Kind(kind);
    const std::int64_t n = draw.haar;
    draw.head_blocks = (draw.pairs + 3) / 4 + (kind >= dense::kGeneral ? 2 : 1) * n * ((n + 3) / 4);
    if (draw.heads * std::int64_t(draw.head_blocks) > std::int64_t(1) << orbit::kDrawShift)
        throw std::invalid_argument("dense_draw: an element of more random numbers than it can have");
    return draw;
}

std::int64_t workspace_of(const GroupTuple& group) {
    return dense_workspace(draw_of(group, {0, 0, 0, 1, 1}));
}

void draw_matrices(int device, std::uintptr_t stream, bool wide, const GroupTuple& group, const DrawTuple& numbers,
                   std::uintptr_t matrix, std::uintptr_t inverse, std::uintptr_t workspace) {
    Draw draw = draw_of(group, numbers);
    draw.matrix = pointer(matrix), draw.inverse = pointer(inverse);
    if (dense_workspace(draw) && !workspace) throw std::invalid_argument("dense_draw: expected a workspace");
    const OnDevice guard(device);
    py::gil_scoped_release release;
    dense_draw(draw, wide, pointer(workspace), Stream(stream));
}

void draw_frame(int device, std::uintptr_t stream, bool wide, const GroupTuple& group, const DrawTuple& numbers,
                std::uintptr_t matrix, std::uintptr_t inverse) {
    Draw draw = draw_of(group, numbers);
    draw.matrix = pointer(matrix), draw.inverse = pointer(inverse);
    const OnDevice guard(device);
    py::gil_scoped_release release;
    if (draw.kind == dense::kKeepsMean)
        dense_mean_frame(draw, wide, Stream(stream));
    else if (draw.kind == dense::kRotary)
        dense_rotary_frame(draw, wide, Stream(stream));
    else
        throw std::invalid_argument("dense_frame: expected a group that keeps means or rotations");
}

void draw_normals(int device, std::uintptr_t stream, bool wide, std::uint32_t site, std::int32_t part,
                  std::uint64_t seed, std::uint64_t first, std::int64_t step, std::int64_t count, std::int64_t blocks,
                  std::uintptr_t out) {
    const OnDevice guard(device);
    py::gil_scoped_release release;
    dense_normals(wide, seed, first, step, count, site, orbit::DrawPart(part), blocks, pointer(out), Stream(stream));
}

// passes: (box, source, bytes from sample to sample, result, its bytes, matrix, dual, order, shift).
void apply_passes(int device, std::uintptr_t stream, bool wide, std::int64_t samples, const py::list& given) {
    std::vector<Pass> passes;
    for (const py::handle& item : given) {
        auto parts = py::cast<py::tuple>(item);
        Pass pass{};
        std::int32_t source_type = 0, out_type = 0;
        std::tie(source_type, out_type, pass.outer, pass.outer_stride, pass.blocks, pass.copies, pass.size,
                 pass.axis_stride, pass.inner, pass.offset) = py::cast<BoxTuple>(parts[0]);
        pass.source_type = orbit::Dtype(source_type), pass.out_type = orbit::Dtype(out_type);
        if (pass.blocks < 1 || pass.copies < 1 || pass.blocks % pass.copies || pass.size < 1 || pass.inner < 1 ||
            pass.outer < 1)
            throw std::invalid_argument("dense_apply: not a box");
        pass.source_stride = py::cast<std::int64_t>(parts[2]), pass.out_stride = py::cast<std::int64_t>(parts[4]);
        pass.source = address(parts[1], 0, false), pass.out = address(parts[3], 0, true);
        pass.matrix = address(parts[5], 0, false), pass.dual = py::cast<bool>(parts[6]);
        pass.order = reinterpret_cast<const std::int32_t*>(address(parts[7], 0, false));
        pass.shift = address(parts[8], 0, false);
        passes.push_back(pass);
    }
    const OnDevice guard(device);
    py::gil_scoped_release release;
    for (const Pass& pass : passes) dense_apply(pass, wide, samples, Stream(stream));
}

}  // namespace

void bind_cuda_dense(py::module_& m) {
    m.def("dense_workspace", &workspace_of, py::arg("group"));
    m.def("dense_draw", &draw_matrices, py::arg("device"), py::arg("stream"), py::arg("float64"), py::arg("group"),
          py::arg("numbers"), py::arg("matrix"), py::arg("inverse"), py::arg("workspace"));
    m.def("dense_frame", &draw_frame, py::arg("device"), py::arg("stream"), py::arg("float64"), py::arg("group"),
          py::arg("numbers"), py::arg("matrix"), py::arg("inverse"));
    m.def("dense_normals", &draw_normals, py::arg("device"), py::arg("stream"), py::arg("float64"), py::arg("site"),
          py::arg("part"), py::arg("seed"), py::arg("first"), py::arg("step"), py::arg("count"), py::arg("blocks"),
          py::arg("out"));
    m.def("dense_apply", &apply_passes, py::arg("device"), py::arg("stream"), py::arg("float64"), py::arg("samples"),
          py::arg("passes"));
    m.attr("DENSE_LARGEST") = kLargestHaar;
}
