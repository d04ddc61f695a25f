// SPDX-License-Identifier: MIT
// Dense elements at the boundary: arrays to pointers. Shapes and dtypes were checked in Python; sizes are checked here.
#include "../core/dense.h"

#include <tuple>

#include "../core/parallel.h"
#include "bindings.h"

namespace {

using namespace nnsym;
using namespace nnsym::dense;

typedef std::tuple<std::int32_t, std::int32_t, std::int64_t, std::int64_t, std::int32_t, std::int32_t, std::int32_t,
                   std::int64_t, std::int64_t, std::int64_t>
    BoxTuple;  // source type, result type, outer, its stride, blocks, copies, size, axis stride, inner, offset

std::int64_t itemsize(bool wide) {
    return wide ? 8 : 4;
}

void draw_matrices(bool wide, std::int32_t kind, std::int32_t heads, std::int32_t size, std::int32_t haar,
                   std::int32_t pairs, bool interleaved, double scale_std, std::uint32_t site, std::uint64_t seed,
                   std::uint64_t first, std::int64_t step, std::int64_t count, py::array matrix, py::array inverse) {
    const std::int64_t bytes = count * heads * std::int64_t(size) * size * itemsize(wide);
    Draw draw{};
    draw.kind = Kind(kind), draw.heads = heads, draw.size = size, draw.haar = haar, draw.pairs = pairs;
    draw.interleaved = interleaved, draw.scale_std = scale_std, draw.site = site;
    draw.seed = seed, draw.first = first, draw.step = step, draw.count = count;
    if (kind < kOrthogonal || kind > kRotary || haar < 0 || haar + 2 * std::int64_t(pairs) > size || size < 1)
        throw std::invalid_argument("dense_draw: not a group");
    draw.matrix = address(matrix, bytes, true), draw.inverse = address(inverse, bytes, true);
    const int threads = thread_count();
    py::gil_scoped_release release;
    dense::draw(draw, wide, threads);
}

py::array draw_normals(bool wide, std::uint32_t site, std::int32_t part, std::uint64_t seed, std::uint64_t first,
                       std::int64_t step, std::int64_t count, std::int64_t blocks, py::array out) {
    char* to = address(out, count * blocks * 4 * itemsize(wide), true);
    const int threads = thread_count();
    {
        py::gil_scoped_release release;
        dense::normals(wide, seed, first, step, count, site, orbit::DrawPart(part), blocks, to, threads);
    }
    return out;
}

// passes: (box, source, bytes from sample to sample, result, its bytes, matrix, dual, order, shift).
void apply_passes(bool wide, std::int64_t samples, const py::list& given) {
    std::vector<Pass> passes;
    const std::int64_t real = itemsize(wide);
    for (const py::handle& item : given) {
        auto parts = py::cast<py::tuple>(item);
        auto box = py::cast<BoxTuple>(parts[0]);
        Pass pass{};
        pass.source_type = orbit::Dtype(std::get<0>(box)), pass.out_type = orbit::Dtype(std::get<1>(box));
        pass.outer = std::get<2>(box), pass.outer_stride = std::get<3>(box);
        pass.blocks = std::get<4>(box), pass.copies = std::get<5>(box), pass.size = std::get<6>(box);
        pass.axis_stride = std::get<7>(box), pass.inner = std::get<8>(box), pass.offset = std::get<9>(box);
        if (pass.blocks < 1 || pass.copies < 1 || pass.blocks % pass.copies || pass.size < 1 || pass.inner < 1 ||
            pass.outer < 1)
            throw std::invalid_argument("dense_apply: not a box");
        const std::int64_t units = std::int64_t(pass.blocks) * pass.size;
        const std::int64_t elements =
            pass.offset + (pass.outer - 1) * pass.outer_stride + (units - 1) * pass.axis_stride + pass.inner;
        pass.source_stride = py::cast<std::int64_t>(parts[2]), pass.out_stride = py::cast<std::int64_t>(parts[4]);
        const std::int64_t in = elements * std::int64_t(orbit::itemsize(pass.source_type));
        const std::int64_t to = elements * std::int64_t(orbit::itemsize(pass.out_type));
        pass.source = address(parts[1], pass.source_stride * (samples - 1) + in, false);
        pass.out = address(parts[3], pass.out_stride * (samples - 1) + to, true);
        const std::int64_t heads = pass.blocks / pass.copies;
        pass.matrix = address(parts[5], samples * heads * pass.size * pass.size * real, false);
        pass.dual = py::cast<bool>(parts[6]);
        pass.order = reinterpret_cast<const std::int32_t*>(address(parts[7], samples * pass.blocks * 4, false));
        pass.shift = address(parts[8], samples * units * real, false);
        passes.push_back(pass);
    }
    const int threads = thread_count();
    py::gil_scoped_release release;
    dense::apply(passes.data(), std::int64_t(passes.size()), wide, samples, threads);
}

// copies: (source, bytes from sample to sample, result, bytes).
void copy_all(std::int64_t samples, const py::list& given) {
    std::vector<Copy> copies;
    for (const py::handle& item : given) {
        auto parts = py::cast<py::tuple>(item);
        Copy copy{};
        copy.source_stride = py::cast<std::int64_t>(parts[1]), copy.bytes = py::cast<std::int64_t>(parts[3]);
        copy.source = address(parts[0], copy.source_stride * (samples - 1) + copy.bytes, false);
        copy.out = address(parts[2], copy.bytes * samples, true);
        copies.push_back(copy);
    }
    const int threads = thread_count();
    py::gil_scoped_release release;
    dense::copy(copies.data(), std::int64_t(copies.size()), samples, threads);
}

}  // namespace

void bind_dense(py::module_& m) {
    m.def("dense_draw", &draw_matrices, py::arg("float64"), py::arg("kind"), py::arg("heads"), py::arg("size"),
          py::arg("haar"), py::arg("pairs"), py::arg("interleaved"), py::arg("scale_std"), py::arg("site"),
          py::arg("seed"), py::arg("first"), py::arg("step"), py::arg("count"), py::arg("matrix"), py::arg("inverse"));
    m.def("normals", &draw_normals, py::arg("float64"), py::arg("site"), py::arg("part"), py::arg("seed"),
          py::arg("first"), py::arg("step"), py::arg("count"), py::arg("blocks"), py::arg("out"));
    m.def("dense_apply", &apply_passes, py::arg("float64"), py::arg("samples"), py::arg("passes"));
    m.def("copy", &copy_all, py::arg("samples"), py::arg("copies"));
    m.attr("DENSE_KIND") = py::dict(py::arg("orthogonal") = int(kOrthogonal), py::arg("keeps_mean") = int(kKeepsMean),
                                    py::arg("general") = int(kGeneral), py::arg("special") = int(kSpecial),
                                    py::arg("rotary") = int(kRotary));
}
