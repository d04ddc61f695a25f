// SPDX-License-Identifier: MIT
// Normals, and what surrounds Haar matrices: the kernels beside those of dense_draw.cuh.
#include "dense_draw.cuh"

namespace nnsym::cuda {
namespace {

using dense::Draw;

constexpr int kThreads = 256;

struct Numbers {
    std::uint64_t seed, first;
    std::int64_t step, blocks, total;  // total: blocks of all samples
    std::uint32_t site, draw;
};

template <class T>
__global__ void __launch_bounds__(kThreads) normals(const Numbers numbers, T* out) {
    const std::int64_t index = std::int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (index >= numbers.total) return;
    const std::int64_t k = index / numbers.blocks, block = index - k * numbers.blocks;
    const uint4 words = philox(numbers.seed, numbers.first + std::uint64_t(k) * std::uint64_t(numbers.step),
                               numbers.site, numbers.draw + unsigned(block));
    haar::Four<T> four;
    box_muller(words.x, words.y, four.at[0], four.at[1]);
    box_muller(words.z, words.w, four.at[2], four.at[3]);
    haar::store_four(out + 4 * index, four);
}

template <class T>
void launch_normals(const Numbers& numbers, void* out, Stream stream) {
    const std::int64_t blocks = divide_up(numbers.total, kThreads);
    if (blocks > 0x7fffffff) throw std::invalid_argument("dense: more normals than one launch can draw");
    launch("dense: normals", normals<T>, dim3(unsigned(blocks)), dim3(kThreads), 0, stream, numbers,
           static_cast<T*>(out));
}

void check_fits(std::size_t shared) {
    if (shared > shared_limit())
        throw std::invalid_argument("dense: heads of more units than a block can hold sums of");
}

// U M U for M = diag(sign, B) and U = 1 - beta u u^T, which exchanges the first axis and the direction of ones: M -
// beta (u left^T + right u^T - beta corner u u^T) with left = M^T u, right = M u, corner = u^T M u. One block a matrix.
template <class T>
__global__ void __launch_bounds__(kThreads) mean_frame(const Draw draw) {
    const std::int64_t index = blockIdx.x, head = index % draw.heads;
    const std::uint64_t sample = draw.first + std::uint64_t(index / draw.heads) * std::uint64_t(draw.step);
    const int m = draw.size, tid = int(threadIdx.x), lane = tid % kWarp, warp = tid / kWarp;
    const std::int64_t place = index * m * m;
    T *const matrix = static_cast<T*>(draw.matrix) + place, *const inverse = static_cast<T*>(draw.inverse) + place;
    const uint4 words =
        philox(draw.seed, sample, draw.site, (unsigned(orbit::kSign) << orbit::kDrawShift) + unsigned(head / 128));
    const T sign = word(words, int(head / 32 % 4)) >> (head % 32) & 1 ? T(-1) : T(1);
    if (m == 1) {
        if (tid == 0) *matrix = *inverse = sign;
        return;
    }
    const T root = T(1) / sqrt(T(m)), beta = T(1) / (T(1) - root), near = T(1) - root;
    T *const right = reinterpret_cast<T*>(dynamic_shared()), *const left = right + m;
    for (int row = warp; row < 2 * m; row += kThreads / kWarp) {  // first those of M, then those of M^T
        const int i = row < m ? row : row - m;
        const T* const from = (row < m ? matrix : inverse) + std::int64_t(i) * m;
        T sum = 0;
        for (int j = 1 + lane; j < m && i; j += kWarp) sum = fma(from[j], -root, sum);
#pragma unroll
        for (int d = 1; d < kWarp; d *= 2) sum += __shfl_xor_sync(kAll, sum, d);
        if (lane == 0) right[row] = i ? sum : sign * near;
    }
    __syncthreads();
    T corner = 0;  // u^T right, by every warp for itself
    for (int i = lane; i < m; i += kWarp) corner = fma(i ? -root : near, right[i], corner);
#pragma unroll
    for (int d = 1; d < kWarp; d *= 2) corner += __shfl_xor_sync(kAll, corner, d);
    corner *= beta;
    const unsigned total = unsigned(m) * unsigned(m);
    for (unsigned at = unsigned(tid); at < total; at += kThreads) {
        const int row = int(at / unsigned(m)), column = int(at % unsigned(m));
#pragma unroll
        for (int which = 0; which < 2; ++which) {
            // The same operations on the same numbers for both: each is the other's transpose in every bit.
            const int i = which ? column : row, j = which ? row : column;
            T* const p = (which ? inverse : matrix) + at;
            const T middle = i == 0 || j == 0 ? (i == j ? sign : T(0)) : *p;
            const T ui = i ? -root : near, uj = j ? -root : near;
            const T rest = fma(ui, left[j], fma(right[i], uj, -(corner * ui * uj)));
            *p = fma(-beta, rest, middle);
        }
    }
}

template <class T>
void launch_mean(const Draw& draw, Stream stream) {
    const std::size_t shared = 2 * std::size_t(draw.size) * sizeof(T);
    check_fits(shared);
    launch("dense: frame of a mean", mean_frame<T>, dim3(unsigned(draw.count * draw.heads)), dim3(kThreads), shared,
           stream, draw);
}

// Everything outside the corner of the free units: zeros, and r (cos, -sin; sin, cos) of every pair; its inverse.
// `elements` matrices a block.
template <class T>
__global__ void __launch_bounds__(kThreads) rotary_frame(const Draw draw, const int elements) {
    T* const shared = reinterpret_cast<T*>(dynamic_shared());  // r cos, r sin, cos / r, sin / r of every pair
    const int m = draw.size, pairs = draw.pairs, tid = int(threadIdx.x);
    const std::int64_t first = std::int64_t(blockIdx.x) * elements, total = draw.count * draw.heads;
    const int some = int(total - first < elements ? total - first : elements);
    for (int item = tid; item < some * pairs; item += kThreads) {
        const std::int64_t index = first + item / pairs, head = index % draw.heads;
        const int p = item % pairs;
        const std::uint64_t sample = draw.first + std::uint64_t(index / draw.heads) * std::uint64_t(draw.step);
        const uint4 words = philox(draw.seed, sample, draw.site,
                                   dense::kMatrixPart + unsigned(head * draw.head_blocks) + unsigned(p / 4));
        T s, c;
        sincos_turn(word(words, p % 4), s, c);
        const T log = haar::log_scale<T>(draw, sample, head * m + p), r = exp(log), back = exp(-log);
        T* const four = shared + 4 * item;
        four[0] = r * c, four[1] = r * s, four[2] = back * c, four[3] = back * s;
    }
    __syncthreads();
    const unsigned square = unsigned(m) * unsigned(m);
    for (unsigned at = unsigned(tid); at < unsigned(some) * square; at += kThreads) {
        const unsigned element = at / square, rest = at % square;
        const int i = int(rest / unsigned(m)), j = int(rest % unsigned(m));
        if (i >= 2 * pairs && j >= 2 * pairs) continue;
        T value = 0, other = 0;
        if (i < 2 * pairs && j < 2 * pairs) {
            const int p = draw.interleaved ? i / 2 : i % pairs, q = draw.interleaved ? j / 2 : j % pairs;
            const bool second_i = draw.interleaved ? i % 2 : i >= pairs,
                       second_j = draw.interleaved ? j % 2 : j >= pairs;
            if (p == q) {
                const T* const four = shared + 4 * (int(element) * pairs + p);
                value = second_i == second_j ? four[0] : second_i ? four[1] : -four[1];
                other = second_i == second_j ? four[2] : second_i ? -four[3] : four[3];
            }
        }
        const std::int64_t to = first * square + at;
        static_cast<T*>(draw.matrix)[to] = value;
        static_cast<T*>(draw.inverse)[to] = other;
    }
}

template <class T>
void launch_rotary(const Draw& draw, Stream stream) {
    const std::int64_t square = std::int64_t(draw.size) * draw.size;
    int elements = int(square >= 4096 ? 1 : 4096 / square);
    if (draw.pairs && elements * draw.pairs > 512) elements = draw.pairs > 512 ? 1 : 512 / draw.pairs;
    const std::size_t shared = 4 * std::size_t(elements) * std::size_t(draw.pairs) * sizeof(T);
    check_fits(shared);
    launch("dense: frame of rotations", rotary_frame<T>, dim3(unsigned(divide_up(draw.count * draw.heads, elements))),
           dim3(kThreads), shared, stream, draw, elements);
}

void check_count(const Draw& draw) {
    if (draw.count * draw.heads > 0x7fffffff)
        throw std::invalid_argument("dense: more matrices than one launch can draw");
}

}  // namespace

std::int64_t dense_workspace(const Draw& draw) {
    return draw.kind < dense::kGeneral || draw.haar <= kSmallHaar
               ? 0
               : 2 * (std::int64_t(draw.size) * draw.size + std::int64_t(draw.haar) * draw.haar);
}

void dense_draw(const Draw& draw, bool wide, void* workspace, Stream stream) {
    if (draw.haar > kLargestHaar) throw std::invalid_argument("dense: a Haar matrix larger than the kernel's");
    check_count(draw);
    if (draw.count == 0) return;
    (wide ? haar::draw_double : haar::draw_float)(draw, workspace, stream);
}

void dense_mean_frame(const Draw& draw, bool wide, Stream stream) {
    check_count(draw);
    (wide ? launch_mean<double> : launch_mean<float>)(draw, stream);
}

void dense_rotary_frame(const Draw& draw, bool wide, Stream stream) {
    check_count(draw);
    (wide ? launch_rotary<double> : launch_rotary<float>)(draw, stream);
}

void dense_normals(bool wide, std::uint64_t seed, std::uint64_t first, std::int64_t step, std::int64_t count,
                   std::uint32_t site, orbit::DrawPart part, std::int64_t blocks, void* out, Stream stream) {
    const Numbers numbers{seed, first, step, blocks, count * blocks, site, std::uint32_t(part) << orbit::kDrawShift};
    (wide ? launch_normals<double> : launch_normals<float>)(numbers, out, stream);
}

}  // namespace nnsym::cuda
