// SPDX-License-Identifier: MIT
// One pass over one plane of a phi^4 lattice: neighbours, force, kick, drift and sums, row by row, in one go.
namespace {

using nnsym::phi4::Lattice;
using nnsym::phi4::Pass;
using nnsym::phi4::Plane;

// Lanes added up in double precision.
struct Sum {
    typedef Vec<double>::F V;
    V lanes = {};

    NNSYM_INLINE void add(Vec<double>::F x) { lanes += x; }
    NNSYM_INLINE void add(Vec<float>::F x) {
        typedef typename Iota<kLanes<double>>::type Lanes;
        lanes +=
            __builtin_convertvector(half<false>(x, Lanes()), V) + __builtin_convertvector(half<true>(x, Lanes()), V);
    }
    NNSYM_INLINE double total() const {
        double sum = 0;
        for (int l = 0; l < kLanes<double>; ++l) sum += lanes[l];
        return sum;
    }
};
struct Sums {
    Sum momentum, quadratic, square, quartic;
};

template <class T>
struct Row {
    const T* here;
    const T* near[4];  // rows that are one step away across the row
    T* to;
    const T* p_from;
    std::int64_t p_from_stride;
    T* p;
};

template <class T, bool Tail>
NNSYM_INLINE typename Vec<T>::F part(typename Vec<T>::F f, typename Vec<T>::I inside) {
    if constexpr (Tail) return inside != 0 ? f : typename Vec<T>::F{};
    return f;
}

// The sites of one vector. Lanes past the end of the row (Tail) stay zero.
template <class T, int Dims, int Components, int Part, bool Tail>
NNSYM_INLINE void sites(const Lattice& lattice, const Pass& pass, const Row<T>& row, std::int64_t x, Sums& sums) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I I;
    const std::int64_t components = Components ? Components : lattice.components, stride = lattice.stride;
    const I inside = Tail ? iota<I>() < decltype(I{}[0] + 0)(lattice.width - x) : I{};
    F square = {};
#pragma GCC unroll 4
    for (std::int64_t c = 0; c < components; ++c) {
        const F f = part<T, Tail>(load<F>(row.here + c * stride + x), inside);
        square += f * f;
    }
    const F local = square * T(pass.coupling) + T(pass.diagonal);
    F quadratic = {}, momentum = {};
#pragma GCC unroll 4
    for (std::int64_t c = 0; c < components; ++c) {
        const std::int64_t at = c * stride + x;
        const F f = part<T, Tail>(load<F>(row.here + at), inside);
        F near = load<F>(row.here + at - 1) + load<F>(row.here + at + 1);
        if constexpr (Dims > 1) near += load<F>(row.near[0] + at) + load<F>(row.near[1] + at);
        if constexpr (Dims > 2) near += load<F>(row.near[2] + at) + load<F>(row.near[3] + at);
        F p = load<F>(row.p_from + c * row.p_from_stride + x);
        if constexpr (Part == nnsym::phi4::kFirst) {
            p = part<T, Tail>(p, inside);
            momentum += p * p;
        }
        p = part<T, Tail>(p - (local * f - near) * T(pass.kick), inside);
        if constexpr (Part != nnsym::phi4::kMiddle) quadratic += f * (f * T(pass.diagonal) - near);
        if constexpr (Part == nnsym::phi4::kLast) {
            momentum += p * p;
        } else {
            store(row.p + c * lattice.momentum_stride + x, p);
            store(row.to + at, f + p * T(pass.drift));
        }
    }
    if constexpr (Part != nnsym::phi4::kMiddle) {
        sums.momentum.add(momentum), sums.quadratic.add(quadratic);
        sums.square.add(square), sums.quartic.add(square * square);
    }
}

// Lattice and pass by value: stores of vectors might alias what lies in memory, which would be read again after each.
template <class T, int Dims, int Components, int Part>
void plane(const Lattice lattice, const Pass pass, const Plane& at, void* scratch) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I I;
    constexpr int L = kLanes<T>;
    const std::int64_t components = Components ? Components : lattice.components, width = lattice.width;
    const std::int64_t groups = lattice.groups(), whole = width / L * L;
    Sums sums;
    if constexpr (Part != nnsym::phi4::kMiddle)
        for (std::int64_t c = 0; c < components; ++c) at.sums[nnsym::phi4::kField + c] = 0;
    for (std::int64_t y = 0; y < lattice.rows; ++y) {
        const std::int64_t offset = y * lattice.row();
        Row<T> row = {};
        row.here = static_cast<const T*>(at.here) + offset;
        if constexpr (Dims > 1) {
            row.near[0] = static_cast<const T*>(at.below) + offset;
            row.near[1] = static_cast<const T*>(at.above) + offset;
        }
        if constexpr (Dims > 2) {
            row.near[2] = y ? row.here - lattice.row() : row.here + (lattice.rows - 1) * lattice.row();
            row.near[3] = y + 1 < lattice.rows ? row.here + lattice.row() : row.here - y * lattice.row();
        }
        row.p = static_cast<T*>(at.momenta) + y * components * lattice.momentum_stride;
        if constexpr (Part == nnsym::phi4::kFirst) {
            const std::int64_t blocks = components * groups;
            normals<T>(pass.seed, at.sample, nnsym::phi4::kMomenta,
                       std::uint32_t((at.index * lattice.rows + y) * blocks), nullptr, blocks,
                       static_cast<T*>(scratch));
            row.p_from = static_cast<const T*>(scratch), row.p_from_stride = 4 * groups;
        } else {
            row.p_from = row.p, row.p_from_stride = lattice.momentum_stride;
        }
        if constexpr (Part != nnsym::phi4::kLast) row.to = static_cast<T*>(at.to) + offset;
        for (std::int64_t x = 0; x < whole; x += L)
            sites<T, Dims, Components, Part, false>(lattice, pass, row, x, sums);
        if (whole < width) sites<T, Dims, Components, Part, true>(lattice, pass, row, whole, sums);
        if constexpr (Part != nnsym::phi4::kLast)
            for (std::int64_t c = 0; c < components; ++c) {
                T* to = row.to + c * lattice.stride;
                to[-1] = to[width - 1];
                to[width] = to[0];
            }
        if constexpr (Part != nnsym::phi4::kMiddle)
            for (std::int64_t c = 0; c < components; ++c) {
                Sum field;
                const T* here = row.here + c * lattice.stride;
                for (std::int64_t x = 0; x < whole; x += L) field.add(load<F>(here + x));
                if (whole < width) {
                    const I inside = iota<I>() < decltype(I{}[0] + 0)(width - whole);
                    field.add(part<T, true>(load<F>(here + whole), inside));
                }
                at.sums[nnsym::phi4::kField + c] += field.total();
            }
    }
    if constexpr (Part != nnsym::phi4::kMiddle) {
        at.sums[nnsym::phi4::kMomentum] = sums.momentum.total();
        at.sums[nnsym::phi4::kQuadratic] = sums.quadratic.total();
        at.sums[nnsym::phi4::kSquare] = sums.square.total();
        at.sums[nnsym::phi4::kQuartic] = sums.quartic.total();
    }
}

template <class T, int Dims, int Components>
void plane_part(const Lattice& lattice, const Pass& pass, const Plane& at, void* scratch) {
    if (pass.part == nnsym::phi4::kMiddle)
        plane<T, Dims, Components, nnsym::phi4::kMiddle>(lattice, pass, at, scratch);
    else if (pass.part == nnsym::phi4::kFirst)
        plane<T, Dims, Components, nnsym::phi4::kFirst>(lattice, pass, at, scratch);
    else
        plane<T, Dims, Components, nnsym::phi4::kLast>(lattice, pass, at, scratch);
}

template <class T, int Dims>
void plane_components(const Lattice& lattice, const Pass& pass, const Plane& at, void* scratch) {
    switch (lattice.components) {
        case 1:
            return plane_part<T, Dims, 1>(lattice, pass, at, scratch);
        case 2:
            return plane_part<T, Dims, 2>(lattice, pass, at, scratch);
        case 4:
            return plane_part<T, Dims, 4>(lattice, pass, at, scratch);
        default:
            return plane_part<T, Dims, 0>(lattice, pass, at, scratch);
    }
}

std::uint32_t first_word(std::uint64_t seed, std::uint64_t sample, std::uint32_t site) {
    std::uint32_t sites[kLanes<float>] = {site}, draws[kLanes<float>] = {}, words[4 * kLanes<float>];
    philox(seed, sample, sites, draws, words, kLanes<float>);
    return words[0];
}

template <class T>
void advance(const Lattice& lattice, const Pass& pass, const Plane& at, void* scratch) {
    if (lattice.dims == 1)
        plane_components<T, 1>(lattice, pass, at, scratch);
    else if (lattice.dims == 2)
        plane_components<T, 2>(lattice, pass, at, scratch);
    else
        plane_components<T, 3>(lattice, pass, at, scratch);
}

}  // namespace
