// SPDX-License-Identifier: MIT
// One choice of ISA for the whole process.
#include <atomic>
#include <cstring>

#include "kernels.h"

namespace nnsym {

extern const Kernels kernels_baseline;
#if defined(NNSYM_HAVE_X86)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

namespace {

// The levels are x86-64-v4 and x86-64-v3: all that the units are compiled for, not their best-known letter alone.
struct Available {
    const Kernels* list[3];
    int count = 0;
    Available() {
#if defined(NNSYM_HAVE_X86)
        __builtin_cpu_init();
        const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                        __builtin_cpu_supports("f16c") && __builtin_cpu_supports("popcnt");
        const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl");
        if (v4) list[count++] = &kernels_avx512;
        if (v3) list[count++] = &kernels_avx2;
#endif
        list[count++] = &kernels_baseline;
    }
};

const Available& available() {
    static const Available found;
    return found;
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels* const* available_kernels(int& count) {
    count = available().count;
    return available().list;
}

bool select_kernels(const char* isa) {
    for (int i = 0; i < available().count; ++i)
        if (std::strcmp(available().list[i]->isa, isa) == 0) {
            chosen = available().list[i];
            return true;
        }
    return false;
}

const Kernels& kernels() {
    const Kernels* table = chosen;
    if (!table) chosen = table = available().list[0];
    return *table;
}

}  // namespace nnsym
