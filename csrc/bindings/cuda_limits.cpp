// SPDX-License-Identifier: MIT
#include "../cuda/limits.h"
#include "bindings.h"

namespace {

using namespace nnsym::cuda;

template <class T>
T* pointer(std::uintptr_t p) {
    return reinterpret_cast<T*>(p);
}

Stream on(std::uintptr_t stream) {
    return reinterpret_cast<Stream>(stream);
}

// 16-byte units are what the kernels move.
void whole(std::size_t bytes, std::uintptr_t addresses) {
    if ((bytes | addresses) % 16)
        throw std::invalid_argument("expected a multiple of 16 bytes at addresses aligned to 16, got " +
                                    std::to_string(bytes) + " bytes");
}

void fill(int device, std::uintptr_t stream, std::uintptr_t p, std::size_t bytes) {
    whole(bytes, p);
    const OnDevice guard(device);
    limits::write(pointer<void>(p), bytes, on(stream));
}
void duplicate(int device, std::uintptr_t stream, std::uintptr_t to, std::uintptr_t from, std::size_t bytes) {
    whole(bytes, to | from);
    const OnDevice guard(device);
    limits::copy(pointer<void>(to), pointer<void>(from), bytes, on(stream));
}
void total(int device, std::uintptr_t stream, std::uintptr_t p, std::size_t bytes, std::uintptr_t sum) {
    whole(bytes, p);
    const OnDevice guard(device);
    limits::read(pointer<void>(p), bytes, pointer<std::uint32_t>(sum), on(stream));
}
double multiply_add(int device, std::uintptr_t stream, bool float64, std::uintptr_t sums, std::int64_t threads,
                    int rounds) {
    const OnDevice guard(device);
    if (float64)
        limits::multiply_add(pointer<double>(sums), threads, rounds, on(stream));
    else
        limits::multiply_add(pointer<float>(sums), threads, rounds, on(stream));
    return 2.0 * limits::kMultiplyAdds * double(rounds) * double(threads / 256 * 256);
}

}  // namespace

void bind_cuda_limits(py::module_& m) {
    const py::call_guard<py::gil_scoped_release> released;
    m.def("limit_write", &fill, py::arg("device"), py::arg("stream"), py::arg("p"), py::arg("bytes"), released);
    m.def("limit_copy", &duplicate, py::arg("device"), py::arg("stream"), py::arg("to"), py::arg("source"),
          py::arg("bytes"), released);
    m.def("limit_read", &total, py::arg("device"), py::arg("stream"), py::arg("p"), py::arg("bytes"), py::arg("sum"),
          "Adds the sum of all 32-bit words to the word at `sum`.", released);
    m.def("limit_multiply_add", &multiply_add, py::arg("device"), py::arg("stream"), py::arg("float64"),
          py::arg("sums"), py::arg("threads"), py::arg("rounds"),
          "Queues nothing but multiply-adds; returns the number of floating-point operations.", released);
}
