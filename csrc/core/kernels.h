// SPDX-License-Identifier: MIT
// The table of kernels that each ISA exports. The families whose code is large have tables, and units, of their own.
#pragma once
#include "dense.h"
#include "ode.h"
#include "orbit.h"
#include "phi4.h"
#include "wilson.h"

namespace nnsym {

struct Kernels {
    const char* isa;
    int vector_bytes;

    // Element of one sample into a record: drawn from (seed, sample), or taken from `given` (index k). Returns false if
    // a given permutation is not one. By compute type: [0] float, [1] double.
    bool (*prepare[2])(const orbit::Plan&, std::uint64_t seed, std::uint64_t sample, const orbit::GivenSite* given,
                       std::int64_t k, char* record, const orbit::Scratch&);
    // Rows [begin, end) of one block for a group of samples. By compute type and storage type.
    void (*apply[2][orbit::kDtypes])(const orbit::Block&, const orbit::Group&, std::int64_t begin, std::int64_t end,
                                     const orbit::Scratch&);
    // Rows of one block interleaved, to block.panels_at of compute type elements.
    void (*pack[2][orbit::kDtypes])(const orbit::Block&, const char* source, void* panels);
    void (*fence)();  // after the last streaming store of a task

    // The machine's limits, for benchmarks: streaming write, and copy with streaming stores.
    void (*stream_fill)(void* out, std::int64_t bytes, float value);
    void (*stream_copy)(void* out, const void* in, std::int64_t bytes);

    // Vector mathematics under test. op: 0 exp, 1 log, 2 sin(2 pi u), 3 cos(2 pi u), u = (x + 1/2) 2^-32 of a 32-bit
    // draw, 4 -log of such a u.
    void (*math_float)(int op, const void* in, float* out, std::int64_t n);
    void (*math_double)(int op, const void* in, double* out, std::int64_t n);
    void (*philox)(std::uint64_t seed, std::uint64_t sample, const std::uint32_t* site, const std::uint32_t* draw,
                   std::uint32_t* planes, std::int64_t blocks);

    const wilson::Kernels* wilson;
    const ode::Kernels* ode;
    const dense::Kernels* dense;
    const phi4::Kernels* phi4;
};

// The table in use: the best that the CPU supports, or the one that NNSYM_FAST_ISA names.
const Kernels& kernels();
const Kernels* const* available_kernels(int& count);  // best first
bool select_kernels(const char* isa);                 // false: unknown or unsupported here

}  // namespace nnsym
