// SPDX-License-Identifier: MIT
// A multilayer perceptron on a tile of samples: row i of a tile is number i of every sample, C vectors of them. Weights
// are read as scalars from panels of several outputs, so nothing is wasted on narrow layers, and every output is summed
// in the order of its inputs: a sample's result does not depend on the shape of the tile.
#pragma once

namespace {

// Memory handed out in order; with a null base it only counts.
struct Arena {
    char* base;
    std::int64_t used = 0;
    template <class P>
    P* take(std::int64_t count) {
        P* p = base ? reinterpret_cast<P*>(base + used) : nullptr;
        used += (count * std::int64_t(sizeof(P)) + 63) / 64 * 64;
        return p;
    }
};

// Sums that stay in registers: all that there are, less those for operands.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;
#else
constexpr int kSums = 12;
#endif

// Few rows are summed in several parts, whose additions need not wait for each other.
template <class T, int C, int R>
__attribute__((noinline)) void multiply_panel(const T* w, const typename Vec<T>::F* x, int in, const T* bias,
                                              typename Vec<T>::F* z) {
    typedef typename Vec<T>::F V;
    constexpr int kParts = R <= 2 ? 4 : R <= 4 ? 2 : 1;
    V sum[kParts][R][C];
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p)
#pragma GCC unroll 24
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) sum[p][r][c] = bias && p == 0 ? splat<V>(bias[r]) : V{};
    auto add = [&](V(&part)[R][C]) {
        V column[C];
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) column[c] = x[c];
#pragma GCC unroll 24
        for (int r = 0; r < R; ++r) {
            const V weight = splat<V>(w[r]);
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) part[r][c] += weight * column[c];
        }
        w += R;
        x += C;
    };
    int i = 0;
    for (; i + kParts <= in; i += kParts)
#pragma GCC unroll 4
        for (int p = 0; p < kParts; ++p) add(sum[p]);
    if constexpr (kParts > 1)
        for (; i < in; ++i) add(sum[0]);
#pragma GCC unroll 24
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int c = 0; c < C; ++c) {
            V total = sum[0][r][c];
            if constexpr (kParts == 2) total += sum[1][r][c];
            if constexpr (kParts == 4) total = (total + sum[1][r][c]) + (sum[2][r][c] + sum[3][r][c]);
            z[r * C + c] = total;
        }
}

template <class T, int C>
struct Panels {
    typedef typename Vec<T>::F V;
    static constexpr int kRows = kSums / C;

    static int next(int left) {
        // Below 12 (or 6) the sizes are those of both widths of tiles: a row is summed in the same order in both.
        constexpr int kSizes[] = {24, 12, kSums == 24 ? 8 : 6, 6, 4, 2};
        for (int rows : kSizes)
            if (rows <= kRows && rows <= left) return rows;
        return 1;
    }
    // Entry (r, i) of the matrix is at(r, i).
    template <class At>
    static void pack(T* out, int rows, int columns, At at) {
        for (int r = 0; r < rows;) {
            const int n = next(rows - r);
            for (int i = 0; i < columns; ++i)
                for (int j = 0; j < n; ++j) *out++ = at(r + j, i);
            r += n;
        }
    }
    template <int R>
    static void one(const T* w, const V* x, int in, const T* bias, V* z) {
        if constexpr (R <= kRows) multiply_panel<T, C, R>(w, x, in, bias, z);
    }
    static void multiply(int rows, const T* w, const V* x, int in, const T* bias, V* z) {
        switch (rows) {
            case 24:
                return one<24>(w, x, in, bias, z);
            case 12:
                return one<12>(w, x, in, bias, z);
            case 8:
                return one<8>(w, x, in, bias, z);
            case 6:
                return one<6>(w, x, in, bias, z);
            case 4:
                return one<4>(w, x, in, bias, z);
            case 2:
                return one<2>(w, x, in, bias, z);
            default:
                return one<1>(w, x, in, bias, z);
        }
    }
    // z = W x + bias, panel by panel; done(first row, rows) after each, while it is in the cache.
    template <class Done>
    static void product(const T* w, int out, int in, const V* x, const T* bias, V* z, Done done) {
        for (int r = 0; r < out;) {
            const int rows = next(out - r);
            multiply(rows, w, x, in, bias ? bias + r : nullptr, z + r * C);
            done(r, rows);
            w += std::int64_t(rows) * in;
            r += rows;
        }
    }
    static void product(const T* w, int out, int in, const V* x, V* z) {
        product(w, out, in, x, nullptr, z, [](int, int) {});
    }
};

// Sums over samples of delta x^T, in blocks of as many entries as a vector has lanes: narrow ones where it is narrow.
template <class T, int C>
struct Outer {
    typedef typename Vec<T>::F V;
    static constexpr int L = kLanes<T>, kSquare = L >= 8 ? 4 : 2;

    static int rows_of_block(int out, int in) { return out <= 2 ? 2 : in <= 2 ? (L > 4 ? L / 2 : 2) : kSquare; }
    static std::int64_t blocks(int out, int in) {
        const int down = rows_of_block(out, in), across = L / down;
        return std::int64_t((out + down - 1) / down) * ((in + across - 1) / across);
    }
    template <int H>
    static NNSYM_INLINE void fold(V* v) {
#pragma GCC unroll 8
        for (int i = 0; i < H; ++i) {
            const V a = v[i], b = v[i + H];
            v[i] = shuffle<Butterfly<L, H, false>>(a, b) + shuffle<Butterfly<L, H, true>>(a, b);
        }
        if constexpr (H > 1) fold<H / 2>(v);
    }
    template <int Down>
    static __attribute__((noinline)) void add_blocks(V* sums, const V* delta, int out, const V* x, int in, int count,
                                                     std::int64_t stride) {
        constexpr int Across = L / Down;
        for (int j = 0; j < out; j += Down)
            for (int i = 0; i < in; i += Across) {
                const V *d[Down], *e[Across];
#pragma GCC unroll 8
                for (int r = 0; r < Down; ++r) d[r] = delta + (j + r < out ? j + r : out - 1) * C;
#pragma GCC unroll 8
                for (int r = 0; r < Across; ++r) e[r] = x + (i + r < in ? i + r : in - 1) * C;
                V sum[L] = {};
                for (int n = 0; n < count; ++n)
#pragma GCC unroll 2
                    for (int c = 0; c < C; ++c) {
                        const std::int64_t at = n * stride + c;
                        V right[Across];
#pragma GCC unroll 8
                        for (int r = 0; r < Across; ++r) right[r] = e[r][at];
#pragma GCC unroll 8
                        for (int q = 0; q < Down; ++q) {
                            const V left = d[q][at];
#pragma GCC unroll 8
                            for (int r = 0; r < Across; ++r) sum[q * Across + r] += left * right[r];
                        }
                    }
                fold<L / 2>(sum);
                *sums++ += sum[0];
            }
    }
    // count tiles of delta (out rows) and x (in rows), each `stride` vectors after the one before.
    static void add(V* sums, const V* delta, int out, const V* x, int in, int count, std::int64_t stride) {
        const int down = rows_of_block(out, in);
        if (down == 2) return add_blocks<2>(sums, delta, out, x, in, count, stride);
        if constexpr (L >= 8) {
            if (down == 4) return add_blocks<4>(sums, delta, out, x, in, count, stride);
            if constexpr (L == 16) add_blocks<8>(sums, delta, out, x, in, count, stride);
        }
    }
    // sums[j] += those of row j of delta
    static void add_rows(V* sums, const V* delta, int out, int count, std::int64_t stride) {
        for (int r = 0; r < out; ++r) {
            V sum = sums[r];
            for (int n = 0; n < count; ++n)
#pragma GCC unroll 2
                for (int c = 0; c < C; ++c) sum += delta[n * stride + r * C + c];
            sums[r] = sum;
        }
    }
    // at(j, i) += sums
    template <class At>
    static void collect(const V* sums, int out, int in, At at) {
        const int down = rows_of_block(out, in), across = L / down;
        for (int j = 0; j < out; j += down)
            for (int i = 0; i < in; i += across, ++sums)
                for (int q = 0; q < down && j + q < out; ++q)
                    for (int r = 0; r < across && i + r < in; ++r) at(j + q, i + r) += (*sums)[q * across + r];
    }
    static T total(V v) {
        T s = 0;
        for (int l = 0; l < L; ++l) s += v[l];
        return s;
    }
};

template <class T, int C>
struct Net {
    typedef typename Vec<T>::F V;
    typedef Panels<T, C> P;
    typedef Outer<T, C> O;

    struct View {
        int in, out, activation;
        T value;
        const T *bias, *gate_weight, *gate_bias;
        const T *panels, *transposed;
        std::int64_t kept, slope, gate, ungated;  // places in a tape, in vectors: result, slope or delta, gate, W x + b
        V *sums, *bias_sums, *gate_weight_sums, *gate_bias_sums;  // null where no gradient is asked for
    };

    const nnsym::ode::Field& field;
    View* view;
    V *even, *odd;  // results of layers where no tape keeps them
    std::int64_t tape_vectors;

    static std::int64_t packed_count(const nnsym::ode::Field& f) {
        std::int64_t n = 0;
        for (int l = 0; l < f.layers; ++l) n += 2 * std::int64_t(f.layer[l].in) * f.layer[l].out;
        return n;
    }
    static std::int64_t sum_count(const nnsym::ode::Field& f) {
        std::int64_t n = 0;
        for (int l = 0; l < f.layers; ++l)
            n += O::blocks(f.layer[l].out, f.layer[l].in) + f.layer[l].out * (f.time == nnsym::ode::kGate ? 3 : 1);
        return n;
    }
    static void pack(const nnsym::ode::Field& f, const T* parameters, T* packed) {
        for (int l = 0; l < f.layers; ++l) {
            const int in = f.layer[l].in, out = f.layer[l].out;
            const T* w = parameters + f.layer[l].at;
            P::pack(packed, out, in, [&](int r, int i) { return w[std::int64_t(r) * in + i]; });
            packed += std::int64_t(in) * out;
            P::pack(packed, in, out, [&](int r, int i) { return w[std::int64_t(i) * in + r]; });
            packed += std::int64_t(in) * out;
        }
    }

    Net(const nnsym::ode::Job& job, Arena& arena, V* sums) : field(job.field) {
        const bool gated = field.time == nnsym::ode::kGate;
        view = arena.take<View>(field.layers);
        const T* parameters = static_cast<const T*>(job.parameters);
        const T* packed = static_cast<const T*>(job.packed);
        std::int64_t widest = 0, at = field.layers ? std::int64_t(field.layer[0].in) * C : 0;
        for (int l = 0; l < field.layers; ++l) {
            const nnsym::ode::Layer& layer = field.layer[l];
            const std::int64_t in = layer.in, out = layer.out, rows = out * C;
            View v{};
            v.in = layer.in, v.out = layer.out, v.activation = layer.activation, v.value = T(layer.value);
            v.bias = parameters + layer.at + in * out;
            if (gated) v.gate_weight = v.bias + out, v.gate_bias = v.bias + 2 * out;
            v.panels = packed, v.transposed = packed + in * out;
            packed += 2 * in * out;
            v.kept = at, v.slope = at + rows;
            at += 2 * rows;
            if (gated) {
                v.gate = at, v.ungated = at + rows;
                at += 2 * rows;
            }
            if (sums) {
                v.sums = sums;
                v.bias_sums = v.sums + O::blocks(layer.out, layer.in);
                sums = v.bias_sums + out;
                if (gated) v.gate_weight_sums = sums, v.gate_bias_sums = sums + out, sums += 2 * out;
            }
            widest = rows > widest ? rows : widest;
            if (in * C > widest) widest = in * C;
            if (arena.base) view[l] = v;
        }
        tape_vectors = at;
        even = arena.take<V>(widest);
        odd = arena.take<V>(widest);
    }

    // f(x), and into the tape, whose first rows x is where there is one, what the reverse pass reads.
    void forward(const V* x, const V* time, V* out, V* tape) {
        for (int l = 0; l < field.layers; ++l) {
            const View& v = view[l];
            const bool last = l == field.layers - 1;
            V* z = last ? out : tape ? tape + v.kept : (l & 1 ? odd : even);
            P::product(v.panels, v.out, v.in, x, v.bias, z, [&](int first, int rows) {
                V* part = z + first * C;
                if (v.gate_weight) apply_gate(v, part, first, rows, time, tape);
                if (tape)
                    Rows<T>::value_and_slope(v.activation, part, tape + v.slope + first * C, rows * C, v.value);
                else
                    Rows<T>::value(v.activation, part, rows * C, v.value);
            });
            x = z;
        }
    }
    void apply_gate(const View& v, V* z, int first, int rows, const V* time, V* tape) {
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < C; ++c) {
                const int i = (first + r) * C + c;
                const V gate = ActivationOf<T, nnsym::ode::kSigmoid>::value(
                    time[c] * v.gate_weight[first + r] + v.gate_bias[first + r], V{});
                if (tape) tape[v.gate + i] = gate, tape[v.ungated + i] = z[r * C + c];
                z[r * C + c] *= gate;
            }
    }

    // gx (all inputs of the first layer) = a^T df/dx; the slopes in the tape become the deltas of the layers. gt, where
    // there are gates, gets a^T df/dt added.
    void backward(V* tape, const V* a, V* gx, V* gt) {
        const V* g = a;
        for (int l = field.layers - 1; l >= 0; --l) {
            const View& v = view[l];
            V* delta = tape + v.slope;
            const int count = v.out * C;
            for (int i = 0; i < count; ++i) delta[i] *= g[i];
            if (v.gate_weight)
                for (int i = 0; i < count; ++i) {
                    const V gate = tape[v.gate + i];
                    const V inner = delta[i] * tape[v.ungated + i] * gate * (T(1) - gate);
                    delta[i] *= gate;
                    tape[v.gate + i] = inner;
                    gt[i % C] += inner * v.gate_weight[i / C];
                }
            V* into = l == 0 ? gx : l & 1 ? odd : even;
            P::product(v.transposed, v.in, v.out, delta, into);
            g = into;
        }
    }

    // Adds the gradients of the parameters from the deltas of `count` tapes. time: vectors C to a tape, where gated.
    void accumulate(const V* tapes, int count, std::int64_t stride, const V* time) {
        for (int l = 0; l < field.layers; ++l) {
            const View& v = view[l];
            const V* x = tapes + (l == 0 ? 0 : view[l - 1].kept);
            const V* delta = tapes + v.slope;
            O::add(v.sums, delta, v.out, x, v.in, count, stride);
            O::add_rows(v.bias_sums, delta, v.out, count, stride);
            if (v.gate_weight)
                for (int n = 0; n < count; ++n)
                    for (int r = 0; r < v.out; ++r)
                        for (int c = 0; c < C; ++c) {
                            const V inner = tapes[n * stride + v.gate + r * C + c];
                            v.gate_bias_sums[r] += inner;
                            v.gate_weight_sums[r] += inner * time[n * C + c];
                        }
        }
    }
    void collect(T* out) {
        for (int l = 0; l < field.layers; ++l) {
            const View& v = view[l];
            T* w = out + field.layer[l].at;
            O::collect(v.sums, v.out, v.in, [&](int j, int i) -> T& { return w[std::int64_t(j) * v.in + i]; });
            w += std::int64_t(v.in) * v.out;
            for (int r = 0; r < v.out; ++r) {
                w[r] += O::total(v.bias_sums[r]);
                if (v.gate_weight) {
                    w[v.out + r] += O::total(v.gate_weight_sums[r]);
                    w[2 * v.out + r] += O::total(v.gate_bias_sums[r]);
                }
            }
        }
    }
};

}  // namespace
