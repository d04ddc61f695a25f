// SPDX-License-Identifier: MIT
#include "phi4.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"

namespace nnsym::phi4 {
namespace {

constexpr std::int64_t kLine = 64;
constexpr std::int64_t kMostDepth = 16;       // passes of a wave
constexpr std::int64_t kSlabSites = 1 << 12;  // numbers of a slab that are worth another thread

// Bytes of a core's own cache that a wave of passes may use: half of it, and 256 KiB where its size is not known.
std::int64_t wave_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    static const std::int64_t found = sysconf(_SC_LEVEL2_CACHE_SIZE) / 2;
    if (found > 0) return std::clamp<std::int64_t>(found, 128 << 10, 2 << 20);
#endif
    return 256 << 10;
}

// The memory of one chain: the field before the trajectory, two that the passes write in turn, and momenta.
struct Chain {
    const Run& run;
    const Lattice& lattice;
    const Kernels& table;
    std::int64_t size;   // bytes of a number
    int threads;         // on this chain
    std::int64_t depth;  // passes of a wave
    std::int64_t slabs;
    char* fields[3];
    char* momenta;
    double* sums[2];  // of the first and the last pass: [planes][kField + components]
    char* draws;      // one part per thread
    std::int64_t draw_bytes;

    std::int64_t sum_count() const { return kField + lattice.components; }
    // Field that a pass reads. It writes the one that the next pass reads.
    char* field(std::int64_t pass) const { return fields[pass == 0 ? 0 : 2 - pass % 2]; }
    char* plane(std::int64_t pass, std::int64_t z) const {
        return field(pass) + kLine + (z + lattice.planes) % lattice.planes * lattice.plane() * size;
    }

    // One pass over plane z.
    void advance(const Pass* passes, std::int64_t pass, std::int64_t z, std::uint64_t sample, int worker) const {
        z = (z + lattice.planes) % lattice.planes;
        Plane at{};
        at.below = plane(pass, z - 1), at.here = plane(pass, z), at.above = plane(pass, z + 1);
        at.to = plane(pass + 1, z);
        at.momenta = momenta + z * lattice.momentum_plane() * size;
        at.index = z, at.sample = sample;
        at.sums = sums[passes[pass].part == kLast] + z * sum_count();
        table.advance[run.wide](lattice, passes[pass], at, draws + worker * draw_bytes);
    }

    // All passes of a trajectory, `depth` of them per way through memory. In a slab of planes, a pass can follow the
    // one before it at a distance of one plane, so that planes are still in the cache; at the ends of the slab, where
    // it lacks what the other slab does, each pass is one plane shorter. What that leaves out between slabs follows.
    void passes(const Pass* list, std::uint64_t sample) const {
        for (std::int64_t first = 0; first < run.passes; first += depth) {
            const std::int64_t count = std::min(depth, run.passes - first);
            auto slab = [&](std::int64_t s, int worker) {
                const std::int64_t begin = s * lattice.planes / slabs, end = (s + 1) * lattice.planes / slabs;
                for (std::int64_t wave = begin; wave < end; ++wave)
                    for (std::int64_t t = 0; t < count && wave - t >= begin + t; ++t)
                        advance(list, first + t, wave - t, sample, worker);
            };
            auto between = [&](std::int64_t s, int worker) {
                const std::int64_t border = s * lattice.planes / slabs;
                for (std::int64_t t = 1; t < count; ++t)
                    for (std::int64_t z = border - t; z < border + t; ++z) advance(list, first + t, z, sample, worker);
            };
            parallel_for(slabs, threads, slab);
            if (count > 1) parallel_for(slabs, threads, between);
        }
    }

    template <class T, bool In>
    void copy(T* given, T* own) const {
        const std::int64_t rows = lattice.planes * lattice.rows, width = lattice.width;
        for (std::int64_t c = 0; c < lattice.components; ++c)
            for (std::int64_t r = 0; r < rows; ++r) {
                T *outside = given + (c * rows + r) * width, *inside = own + r * lattice.row() + c * lattice.stride;
                if constexpr (In) {
                    std::memcpy(inside, outside, std::size_t(width) * sizeof(T));
                    inside[-1] = inside[width - 1], inside[width] = inside[0];
                } else {
                    std::memcpy(outside, inside, std::size_t(width) * sizeof(T));
                }
            }
    }
    template <bool In>
    void copy(void* given) const {
        if (run.wide)
            copy<double, In>(static_cast<double*>(given), reinterpret_cast<double*>(plane(0, 0)));
        else
            copy<float, In>(static_cast<float*>(given), reinterpret_cast<float*>(plane(0, 0)));
    }
};

// -log u of the uniform number that decides about a trajectory.
double threshold(std::uint64_t seed, std::uint64_t sample) {
    return -std::log((nnsym::kernels().phi4->word(seed, sample, kAccept) + 0.5) * 0x1p-32);
}

void trajectories(Chain& chain, std::int64_t number) {
    const Run& run = chain.run;
    const std::int64_t observables = 3 + chain.lattice.components, sums = chain.sum_count();
    char* given = static_cast<char*>(run.fields) + number * chain.lattice.planes * chain.lattice.rows *
                                                       chain.lattice.width * chain.lattice.components * chain.size;
    std::vector<Pass> passes;
    for (std::int64_t k = 0; k < run.passes; ++k)
        passes.push_back({k == 0                ? kFirst
                          : k + 1 == run.passes ? kLast
                                                : kMiddle,
                          run.kick[k] * run.step[number], run.drift[k] * run.step[number],
                          2 * chain.lattice.dims + run.m2, run.coupling, run.seed});
    chain.copy<true>(given);
    for (std::int64_t k = 0; k < run.trajectories; ++k) {
        const std::uint64_t sample = std::uint64_t(run.number[number]) << 32 | (run.first + std::uint64_t(k));
        chain.passes(passes.data(), sample);
        double change = 0;
        for (std::int64_t z = 0; z < chain.lattice.planes; ++z) {
            const double *before = chain.sums[0] + z * sums, *after = chain.sums[1] + z * sums;
            change += (after[kMomentum] - before[kMomentum]) / 2 + (after[kQuadratic] - before[kQuadratic]) / 2 +
                      (after[kQuartic] - before[kQuartic]) * (run.coupling / 4);
        }
        const bool accepted = threshold(run.seed, sample) > change;
        if (accepted) std::swap(chain.fields[0], chain.fields[2 - (run.passes - 1) % 2]);
        const std::int64_t at = number * run.trajectories + k;
        run.change[at] = change;
        run.outcome[at] = accepted ? kAccepted : std::isfinite(change) ? kRejected : kDiverged;
        double* out = run.observables + at * observables;
        std::fill_n(out, observables, 0.0);
        for (std::int64_t z = 0; z < chain.lattice.planes; ++z) {
            const double* found = chain.sums[accepted] + z * sums;
            out[0] += found[kQuadratic] / 2 + found[kQuartic] * (run.coupling / 4);
            for (std::int64_t i = kSquare; i < sums; ++i) out[i - kSquare + 1] += found[i];
        }
    }
    chain.copy<false>(given);
}

}  // namespace

std::int64_t draw_numbers(const Lattice& lattice) {
    // The normals come in whole vectors of blocks, and the last row is read in whole vectors.
    return 4 * lattice.groups() * lattice.components + 4 * orbit::kMaxLanes + orbit::kMaxLanes;
}

void run(Run run, int threads) {
    if (run.chains == 0 || run.trajectories == 0) return;
    Lattice& lattice = run.lattice;
    const std::int64_t size = run.wide ? 8 : 4, lanes = kLine / size;
    lattice.momentum_stride = (lattice.width + lanes - 1) / lanes * lanes;
    lattice.stride = lattice.momentum_stride + lanes;  // the halo does not lie where a tail is stored

    const std::int64_t numbers = lattice.planes * lattice.rows * lattice.width * lattice.components;
    const bool side_by_side = run.chains >= threads;
    const int on_chain = side_by_side ? 1 : threads;
    const std::int64_t most = std::max<std::int64_t>(1, std::min(lattice.planes / 2, numbers / kSlabSites));
    const std::int64_t slabs = std::min<std::int64_t>(on_chain, most);
    // A wave of n passes has about 3 n + 4 planes in use. Where all fits anyway, there is nothing to gain.
    const std::int64_t plane = lattice.plane() * size;
    std::int64_t depth = 1;
    if (lattice.planes * plane * 4 / slabs > wave_bytes())
        depth = std::clamp<std::int64_t>((wave_bytes() / plane - 4) / 3, 1,
                                         std::min(kMostDepth, std::max<std::int64_t>(1, lattice.planes / slabs / 2)));

    const std::int64_t field_bytes = worker_bytes(lattice.planes * plane + 2 * kLine);
    const std::int64_t momentum_bytes = worker_bytes(lattice.planes * lattice.momentum_plane() * size);
    const std::int64_t sum_bytes = worker_bytes(lattice.planes * (kField + lattice.components) * 8);
    const std::int64_t draw_bytes = worker_bytes(draw_numbers(lattice) * size);
    const std::int64_t chain_bytes =
        worker_bytes(3 * field_bytes + momentum_bytes + 2 * sum_bytes + slabs * draw_bytes);
    const std::int64_t workers = side_by_side ? std::min<std::int64_t>(threads, run.chains) : 1;
    const Scratch memory = scratch(workers * chain_bytes);
    std::memset(memory.get(), 0, std::size_t(workers * chain_bytes));
    auto body = [&](std::int64_t number, int worker) {
        char* at = memory.get() + worker * chain_bytes;
        Chain chain{run, lattice, *nnsym::kernels().phi4, size, int(slabs), depth, slabs, {}, nullptr, {}, nullptr, 0};
        for (char*& field : chain.fields) field = at, at += field_bytes;
        chain.momenta = at, at += momentum_bytes;
        for (double*& sum : chain.sums) sum = reinterpret_cast<double*>(at), at += sum_bytes;
        chain.draws = at, chain.draw_bytes = draw_bytes;
        trajectories(chain, number);
    };
    parallel_for(run.chains, int(workers), body);
}

}  // namespace nnsym::phi4
