// SPDX-License-Identifier: MIT
// Kernels that draw, by type of the arithmetic; see dense_haar.cuh.
#pragma once
#include "dense.h"
#include "dense_haar.cuh"

namespace nnsym::cuda::haar {

// --- a warp, or a half or quarter of one, draws an element of at most N units: a lane per column

constexpr int kSmallThreads = 128;

// Shared memory of one element: K1 with its row i at i (N + 4); then the vectors, or K2 turned; tau, s and 1 / s.
template <class T, int N>
struct Small {
    static constexpr int kLead = N + 4, kSquare = N * kLead;
    static_assert(Rows<N, 1>::begin(N / 4) <= kSquare);
    static constexpr int numbers(bool two) { return (two ? 2 : 1) * kSquare + 3 * N; }
};

template <class T, int N, bool kTwo>
__global__ void __launch_bounds__(kSmallThreads) draw_small(const Draw draw, const bool whole) {
    typedef Small<T, N> Shape;
    constexpr int kLead = Shape::kLead;
    const int n = draw.haar, m = draw.size, front = lead(N, n);
    const int lane = int(threadIdx.x) % kWarp, l = lane % N;
    const std::int64_t total = draw.count * draw.heads;
    const std::int64_t asked = std::int64_t(blockIdx.x) * (kSmallThreads / N) + threadIdx.x / N;
    const bool here = asked < total, inside = l >= front && l - front < n;
    const std::int64_t index = here ? asked : total - 1;
    const std::int64_t head = index % draw.heads;
    const std::uint64_t sample = draw.first + std::uint64_t(index / draw.heads) * std::uint64_t(draw.step);
    T* const memory = reinterpret_cast<T*>(dynamic_shared()) + threadIdx.x / N * Shape::numbers(kTwo);
    T *const left = memory, *const v = memory + (kTwo ? Shape::kSquare : 0);
    T *const tau = v + Shape::kSquare, *const scale = tau + N, *const back = scale + N;
    const std::int64_t corner = index * m * m + std::int64_t(m - n) * (m + 1) - front;
    T* const matrix = static_cast<T*>(draw.matrix) + corner;
    T* const inverse = static_cast<T*>(draw.inverse) + corner;

    T column[N];
    unsigned parity = 0;
#pragma unroll 1
    for (int which = 0; which < (kTwo ? 2 : 1); ++which) {
        gaussian_rows<T, N, 1>(draw, sample, gaussian_block(draw, head, which), n, front, N, v, l, N);
        __syncwarp();
        T* const row = v + Rows<N, 1>::row(l) - Rows<N, 1>::row(front);
        bool negative = false;
        if (inside) {
            T square = 0, first = row[l % 4];
            for (int i = 0; i < Rows<N, 1>::width(l / 4); i += 4) {
                const Four<T> four = load_four(row + i);
#pragma unroll
                for (int e = 0; e < 4; ++e) square = fma(four.at[e], four.at[e], square);
            }
            negative = first < 0;
            tau[l] = reflection(square, first);
            row[l % 4] = first;
        }
        __syncwarp();  // a vote orders no memory
        // Column c begins as e_c times the signs of all Q_k with k <= c: negative ? 1 : -1.
        const unsigned mine = (N == 32 ? kAll : (1u << N) - 1) << (lane - l);
        const unsigned minus = __ballot_sync(kAll, inside && !negative) & mine;
        parity += unsigned(__popc(__ballot_sync(kAll, inside && turns(n, l - front, negative)) & mine));
        const T sign = __popc(minus << (31 - lane)) % 2 ? T(-1) : T(1);
#pragma unroll
        for (int i = 0; i < N; ++i) column[i] = inside && i == l ? sign : T(0);
        reflect<T, N, 1>(column, v, tau, front, front + n, front, 0);
        __syncwarp();
        if (kTwo && which == 0)
#pragma unroll
            for (int i = 0; i < N; ++i) left[i * kLead + l] = column[i];
    }

    if (!kTwo) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            Four<T> four;
#pragma unroll
            for (int e = 0; e < 4; ++e) four.at[e] = column[i + e];
            store_four(v + l * kLead + i, four);
        }
        __syncwarp();
        if (whole) {
            if (!here) return;
#pragma unroll
            for (int i = 0; i < N; ++i) store_streaming(matrix + i * N + l, column[i]);
#pragma unroll 4
            for (int t = l; t < N * N / 4; t += N)
                stream_four(inverse + 4 * t, load_four(v + t / (N / 4) * kLead + t % (N / 4) * 4));
            return;
        }
        if (!here || !inside) return;
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (i >= front && i - front < n) {
                matrix[std::int64_t(i - front) * m + l] = column[i];
                inverse[std::int64_t(i - front) * m + l] = v[i * kLead + l];
            }
        return;
    }

    T log = inside ? log_scale<T>(draw, sample, head * m + draw.pairs + l - front) : T(0);
    if (draw.kind == dense::kSpecial) {
        T sum = log;
#pragma unroll
        for (int d = 1; d < N; d *= 2) sum += __shfl_xor_sync(kAll, sum, d);
        log -= sum / T(n);
    }
    // The last row of K2 makes the determinant 1.
    const bool turn = draw.kind == dense::kSpecial && parity % 2 && l - front == n - 1;
    scale[l] = inside ? (turn ? -exp(log) : exp(log)) : T(0);
    back[l] = inside ? (turn ? -exp(-log) : exp(-log)) : T(0);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const Four<T> s = load_four(scale + i), r = load_four(back + i);
        Four<T> four;
#pragma unroll
        for (int e = 0; e < 4; ++e) four.at[e] = column[i + e] * r.at[e], column[i + e] *= s.at[e];
        store_four(v + l * kLead + i, four);
    }
    __syncwarp();
    // K1 (diag(s) K2), then (K2^T diag(1 / s)) K1^T: a row of the left factor is read by all lanes.
#pragma unroll 1
    for (int which = 0; which < 2; ++which) {
        const T* const factor = which ? v : left;
        T* const out = (which ? inverse : matrix) + l;
        if (which) {
#pragma unroll
            for (int i = 0; i < N; i += 4) {
                const Four<T> four = load_four(left + l * kLead + i);
#pragma unroll
                for (int e = 0; e < 4; ++e) column[i + e] = four.at[e];
            }
        }
#pragma unroll 2
        for (int i = 0; i < n; ++i) {
            const T* const row = factor + (i + front) * kLead;
            T sum[4] = {0, 0, 0, 0};
#pragma unroll
            for (int j = 0; j < N; j += 4) {
                const Four<T> four = load_four(row + j);
#pragma unroll
                for (int e = 0; e < 4; ++e) sum[e] = fma(four.at[e], column[j + e], sum[e]);
            }
            if (here && inside) store_streaming(out + std::int64_t(i) * m, (sum[0] + sum[1]) + (sum[2] + sum[3]));
        }
    }
}

template <class T, int N, bool kTwo>
void launch_small(const Draw& draw, Stream stream) {
    constexpr int kElements = kSmallThreads / N;
    const std::int64_t blocks = divide_up(draw.count * draw.heads, kElements);
    if (blocks > 0x7fffffff) throw std::invalid_argument("dense: more matrices than one launch can draw");
    const bool whole = draw.haar == N && draw.size == N && reinterpret_cast<std::uintptr_t>(draw.inverse) % 16 == 0;
    launch("dense: small elements", draw_small<T, N, kTwo>, dim3(unsigned(blocks)), dim3(kSmallThreads),
           kElements * Small<T, N>::numbers(kTwo) * sizeof(T), stream, draw, whole);
}
template <class T, bool kTwo>
void launch_small(const Draw& draw, Stream stream) {
    if (draw.haar <= 8)
        launch_small<T, 8, kTwo>(draw, stream);
    else if (draw.haar <= 16)
        launch_small<T, 16, kTwo>(draw, stream);
    else
        launch_small<T, 32, kTwo>(draw, stream);
}

// --- a block draws a Haar matrix Q of at most N = R P units

// Where Q goes, matrices of `stride` numbers with rows of `row`: to `plain`, if it is not null, and as its transpose to
// `turned`; scaled: Q^T diag(s) to `turned` and Q^T diag(1 / s) to `plain`.
struct Place {
    void *turned, *plain;
    std::int64_t row, stride;
    int which;  // of the Gaussian matrices of a head
    bool scaled, aligned;
    int room;  // numbers of vectors that are in memory together: reflections are applied a part at a time
};

// gridDim.y blocks share the columns; each draws all vectors.
template <class T, int R, int P, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) draw_haar(const Draw draw, const Place place) {
    typedef Rows<R, P> Layout;
    constexpr int N = Layout::N, B = Layout::B, Q = Layout::Q, kColumns = kWarp / P, kThreads = kWarps * kWarp;
    const int n = draw.haar, m = draw.size, front = lead(N, n);
    const int tid = int(threadIdx.x), lane = tid % kWarp, warp = tid / kWarp, part = lane % P;
    const std::int64_t index = blockIdx.x, head = index % draw.heads;
    const std::uint64_t sample = draw.first + std::uint64_t(index / draw.heads) * std::uint64_t(draw.step);
    unsigned* const minus = reinterpret_cast<unsigned*>(dynamic_shared());  // signs of Q_k, a bit each
    T* const tau = reinterpret_cast<T*>(minus + kWarp);
    T *const scale = tau + N, *const back = scale + N, *const v = back + N;
    T* const turned = static_cast<T*>(place.turned) + index * place.stride;
    T* const plain = place.plain ? static_cast<T*>(place.plain) + index * place.stride : nullptr;
    const unsigned block = gaussian_block(draw, head, place.which);

    // The signs come from the first entries of the vectors, and the determinant from those of both matrices.
    const int row_blocks = (n + 3) / 4;
    const bool special = place.scaled && draw.kind == dense::kSpecial;
    auto negative = [&](int which, int k) {
        return one_normal<T>(draw, sample, gaussian_block(draw, head, which) + unsigned(k * row_blocks + k / 4),
                             k % 4) < 0;
    };
    int parity = 0;
    for (int from = 0; from < n; from += kThreads) {
        const int k = from + tid;
        const bool own = k < n && negative(place.which, k);
        const unsigned bits = __ballot_sync(kAll, k < n && !own);
        if (lane == 0 && k < N) minus[k / 32] = bits;
        if (special) {
            const bool other = k < n && negative(1 - place.which, k);
            parity += __syncthreads_count(k < n && turns(n, k, own) != turns(n, k, other));
        }
        if (place.scaled && k < n) {
            const T log = log_scale<T>(draw, sample, head * m + draw.pairs + k);
            scale[k + front] = log;
        }
    }
    __syncthreads();
    if (place.scaled) {
        T mean = 0;
        if (special) {
            for (int i = lane; i < n; i += kWarp) mean += scale[i + front];
#pragma unroll
            for (int d = 1; d < kWarp; d *= 2) mean += __shfl_xor_sync(kAll, mean, d);
            mean /= T(n);
        }
        __syncthreads();
        for (int k = tid; k < n; k += kThreads) {
            // The last row of K2 makes the determinant 1.
            const T log = scale[k + front] - mean, sign = parity % 2 && k == n - 1 ? T(-1) : T(1);
            scale[k + front] = sign * exp(log), back[k + front] = sign * exp(-log);
        }
        __syncthreads();
    }

    const int workers = kWarps * int(gridDim.y), worker = warp * int(gridDim.y) + int(blockIdx.y);
    for (int last = N, first; last > front; last = first) {
        for (first = last - 4; first > front && Layout::row(last) - Layout::row(first - 4) <= place.room;) first -= 4;
        gaussian_rows<T, R, P>(draw, sample, block, n, first, last, v, tid, kThreads);
        __syncthreads();
        for (int k = first + warp; k < min(last, front + n); k += kWarps) {
            T* const row = v + Layout::row(k) - Layout::row(first);
            T square = 0;
            for (int i = lane; i < Layout::width(k / B); i += kWarp) square = fma(row[i], row[i], square);
#pragma unroll
            for (int d = 1; d < kWarp; d *= 2) square += __shfl_xor_sync(kAll, square, d);
            if (lane == 0) tau[k] = reflection(square, row[k % B]);
        }
        __syncthreads();

        const bool finishes = first == front;
        for (int round = 0; round * workers * kColumns < n; ++round) {
            // Columns that come late take more reflections: a warp takes some of either kind.
            const int item = round % 2 ? (round + 1) * workers - 1 - worker : round * workers + worker;
            const int c0 = item * kColumns, c = c0 + lane / P;
            if (c0 >= n || c0 + kColumns + front <= first) continue;
            T column[R];
            if (c < n && c + front >= last) {
#pragma unroll
                for (int i = 0; i < Q; ++i) {
                    const int row = B * i + 4 * part;
                    Four<T> four;
#pragma unroll
                    for (int e = 0; e < 4; ++e) four.at[e] = 0;
                    if (row >= last) {
                        const T* const p = turned + c * place.row + row - front;
                        if (place.aligned && row + 4 <= front + n) {
                            four = load_four(p);
                        } else {
#pragma unroll
                            for (int e = 0; e < 4; ++e)
                                if (row + e < front + n) four.at[e] = p[e];
                        }
                    }
#pragma unroll
                    for (int e = 0; e < 4; ++e) column[4 * i + e] = four.at[e];
                }
            } else {
                int odd = 0;
                for (int w = 0; w <= c / 32 && c < n; ++w)
                    odd += __popc(w < c / 32 ? minus[w] : minus[w] << (31 - c % 32));
                const T sign = odd % 2 ? T(-1) : T(1);
#pragma unroll
                for (int i = 0; i < R; ++i)
                    column[i] = c < n && i / 4 * B + 4 * part + i % 4 == c + front ? sign : T(0);
            }
            reflect<T, R, P>(column, v, tau, first, min(min(front + c0 + kColumns, front + n), last), first, part);
            if (c >= n) continue;
#pragma unroll
            for (int i = 0; i < Q; ++i) {
                const int row = B * i + 4 * part, at = row - front, count = min(4, n - at);
                if (row < first || count <= 0) continue;
                Four<T> four, other;
#pragma unroll
                for (int e = 0; e < 4; ++e) four.at[e] = other.at[e] = column[4 * i + e];
                if (place.scaled && finishes)
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        if (e < count) four.at[e] *= scale[row + e], other.at[e] *= back[row + e];
                T* const p = turned + c * place.row + at;
                T* const q = plain + (place.scaled ? c * place.row + at : at * place.row + c);
                if (place.aligned && count == 4) {
                    store_four(p, four);
                    if (finishes && place.scaled) store_four(q, other);
                } else {
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        if (e < count) {
                            p[e] = four.at[e];
                            if (finishes && place.scaled) q[e] = other.at[e];
                        }
                }
                if (finishes && plain && !place.scaled)
#pragma unroll
                    for (int e = 0; e < 4; ++e)
                        if (e < count) q[e * place.row] = other.at[e];
            }
        }
        __syncthreads();
    }
}

template <class T, int R, int P, int kWarps>
void launch_haar(const Draw& draw, Place place, Stream stream) {
    typedef Rows<R, P> Layout;
    const std::size_t fixed = kWarp * sizeof(unsigned) + 3 * Layout::N * sizeof(T);
    const std::size_t room = (shared_limit() - fixed) / sizeof(T);
    const std::size_t all = std::size_t(Layout::begin(Layout::Q) - Layout::row(lead(Layout::N, draw.haar)));
    place.room = int(all < room ? all : room);
    const std::int64_t total = draw.count * draw.heads;
    if (total > 0x7fffffff) throw std::invalid_argument("dense: more matrices than one launch can draw");
    // Where matrices are few, blocks share one, down to an item a warp. No number depends on how.
    const std::int64_t most = divide_up(draw.haar * P, kWarps * kWarp),
                       wanted = divide_up(2 * multiprocessors(), total);
    launch("dense: Haar matrices", draw_haar<T, R, P, kWarps>,
           dim3(unsigned(total), unsigned(most < wanted ? most : wanted)), dim3(kWarps * kWarp),
           fixed + std::size_t(place.room) * sizeof(T), stream, draw, place);
}
template <class T>
void launch_haar(const Draw& draw, const Place& place, Stream stream) {
    constexpr int P = sizeof(T) == 4 ? 1 : 2, R = 32 / P;
    if (draw.haar <= 64)
        launch_haar<T, R, 2 * P, 4>(draw, place, stream);
    else if (draw.haar <= 128)
        launch_haar<T, R, 4 * P, 8>(draw, place, stream);
    else if (draw.haar <= 256)
        launch_haar<T, R, 8 * P, 16>(draw, place, stream);
    else if (draw.haar <= 512)
        launch_haar<T, R, 16 * P, 16>(draw, place, stream);
    else
        launch_haar<T, 32, 32, sizeof(T) == 4 ? 16 : 8>(draw, place, stream);
}

template <class T>
void draw_all(const Draw& draw, void* workspace, Stream stream) {
    if (draw.kind == dense::kKeepsMean && draw.haar == 0) return dense_mean_frame(draw, sizeof(T) == 8, stream);
    if (draw.kind == dense::kRotary) dense_rotary_frame(draw, sizeof(T) == 8, stream);
    const std::int64_t n = draw.haar, m = draw.size, corner = (m - n) * (m + 1), total = draw.count * draw.heads;
    if (n == 0) return;
    if (draw.kind <= dense::kKeepsMean) {
        if (n <= kSmallHaar) {
            launch_small<T, false>(draw, stream);
        } else {
            Place place{};
            place.turned = static_cast<T*>(draw.inverse) + corner, place.plain = static_cast<T*>(draw.matrix) + corner;
            place.row = m, place.stride = m * m;
            place.aligned = m % 4 == 0 && reinterpret_cast<std::uintptr_t>(place.turned) % 16 == 0;
            launch_haar<T>(draw, place, stream);
        }
        if (draw.kind == dense::kKeepsMean) dense_mean_frame(draw, sizeof(T) == 8, stream);
        return;
    }
    if (n <= kSmallHaar) return launch_small<T, true>(draw, stream);

    // K1 and its transpose, as parts of whole heads; then K2^T diag(s) and K2^T diag(1 / s).
    T *const first = static_cast<T*>(workspace), *const first_turned = first + total * m * m;
    T *const second = first_turned + total * m * m, *const second_back = second + total * n * n;
    auto is_aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
    Place place{};
    place.turned = first_turned + corner, place.plain = first + corner, place.row = m, place.stride = m * m;
    place.aligned = m % 4 == 0 && is_aligned(place.turned);
    launch_haar<T>(draw, place, stream);
    place.turned = second, place.plain = second_back, place.row = n, place.stride = n * n;
    place.which = 1, place.scaled = true;
    place.aligned = n % 4 == 0 && is_aligned(place.turned) && is_aligned(place.plain);
    launch_haar<T>(draw, place, stream);

    // matrix = K1 (K2^T diag(s))^T by rows, inverse = (K2^T diag(1 / s)) K1^T by columns.
    dense::Pass pass{};
    pass.source_type = pass.out_type = sizeof(T) == 8 ? orbit::kFloat64 : orbit::kFloat32;
    pass.blocks = pass.copies = 1, pass.size = std::int32_t(n), pass.offset = corner;
    pass.source_stride = pass.out_stride = m * m * std::int64_t(sizeof(T));
    pass.outer = n, pass.outer_stride = m, pass.axis_stride = pass.inner = 1;
    pass.source = reinterpret_cast<const char*>(first), pass.out = static_cast<char*>(draw.matrix),
    pass.matrix = second;
    dense_apply(pass, sizeof(T) == 8, total, stream);
    pass.outer = 1, pass.axis_stride = m, pass.inner = n;
    pass.source = reinterpret_cast<const char*>(first_turned), pass.out = static_cast<char*>(draw.inverse);
    pass.matrix = second_back;
    dense_apply(pass, sizeof(T) == 8, total, stream);
}

void draw_float(const Draw&, void* workspace, Stream);
void draw_double(const Draw&, void* workspace, Stream);

}  // namespace nnsym::cuda::haar
