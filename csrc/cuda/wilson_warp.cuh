// SPDX-License-Identifier: MIT
// Which tiles serve which matrices, and the memory of a launch.
#pragma once
#include <algorithm>

#include "wilson_warp_line.cuh"

namespace nnsym::cuda {
namespace {

template <class Sh, bool Reverse>
struct Plan {
    typedef typename Sh::T T;
    Memory memory{};
    std::size_t shared;
    std::int64_t blocks;

    explicit Plan(const Job& job) {
        typedef Engine<Sh, Reverse> E;
        memory.operands = Reverse ? 4 : 3;
        const int powers = (Reverse ? 2 : 1) * E::kPowers;
        if (Reverse)
            memory.slots = (job.order == 0 ? 0 : job.order == 6 ? std::max(powers, 7) : powers) + 1;
        else
            memory.slots = job.order == 0 ? 0 : std::max(powers, 3);
        const int slots = memory.slots * E::kSlot;
        const std::size_t limit = shared_limit();
        memory.shared_slots = bytes(memory.operands * Sh::M + slots) <= limit / 4;
        memory.group = padded(memory.operands * Sh::M + (memory.shared_slots ? slots : 0));
        shared = bytes_of(memory.group);
        if (shared > limit)
            throw std::runtime_error("wilson: matrices of size " + std::to_string(job.d) + " need " +
                                     std::to_string(shared) + " bytes of shared memory, this device has " +
                                     std::to_string(limit));
        if (Reverse && job.operation == nnsym::wilson::kBackward && !job.states) {
            memory.chunk = 1;
            while (memory.chunk * memory.chunk < job.steps) ++memory.chunk;
            const std::int64_t chunks = (job.steps + memory.chunk - 1) / memory.chunk;
            memory.states = (chunks + memory.chunk + 2) * job.d * job.c * Sh::F;
            memory.states = (memory.states + 15) / 16 * 16;
        }
        memory.group_bytes = (memory.states + (memory.shared_slots ? 0 : slots)) * std::int64_t(sizeof(T));
        blocks = divide_up(job.paths * job.segments, Sh::kGroups);
        if (memory.group_bytes) {
            const int most = blocks_per_multiprocessor(&line_kernel<Sh, Reverse>, Sh::kThreads, shared);
            blocks = std::min<std::int64_t>(blocks, std::int64_t(multiprocessors()) * std::max(most, 1));
        }
        blocks = std::min<std::int64_t>(blocks, 0x7fffffff);
    }
    static std::size_t bytes_of(int group) { return (std::size_t(group) * Sh::kGroups + Sh::kReduction) * sizeof(T); }
    static std::size_t bytes(int numbers) { return bytes_of(padded(numbers)); }
    // Groups of one warp begin in different banks.
    static int padded(int numbers) {
        constexpr int line = int(128 / sizeof(T)), part = line / Sh::kGroups;
        return Sh::kGroups == 1 ? numbers : (numbers + line - 1) / line * line + part;
    }
    std::int64_t workspace() const { return blocks * Sh::kGroups * memory.group_bytes; }
};

template <class Sh, bool Reverse>
std::int64_t go(const Job& job, void* workspace, Stream stream, bool launching) {
    Plan<Sh, Reverse> plan(job);
    if (!launching) return plan.workspace();
    plan.memory.workspace = static_cast<unsigned char*>(workspace);
    launch(Reverse ? "wilson: gradient of a path" : "wilson: ordered product", line_kernel<Sh, Reverse>,
           dim3(unsigned(plan.blocks)), dim3(Sh::kThreads), plan.shared, stream, job, plan.memory);
    return 0;
}

// A gradient holds two tiles at a time where a product holds one: its tiles are smaller.
template <class T, int F, bool Reverse>
struct Shapes;
template <>
struct Shapes<float, 1, false> {
    typedef Shape<float, 1, 8, 4, 2, 4> D16;
    typedef Shape<float, 1, 6, 3, 4, 8> D24;
    typedef Shape<float, 1, 8, 4, 4, 8> D32;
};
template <>
struct Shapes<float, 1, true> {
    typedef Shape<float, 1, 4, 4, 4, 4> D16;
    typedef Shape<float, 1, 6, 3, 4, 8> D24;
    typedef Shape<float, 1, 4, 4, 8, 8> D32;
};
template <>
struct Shapes<double, 1, false> {
    typedef Shape<double, 1, 4, 4, 4, 4> D16;
    typedef Shape<double, 1, 6, 3, 4, 8> D24;
    typedef Shape<double, 1, 4, 4, 8, 8> D32;
};
template <>
struct Shapes<double, 1, true> {
    typedef Shape<double, 1, 4, 2, 4, 8> D16;
    typedef Shape<double, 1, 3, 3, 8, 8> D24;
    typedef Shape<double, 1, 4, 2, 8, 16> D32;
};
template <>
struct Shapes<float, 2, false> {
    typedef Shape<float, 2, 4, 4, 2, 2> D8;
    typedef Shape<float, 2, 4, 4, 4, 4> D16;
    typedef Shape<float, 2, 3, 3, 8, 8> D24;
    typedef Shape<float, 2, 4, 4, 8, 8> D32;
};
template <>
struct Shapes<float, 2, true> {
    typedef Shape<float, 2, 4, 2, 2, 4> D8;
    typedef Shape<float, 2, 4, 2, 4, 8> D16;
    typedef Shape<float, 2, 3, 3, 8, 8> D24;
    typedef Shape<float, 2, 4, 2, 8, 16> D32;
};
template <>
struct Shapes<double, 2, false> {
    typedef Shape<double, 2, 4, 2, 2, 4> D8;
    typedef Shape<double, 2, 4, 2, 4, 8> D16;
    typedef Shape<double, 2, 3, 3, 8, 8> D24;
    typedef Shape<double, 2, 4, 2, 8, 16> D32;
};
template <>
struct Shapes<double, 2, true> {
    typedef Shape<double, 2, 2, 2, 4, 4> D8;
    typedef Shape<double, 2, 2, 2, 8, 8> D16;
    typedef Shape<double, 2, 3, 3, 8, 8> D24;
    typedef Shape<double, 2, 2, 2, 16, 16> D32;
};

template <class T, int F, bool Reverse>
std::int64_t any_size(const Job& job, void* workspace, Stream stream, bool launching) {
    typedef Shapes<T, F, Reverse> S;
    const int size = std::max(job.d, job.c);
    if constexpr (F == 2)
        if (size <= 8) return go<typename S::D8, Reverse>(job, workspace, stream, launching);
    if (size <= 16) return go<typename S::D16, Reverse>(job, workspace, stream, launching);
    if (size <= 24) return go<typename S::D24, Reverse>(job, workspace, stream, launching);
    if (size <= 32) return go<typename S::D32, Reverse>(job, workspace, stream, launching);
    throw std::invalid_argument("wilson: at most 32 rows and columns, got " + std::to_string(size));
}

}  // namespace
}  // namespace nnsym::cuda
