// SPDX-License-Identifier: MIT
// Numbers as tensors store them, and as kernels compute with them: float32, float64; bfloat16 and float16 widen to
// float32 and round to nearest even.
#pragma once
#include "../core/orbit.h"
#include "device.h"
#if !defined(NNSYM_EMULATION)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace nnsym::cuda {

struct Bfloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

__device__ __forceinline__ float widen(float x) {
    return x;
}
__device__ __forceinline__ double widen(double x) {
    return x;
}
__device__ __forceinline__ float widen(Bfloat16 x) {
    return __uint_as_float(std::uint32_t(x.bits) << 16);
}
__device__ __forceinline__ float widen(Float16 x) {
#if defined(NNSYM_EMULATION)
    const std::uint32_t rest = (x.bits & 0x7fffu) << 13, sign = std::uint32_t(x.bits & 0x8000u) << 16;
    if (rest >= 0x0f800000u) return __uint_as_float(sign | rest | 0x7f800000u | (rest > 0x0f800000u ? 0x400000u : 0u));
    return __uint_as_float(__float_as_uint(__uint_as_float(rest) * 0x1p112f) | sign);
#else
    return __half2float(__ushort_as_half(x.bits));
#endif
}

// S from the compute type.
template <class S, class T>
__device__ __forceinline__ S narrow(T x) {
    if constexpr (std::is_same_v<S, Bfloat16>) {
#if defined(NNSYM_EMULATION)
        const std::uint32_t bits = __float_as_uint(float(x));
        if ((bits & 0x7fffffffu) > 0x7f800000u) return Bfloat16{std::uint16_t((bits >> 16) | 0x40u)};
        return Bfloat16{std::uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#else
        return Bfloat16{__bfloat16_as_ushort(__float2bfloat16_rn(float(x)))};
#endif
    } else if constexpr (std::is_same_v<S, Float16>) {
#if defined(NNSYM_EMULATION)
        const std::uint32_t bits = __float_as_uint(float(x)), sign = (bits >> 16) & 0x8000u, a = bits & 0x7fffffffu;
        std::uint32_t out;
        if (a > 0x7f800000u)
            out = ((a >> 13) & 0x3ffu) | 0x7e00u;
        else if (a >= 0x477ff000u)
            out = 0x7c00u;
        else if (a < 0x38800000u)
            out = __float_as_uint(__uint_as_float(a) + 0.5f) - 0x3f000000u;
        else
            out = (a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13;
        return Float16{std::uint16_t(out | sign)};
#else
        return Float16{__half_as_ushort(__float2half_rn(float(x)))};
#endif
    } else
        return S(x);
}

// The type of the arithmetic on S where nothing asks for more.
template <class S>
struct ComputeOf {
    typedef float type;
};
template <>
struct ComputeOf<double> {
    typedef double type;
};

// 16 bytes of stored numbers.
template <class S>
struct alignas(16) Pack {
    static constexpr int count = int(16 / sizeof(S));
    S at[count];
};

// A pack past the caches; p aligned to 16.
template <class S>
__device__ __forceinline__ void store_pack(S* p, const Pack<S>& pack) {
    store_streaming(reinterpret_cast<uint4*>(p), *reinterpret_cast<const uint4*>(&pack));
}
template <class S>
__device__ __forceinline__ Pack<S> load_pack(const S* p) {
    Pack<S> pack;
    *reinterpret_cast<uint4*>(&pack) = *reinterpret_cast<const uint4*>(p);
    return pack;
}

// visit(S{}) with the storage type of a dtype.
template <class F>
void visit_storage(orbit::Dtype dtype, F&& visit) {
    switch (dtype) {
        case orbit::kFloat32:
            visit(float{});
            return;
        case orbit::kFloat64:
            visit(double{});
            return;
        case orbit::kBfloat16:
            visit(Bfloat16{});
            return;
        case orbit::kFloat16:
            visit(Float16{});
            return;
        default:
            throw std::invalid_argument("dtype: not one of the storage types");
    }
}

}  // namespace nnsym::cuda
