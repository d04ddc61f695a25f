// SPDX-License-Identifier: MIT
// One ISA unit: compiled once per instruction set, with NNSYM_ISA naming it. Exports one table and nothing else;
// cmake/check_symbols.cmake holds that.
// clang-format off: in the order in which they build on each other
#include "../core/kernels.h"
#include "../simd/math.h"
#include "../simd/storage.h"
#include "random.inl"
#include "orbit_prepare.inl"
#include "orbit_rows.inl"
#include "orbit_panel.inl"
#include "orbit_apply.inl"
// clang-format on

#define NNSYM_JOIN(a, b) a##b
#define NNSYM_JOINED(a, b) NNSYM_JOIN(a, b)
#define NNSYM_TABLE(isa) NNSYM_JOIN(kernels_, isa)
#define NNSYM_TEXT(x) #x
#define NNSYM_NAME(isa) NNSYM_TEXT(isa)

namespace {

template <class T>
void math(int op, const void* in, T* out, std::int64_t n) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::U32 U;
    constexpr int L = kLanes<T>;
    for (std::int64_t i = 0; i < n; i += L) {
        const std::int64_t count = n - i < L ? n - i : L;
        F x, y, other;
        U u = {};
        if (op < 2)
            x = load_part<T, T>(static_cast<const T*>(in) + i, count);
        else
            std::memcpy(&u, static_cast<const std::uint32_t*>(in) + i, std::size_t(count) * 4);
        switch (op) {
            case 0:
                y = Math<T>::exp(x);
                break;
            case 1:
                y = Math<T>::log(x);
                break;
            case 2:
                Math<T>::sincos_turn(u, y, other);
                break;
            case 3:
                Math<T>::sincos_turn(u, other, y);
                break;
            default:
                y = -Math<T>::log_uniform(u);
        }
        std::memcpy(out + i, &y, std::size_t(count) * sizeof(T));
    }
}

}  // namespace

namespace nnsym {
namespace dense {
extern const Kernels NNSYM_JOINED(dense_, NNSYM_ISA);
}
namespace ode {
extern const Kernels NNSYM_JOINED(ode_, NNSYM_ISA);
}
namespace phi4 {
extern const Kernels NNSYM_JOINED(phi4_, NNSYM_ISA);
}
namespace wilson {
extern const Kernels NNSYM_JOINED(wilson_, NNSYM_ISA);
}
extern const Kernels NNSYM_TABLE(NNSYM_ISA);
const Kernels NNSYM_TABLE(NNSYM_ISA) = {
    NNSYM_NAME(NNSYM_ISA),
    kVectorBytes,
    {prepare<float>, prepare<double>},
    {{apply<float, float>, nullptr, apply<Bfloat16, float>, apply<Float16, float>},
     {apply<float, double>, apply<double, double>, nullptr, nullptr}},
    {{pack<float, float>, nullptr, pack<Bfloat16, float>, pack<Float16, float>},
     {pack<float, double>, pack<double, double>, nullptr, nullptr}},
    stream_fence,
    stream_fill,
    stream_copy,
    math<float>,
    math<double>,
    philox,
    &wilson::NNSYM_JOINED(wilson_, NNSYM_ISA),
    &ode::NNSYM_JOINED(ode_, NNSYM_ISA),
    &dense::NNSYM_JOINED(dense_, NNSYM_ISA),
    &phi4::NNSYM_JOINED(phi4_, NNSYM_ISA),
};
}  // namespace nnsym
