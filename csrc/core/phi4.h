// SPDX-License-Identifier: MIT
// The O(N) phi^4 model on a periodic lattice of one to three dimensions, by hybrid Monte Carlo, as plain data. Defined
// by nnsym_fast/reference/phi4.py. No Python, no torch, no containers.
#pragma once
#include <cstdint>

namespace nnsym::phi4 {

// A field in memory: planes of the slowest axis; rows of `width` sites, one after the other for each component. Rows
// have a halo: element -1 is the last site, element `width` the first. Momenta have none.
struct Lattice {
    int dims;
    std::int64_t planes, rows,
        width;  // without the axes that are not there: 1 plane in one dimension, 1 row below three
    std::int32_t components;
    std::int64_t stride, momentum_stride;  // elements from component to component: multiples of a cache line

    std::int64_t row() const { return stride * components; }
    std::int64_t plane() const { return row() * rows; }
    std::int64_t momentum_plane() const { return momentum_stride * components * rows; }
    std::int64_t groups() const { return (width + 3) / 4; }  // Philox blocks of a row of one component
};

// What a pass over the lattice does: kick p by -kick dS/dphi, then drift phi by drift p. The first one draws p, and
// does its sums before the kick; the last one does not drift, and does its sums after the kick.
enum Part : std::int32_t { kFirst = 0, kMiddle = 1, kLast = 2 };
struct Pass {
    Part part;
    double kick, drift;
    double diagonal, coupling;  // 2 dims + m^2; lambda
    std::uint64_t seed;
};

// Sums over a plane: p^2, phi (-Laplacian + m^2) phi, phi^2, (phi^2)^2, and each component of phi.
inline constexpr int kMomentum = 0, kQuadratic = 1, kSquare = 2, kQuartic = 3, kField = 4;

struct Plane {
    const void *below, *here, *above;
    void *to, *momenta;
    std::int64_t index;
    std::uint64_t sample;  // chain and trajectory
    double* sums;
};

// Site index of Philox: what is drawn.
inline constexpr std::uint32_t kMomenta = 0, kAccept = 1;

struct Kernels {
    // By type. Scratch: draw_numbers elements.
    void (*advance[2])(const Lattice&, const Pass&, const Plane&, void* scratch);
    std::uint32_t (*word)(std::uint64_t seed, std::uint64_t sample, std::uint32_t site);  // the first one of block 0
};
std::int64_t draw_numbers(const Lattice&);

enum Outcome : std::uint8_t { kRejected = 0, kAccepted = 1, kDiverged = 2 };

struct Run {
    bool wide;
    Lattice lattice;  // without strides
    double m2, coupling;
    std::int64_t passes;          // at least 2
    const double *kick, *drift;   // [passes], in units of the step size
    const double* step;           // [chains]
    std::uint64_t seed, first;    // of the trajectories
    const std::uint32_t* number;  // [chains]
    std::int64_t chains, trajectories;
    void* fields;           // [chains][components][sites], in and out
    double* change;         // [chains][trajectories]: of the Hamiltonian
    std::uint8_t* outcome;  // [chains][trajectories]
    double* observables;    // [chains][trajectories][3 + components]: action, phi^2, (phi^2)^2, phi, summed over sites
};

// Chains side by side where there are as many as threads, else slabs of planes of one chain. The results do not depend
// on the threads.
void run(Run, int threads);

}  // namespace nnsym::phi4
