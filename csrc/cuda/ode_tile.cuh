// SPDX-License-Identifier: MIT
// A block integrates a tile of 32 samples: lane l of every warp has number l of a row, rows are shared out among warps.
// What each sample does next is decided by the lanes of the first warp (ode_control.cuh). Rows lie in shared memory, or
// where they do not fit, in the block's part of the workspace.
#pragma once
#include "ode_activations.cuh"
#include "ode_control.cuh"

namespace nnsym::cuda::ode {

constexpr int kSamples = 32;
constexpr int kMostWarps = 8;
constexpr int kSnapshots = 32;
constexpr std::int64_t kNowhere = -1;

// A layer: where its matrices lie in `packed`, its numbers in the parameters, and its rows in a tape.
struct LayerView {
    std::int32_t in, out, activation, unused;
    double value;
    std::int64_t at, forward, backward;
    std::int32_t kept, slope, gate, ungated;  // result, slope or delta, gate, W x + b
    std::int32_t argument, unused_too;        // metric: of the activation
};

// Where things lie: rows of the block at an offset in shared memory, or past its end, in the block's part of the
// workspace.
struct Layout {
    std::int64_t y, next, x, work, k, even, odd, tape, wide, part;
    std::int64_t left, right, cotangents, vectors;  // metric
    std::int64_t back, spare, gk, gx;               // gradient
    std::int64_t records, states, snapshots;
    std::int64_t shared_bytes, block_bytes;
    std::int64_t views, packed, blocks_at, sums;  // in the workspace
    std::int64_t piece_numbers;                   // linear: of one matrix in `packed`
    std::int64_t snapshot_bytes;
    std::int32_t blocks, threads, tiles;
    std::int32_t rows, total, tape_rows, columns, widest, record_count;
    std::int32_t strand_rows, strand, acceleration, factor;  // metric: rows of a strand, places in a tape
};

// What the reverse pass knows of a step of one sample. h = 0: it took none.
struct StepRecord {
    double t, h, closing, after;
    double begin, part;  // fixed: the shares of the piece's length before the step, and in it
    std::int64_t first_result, piece;
    std::int32_t late, early;
};

__device__ __forceinline__ int lane() {
    return int(threadIdx.x & 31);
}
__device__ __forceinline__ int warp() {
    return int(threadIdx.x >> 5);
}
__device__ __forceinline__ int warps() {
    return int(blockDim.x >> 5);
}
// call(place of this thread's number in row r) for its rows
template <class Call>
__device__ __forceinline__ void rows_of(int n, Call call) {
    for (int r = warp(); r < n; r += warps()) call(r, r * kSamples + lane());
}

template <class T>
__device__ __forceinline__ T larger_of(T a, T b) {
    return a > b ? a : b;
}
template <int N>
__device__ __forceinline__ void load_numbers(const float* p, float (&v)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const float4 f = *reinterpret_cast<const float4*>(p + i);
        v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
    }
}
template <int N>
__device__ __forceinline__ void load_numbers(const double* p, double (&v)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
        const double2 f = *reinterpret_cast<const double2*>(p + i);
        v[i] = f.x, v[i + 1] = f.y;
    }
}
__device__ __forceinline__ void store_numbers(float* p, const float (&v)[4]) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void store_numbers(double* p, const double (&v)[4]) {
    reinterpret_cast<double2*>(p)[0] = make_double2(v[0], v[1]);
    reinterpret_cast<double2*>(p)[1] = make_double2(v[2], v[3]);
}

template <class T, int R>
__device__ __forceinline__ void add_products(const T* __restrict__ w, int stride, const T* __restrict__ x, int begin,
                                             int end, int step, T (&sum)[R][4]) {
#pragma unroll
    for (int p = 0; p < R; ++p)
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[p][q] = T(0);
#pragma unroll(sizeof(T) == 4 ? 4 : 2)
    for (int i = begin; i < end; i += step) {
        T a[R], b[4];
        load_numbers(w + i * stride, a);
        load_numbers(x + i * kSamples, b);
#pragma unroll
        for (int p = 0; p < R; ++p)
#pragma unroll
            for (int q = 0; q < 4; ++q) sum[p][q] = activation::multiply_add(a[p], b[q], sum[p][q]);
    }
}

// z (out rows) = W x (in rows) + bias. w: column by column, each padded with zeros to a multiple of 4 (packed_rows).
// Then done(row, place) where this thread has written four neighbours of the row. A thread sums 4 rows of 4
// samples, in float 8 where there are enough; where there are fewer rows than threads, the four groups of 8 lanes in a
// warp share out a sum. No barrier.
__host__ __device__ constexpr int packed_rows(int out) {
    return (out + 3) / 4 * 4;
}
template <class T, class Done>
__device__ __forceinline__ void multiply(const T* w, int in, int out, const T* x, const T* bias, T* z, Done done) {
    const int stride = packed_rows(out), groups = int(blockDim.x) / 8, group = int(threadIdx.x) / 8;
    const int column = int(threadIdx.x) % 8 * 4, rows = stride / 4;
    auto finish = [&](int r, T(&v)[4]) {
        const T b = bias ? bias[r] : T(0);
#pragma unroll
        for (int q = 0; q < 4; ++q) v[q] += b;
        store_numbers(z + r * kSamples + column, v);
    };
    if (rows * 4 <= groups) {
        const int sub = group & 3;
        if (warp() < rows) {
            T sum[4][4], mine[4] = {};
            add_products(w + warp() * 4, stride, x + column, sub, in, 4, sum);
#pragma unroll
            for (int p = 0; p < 4; ++p)
#pragma unroll
                for (int q = 0; q < 4; ++q) {
                    T v = sum[p][q];
                    v += __shfl_xor_sync(kAll, v, 8);
                    v += __shfl_xor_sync(kAll, v, 16);
                    if (p == sub) mine[q] = v;
                }
            const int r = warp() * 4 + sub;
            if (r < out) {
                finish(r, mine);
                done(r, r * kSamples + column);
            }
        }
        return;
    }
    auto take = [&](int first, auto& sum, int most) {
        add_products(w + first, stride, x + column, 0, in, 1, sum);
#pragma unroll
        for (int p = 0; p < int(sizeof(sum) / sizeof(sum[0])); ++p)
            if (first + p < out) finish(first + p, sum[p]);
#pragma unroll 1
        for (int p = 0; p < most && first + p < out; ++p) done(first + p, (first + p) * kSamples + column);
    };
    int base = 0;
    if constexpr (sizeof(T) == 4)
        for (; stride - base > 4 * groups; base += 8 * groups) {
            const int first = base + group * 8;
            if (first + 4 < stride) {
                T sum[8][4];
                take(first, sum, 8);
            } else if (first < stride) {
                T sum[4][4];
                take(first, sum, 4);
            }
        }
    for (; base + group * 4 < stride; base += 4 * groups) {
        T sum[4][4];
        take(base + group * 4, sum, 4);
    }
}

// sums(at(j, i)) += the sum over samples of delta_j x_i. Each number belongs to one thread. No barrier.
template <class T, class At>
__device__ __forceinline__ void add_outer_products(T* sums, const T* delta, int out, const T* x, int in, At at) {
    const int across = (in + 3) / 4, down = (out + 3) / 4;
    for (int n = int(threadIdx.x); n < across * down; n += int(blockDim.x)) {
        const int j = n / across * 4, i = n % across * 4;
        T sum[4][4] = {};
        constexpr int kLine = 16 / int(sizeof(T)), kParts = kSamples / kLine;
#pragma unroll 1
        for (int part = 0; part < kParts; ++part) {
            const int s = (part + int(threadIdx.x)) % kParts * kLine;  // lanes begin at different banks
            T a[4][kLine], b[4][kLine];
#pragma unroll
            for (int p = 0; p < 4; ++p) {
                load_numbers(delta + (j + p < out ? j + p : out - 1) * kSamples + s, a[p]);
                load_numbers(x + (i + p < in ? i + p : in - 1) * kSamples + s, b[p]);
            }
#pragma unroll
            for (int p = 0; p < 4; ++p)
#pragma unroll
                for (int q = 0; q < 4; ++q)
#pragma unroll
                    for (int l = 0; l < kLine; ++l) sum[p][q] = activation::multiply_add(a[p][l], b[q][l], sum[p][q]);
        }
#pragma unroll
        for (int p = 0; p < 4; ++p)
#pragma unroll
            for (int q = 0; q < 4; ++q)
                if (j + p < out && i + q < in) sums[at(j + p, i + q)] += sum[p][q];
    }
}

template <class T>
__device__ __forceinline__ T sum_of_warp(T v) {
#pragma unroll
    for (int bits = 16; bits; bits /= 2) v += __shfl_xor_sync(kAll, v, bits);
    return v;
}

// The block's state, in shared memory. All functions are called by all threads, and where they write rows that others
// read, they end with a barrier, unless they say otherwise.
template <class T>
struct Tile {
    Plan plan;
    Layout layout;
    const LayerView* view;
    const T *parameters, *packed;
    T *y, *next, *x, *work, *k, *even, *odd, *tape, *wide, *part, *left, *right, *cotangents, *vectors;
    T *back, *spare, *gk, *gx;
    T* sums;  // this block's gradient of the parameters; null: not asked for
    StepRecord* record;
    T* states;
    unsigned char* snapshots;
    std::int64_t first;  // of the tile's samples
    int count;           // of them

    Course<T> course[kSamples];
    double time[kSamples], after[kSamples], theta[kSamples], trial[kSamples];
    double share_before[kSamples], share[kSamples];  // gradient, fixed steps: as in StepRecord
    std::int64_t outputs_from[kSamples], outputs_to[kSamples];
    T step[kSamples];
    std::int64_t index[kSamples];
    std::int32_t status[kSamples], piece[kSamples];
    unsigned trying, fresh, taken, crossing, here, within, anew, more;
    // Gradient: steps counted; those from record_low to record_high are recorded.
    std::int64_t steps_taken, record_low, record_high;
    // Snapshots in the order of their steps: the number of steps before it, and its place; then places that are free.
    std::int64_t snapshot_at[kSnapshots], spacing;
    std::int32_t snapshot_place[kSnapshots], snapshot_count;
    double sums_of_events[kMostWarps][kSamples];
    T sums_of_warps[4][kMostWarps][kSamples];

    __device__ __forceinline__ static Tile& here_is() { return *reinterpret_cast<Tile*>(dynamic_shared()); }
    static constexpr std::int64_t bytes() { return (std::int64_t(sizeof(Tile)) + 127) / 128 * 128; }

    __device__ __forceinline__ bool adjoint() const { return plan.operation == core::kAdjoint; }
    __device__ __forceinline__ int rows() const { return layout.rows; }
    __device__ __forceinline__ bool bit(unsigned mask) const { return mask >> lane() & 1; }
    __device__ __forceinline__ std::int64_t id() const { return first + lane(); }
    __device__ __forceinline__ T* stage(int j) const { return k + std::int64_t(j) * rows() * kSamples; }
    __device__ __forceinline__ bool timed() const {
        return plan.kind == core::kLinear || (plan.kind == core::kMlp && plan.time != core::kNoTime);
    }

    __device__ void set_up(const Plan& given);

    // The sums over the warps of numbers of this lane, in all warps.
    template <int N>
    __device__ __forceinline__ void add_up(T (&v)[N]) {
        __syncthreads();  // the last sums have been read
#pragma unroll
        for (int n = 0; n < N; ++n) sums_of_warps[n][warp()][lane()] = v[n];
        __syncthreads();
#pragma unroll
        for (int n = 0; n < N; ++n) {
            v[n] = T(0);
            for (int w = 0; w < warps(); ++w) v[n] += sums_of_warps[n][w][lane()];
        }
    }
    __device__ __forceinline__ void copy(const T* from, T* to, int n) const {
        rows_of(n, [&](int, int at) { to[at] = from[at]; });
    }

    // --- the field (ode_tile_field.cuh). Times of the samples: `time`.

    // x: d rows, and one more that is written. Where there is a tape, x is its beginning; geodesics of a metric have
    // one.
    __device__ __attribute__((noinline)) void eval(T* x, T* out, T* tape);
    // to (d rows, and one more that is written) = a^T df/dx. Returns this thread's part of a^T df/dt, whose sum over
    // the warps is that of the lane's sample.
    __device__ __attribute__((noinline)) T vjp(T* tape, const T* a, T* to);
    // Adds the gradient of the parameters after vjp. No barrier.
    __device__ __attribute__((noinline)) void accumulate(const T* tape);
    // What `accumulate` is linear in, times a weight of the lane's sample; nothing where the weight is 0.
    __device__ __attribute__((noinline)) void weigh(T* tape, T weight);

    __device__ __attribute__((noinline)) void layer_product(const LayerView& v, const T* x, T* z, T* tape, T* argument);
    __device__ __attribute__((noinline)) void product(const T* w, int in, int out, const T* x, T* z);
    __device__ void net_forward(const T* x, T* out, T* tape);
    __device__ T net_backward(T* tape, const T* a, T* to);
    __device__ void accumulate_layer(const LayerView& v, const T* x, const T* tape, bool gated);
    __device__ T find_pieces();
    template <class Call>
    __device__ void each_piece(Call call);
    __device__ void eval_linear(const T* x, T* out, T* tape);
    __device__ T vjp_linear(T* tape, const T* a, T* to);
    __device__ void eval_conformal(const T* x, T* out);
    __device__ void vjp_conformal(const T* x, const T* a, T* to);
    __device__ T* strand(T* tape, int number) const {
        return tape + (layout.strand + std::int64_t(number) * layout.strand_rows) * kSamples;
    }
    __device__ void tangent(T* tape, int number);
    __device__ void transposed_times(const T* lower, const T* x, T* out) const;
    __device__ void add_times(const T* lower, const T* x, T* out, T sign) const;
    __device__ void add_outer(const T* x, const T* y, T* out, T sign) const;
    __device__ void factorise(const T* lower, T* f) const;
    __device__ void solve(const T* f, T* x) const;
    __device__ void eval_metric(T* x, T* out, T* tape);
    __device__ void vjp_metric(T* tape, const T* a, T* to);

    // --- steps (ode_tile_steps.cuh)

    __device__ void set_times(int j);
    __device__ void combine(PlanRow row, T* out) const;
    __device__ void advance(PlanRow row, T* out) const;
    __device__ __attribute__((noinline)) void evaluate(T* argument, T* out);
    __device__ __attribute__((noinline)) void first_stage(T* out);
    __device__ void first_stage_of(unsigned mask);
    __device__ __attribute__((noinline)) void take_stages();
    __device__ void extra_stages();
    __device__ T dense_weight(int j, T theta) const;
    __device__ T dense_slope(int j, T theta) const;
    __device__ void dense(T* out) const;
    __device__ T tolerance(T size, int r) const;
    __device__ double event_value(const T* state);
    __device__ void find_crossings();
    __device__ __attribute__((noinline)) void search();

    __device__ void begin(std::int64_t tile);
    __device__ void choose_first_steps();
    __device__ bool attempt() { return plan.fixed ? attempt_fixed() : attempt_adaptive(); }
    // Not inlined: a step that is taken again has the instructions of the first time, and so its bits.
    __device__ __attribute__((noinline)) bool attempt_adaptive();
    __device__ __attribute__((noinline)) bool attempt_fixed();
    __device__ void accept(unsigned mask);
    __device__ void commit(unsigned mask);
    __device__ void write_inside(unsigned mask);
    __device__ void arrive();
    __device__ void write_row(const T* state, std::int64_t place) const;
    __device__ void write_ends();
    __device__ void keep_step(unsigned mask, const double* whole);
    __device__ __attribute__((noinline)) void accumulate_step(unsigned mask);

    // --- the reverse pass (ode_tile_gradient.cuh)

    __device__ void reverse_tile(std::int64_t tile);
    __device__ void reverse_given(std::int64_t tile);
    __device__ void reverse_recorded(std::int64_t low, std::int64_t high);
    __device__ void reverse_step(unsigned moving);
    __device__ void take_outputs();
    __device__ void close_records();
    __device__ void exchange_snapshot(int slot, bool keep);
    __device__ void push_snapshot(bool thin);
    __device__ void replay(std::int64_t low, std::int64_t high);
    __device__ void begin_reverse();
    __device__ void write_gradient(bool moved);
};

// The places of the block's rows: offsets below shared_bytes are in shared memory.
template <class T>
__device__ void Tile<T>::set_up(const Plan& given) {
    static_assert(sizeof(Plan) % 4 == 0 && sizeof(Layout) % 4 == 0);
    unsigned char* workspace = static_cast<unsigned char*>(given.workspace);
    const unsigned* source = reinterpret_cast<const unsigned*>(&given);
    for (int i = int(threadIdx.x); i < int(sizeof(Plan) / 4); i += int(blockDim.x))
        reinterpret_cast<unsigned*>(&plan)[i] = source[i];
    source = reinterpret_cast<const unsigned*>(workspace);
    for (int i = int(threadIdx.x); i < int(sizeof(Layout) / 4); i += int(blockDim.x))
        reinterpret_cast<unsigned*>(&layout)[i] = source[i];
    __syncthreads();
    if (threadIdx.x == 0) {
        const Layout& at = layout;
        unsigned char* own = workspace + at.blocks_at + blockIdx.x * at.block_bytes;
        auto place = [&](std::int64_t offset) {
            if (offset == kNowhere) return static_cast<T*>(nullptr);
            unsigned char* p = offset < at.shared_bytes ? dynamic_shared() + offset : own + (offset - at.shared_bytes);
            return reinterpret_cast<T*>(p);
        };
        y = place(at.y), next = place(at.next), x = place(at.x), work = place(at.work), k = place(at.k);
        even = place(at.even), odd = place(at.odd), tape = place(at.tape), wide = place(at.wide), part = place(at.part);
        left = place(at.left), right = place(at.right), cotangents = place(at.cotangents), vectors = place(at.vectors);
        back = place(at.back), spare = place(at.spare), gk = place(at.gk), gx = place(at.gx);
        record = reinterpret_cast<StepRecord*>(place(at.records));
        states = place(at.states);
        snapshots = reinterpret_cast<unsigned char*>(place(at.snapshots));
        view = reinterpret_cast<const LayerView*>(workspace + at.views);
        packed = reinterpret_cast<const T*>(workspace + at.packed);
        parameters = static_cast<const T*>(plan.parameters);
        sums = plan.gparameters
                   ? reinterpret_cast<T*>(workspace + at.sums) + std::int64_t(blockIdx.x) * plan.parameter_count
                   : nullptr;
        steps_taken = record_low = record_high = 0;
    }
    __syncthreads();
    if (sums)
        for (std::int64_t i = threadIdx.x; i < plan.parameter_count; i += blockDim.x) sums[i] = T(0);
}

}  // namespace nnsym::cuda::ode
