// SPDX-License-Identifier: MIT
// Tiles of samples: what they serve, where their numbers lie, and the launches of a job.
#include <algorithm>
#include <cstring>
#include <vector>

#include "ode_tile.cuh"
#include "ode_tile_launch.h"

namespace nnsym::cuda::ode {

namespace {

constexpr int kWidest = 4096;         // rows of a layer, or columns of a linear field
constexpr int kMetricDimension = 64;  // of a metric: half the state
constexpr std::int64_t kMostSums = std::int64_t(2) << 30, kMostBlocks = std::int64_t(4) << 30,
                       kMostRecords = std::int64_t(1) << 29;  // bytes, of all blocks together

bool steps_taken(const Job& job) {
    return job.operation <= core::kAdjoint;
}
int widest_of(const core::Field& f) {
    int widest = f.d;
    for (int l = 0; l < f.layers; ++l) widest = std::max({widest, f.layer[l].in, f.layer[l].out});
    if (f.kind == core::kLinear) widest = std::max(widest, (f.degree + 1) * (f.d + 1));
    return widest;
}

struct Places {
    Layout layout{};
    std::vector<LayerView> views;
    std::int64_t bytes = 0;  // of the workspace
};

// Hands out rows: in shared memory while they fit, then in the block's part of the workspace.
struct Room {
    std::int64_t shared, budget, own = 0;
    std::int64_t real;

    std::int64_t take(std::int64_t bytes) {
        bytes = (bytes + 127) / 128 * 128;
        if (shared + bytes <= budget) return (shared += bytes) - bytes;
        own += bytes;
        return -own;  // resolved when all are known: see settle
    }
    std::int64_t rows(std::int64_t n) { return n ? take(n * kSamples * real) : kNowhere - 1; }
};

template <class T>
Places places_of(const Job& job) {
    Places found;
    Layout& at = found.layout;
    const core::Field& f = job.field;
    const int d = f.d;
    const bool adjoint = job.operation == core::kAdjoint, gradient = job.operation == core::kGradient;
    const bool reverse = adjoint || gradient || job.operation == core::kVjp, linear = f.kind == core::kLinear;
    const bool gated = f.kind == core::kMlp && f.time == core::kGate, metric = f.kind == core::kMetric;
    at.rows = adjoint ? 2 * d : d;
    at.total = steps_taken(job) ? job.method.stages + job.method.extra : 1;
    at.columns = linear ? (f.degree + 1) * (d + 1) : 0;
    at.widest = widest_of(f);
    at.threads = at.widest <= 32 ? 64 : at.widest <= 128 ? 128 : 256;
    const std::int64_t tiles = divide_up(job.samples, kSamples);
    at.tiles = std::int32_t(tiles);

    // Layers, and a tape: its input, then of every layer what the reverse pass reads.
    std::int64_t numbers = 0;
    std::int32_t row = f.layers ? f.layer[0].in : 0;
    std::int32_t outputs = 0;
    for (int l = 0; l < f.layers; ++l) {
        const core::Layer& layer = f.layer[l];
        LayerView v{};
        v.in = layer.in, v.out = layer.out, v.activation = layer.activation, v.value = layer.value, v.at = layer.at;
        v.forward = numbers, numbers += std::int64_t(v.in) * packed_rows(v.out);
        v.backward = numbers, numbers += std::int64_t(v.out) * packed_rows(v.in);
        v.kept = row, v.slope = row + v.out, row += 2 * v.out;
        if (gated) v.gate = row, v.ungated = row + v.out, row += 2 * v.out;
        v.argument = outputs, outputs += v.out;
        found.views.push_back(v);
    }
    at.tape_rows = row;
    if (linear) {
        at.piece_numbers =
            std::max(std::int64_t(at.columns) * packed_rows(d), std::int64_t(d) * packed_rows(at.columns));
        numbers = 2 * at.piece_numbers * f.pieces;
        at.tape_rows = d + 1 + at.columns + d;
    } else if (f.kind == core::kConformal) {
        at.tape_rows = d + 1;
    } else if (metric) {
        const int n = d / 2;
        at.strand = d + 1, at.strand_rows = row;
        const std::int32_t arguments = at.strand + 3 * row;
        for (LayerView& v : found.views) v.argument += arguments;
        at.acceleration = arguments + outputs, at.factor = at.acceleration + n;
        at.tape_rows = at.factor + n * n;
    }

    // What is used most comes first. Half of the memory of a multiprocessor, where that is enough for it.
    Room room{Tile<T>::bytes(), 0, 0, std::int64_t(sizeof(T))};
    const std::int64_t most = std::int64_t(shared_limit()), half = most / 2 - 1024;
    const bool net = f.kind == core::kMlp;
    const std::int64_t line = kSamples * std::int64_t(sizeof(T));
    const std::int64_t hot = ((net ? 2 * at.widest : linear ? at.columns + at.widest : 0) + 2 * at.rows + 1) * line;
    room.budget = room.shared + hot <= half ? half : most;
    at.even = room.rows(net ? at.widest : 0), at.odd = room.rows(net ? at.widest : 0);
    at.wide = room.rows(at.columns), at.part = room.rows(linear ? std::max(at.columns, std::int32_t(d)) : 0);
    at.x = room.rows(at.rows + 1), at.y = room.rows(at.rows);
    at.left = room.rows(metric ? at.widest : 0), at.right = room.rows(metric ? at.widest : 0);
    at.vectors = room.rows(metric ? 8 * (d / 2) : 0);
    if (reverse || metric)
        at.tape = room.rows(at.tape_rows);
    else
        at.tape = room.rows(0);
    at.k = room.rows(std::int64_t(at.total) * at.rows);
    at.next = room.rows(at.rows), at.work = room.rows(at.rows + 1);
    at.gx = room.rows(gradient ? d + 1 : 0), at.back = room.rows(gradient ? d : 0);
    at.gk = room.rows(gradient ? std::int64_t(at.total) * d : 0);
    at.spare = room.rows(gradient || adjoint ? d : 0);
    at.cotangents = room.rows(metric && reverse ? 6 * std::int64_t(at.widest) : 0);

    // Blocks: as many as are at work at once, fewer where their memory would be too much.
    const std::int64_t all_shared = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    const std::int64_t resident = std::max<std::int64_t>(
        1, std::min<std::int64_t>(kTileBlocks * kTileThreads / at.threads, all_shared / (room.shared + 1024)));
    std::int64_t blocks = std::min(tiles, multiprocessors() * resident);
    auto no_more_than = [&](std::int64_t each, std::int64_t together) {
        if (each > 0) blocks = std::max<std::int64_t>(1, std::min(blocks, together / each));
    };
    const std::int64_t parameter_bytes = job.gparameters ? f.parameters * std::int64_t(sizeof(T)) : 0;
    no_more_than(parameter_bytes, kMostSums);
    no_more_than(room.own, kMostBlocks);

    const std::int64_t shared_rows = room.shared;
    at.records = at.states = at.snapshots = kNowhere - 1;
    if (gradient && !job.given) {
        const std::int64_t state = d * line, one = state + kSamples * std::int64_t(sizeof(StepRecord));
        std::int64_t n = std::min<std::int64_t>(4096, kMostRecords / blocks / one);
        if (job.checkpoints > 0) n = std::min(n, job.checkpoints);
        if (job.fixed) n = std::min(n, job.most_steps + kSamples);
        n = std::max<std::int64_t>(n, 4);
        at.record_count = std::int32_t(n);
        at.snapshot_bytes = (2 * state + std::int64_t(sizeof(Course<T>)) * kSamples + 127) / 128 * 128;
        room.budget = 0;
        at.records = room.take((n + 1) * kSamples * std::int64_t(sizeof(StepRecord)));
        at.states = room.take(n * state);
        at.snapshots = room.take(kSnapshots * at.snapshot_bytes);
        no_more_than(room.own, kMostBlocks);
    }
    at.shared_bytes = shared_rows;
    at.block_bytes = room.own;
    at.blocks = std::int32_t(blocks);
    // Places of the workspace: from -own (counted from the block's end) to shared_bytes and more.
    std::int64_t* const all[] = {&at.y,    &at.next,  &at.x,    &at.work, &at.k,       &at.even,       &at.odd,
                                 &at.tape, &at.wide,  &at.part, &at.left, &at.right,   &at.cotangents, &at.vectors,
                                 &at.back, &at.spare, &at.gk,   &at.gx,   &at.records, &at.states,     &at.snapshots};
    for (std::int64_t* place : all)
        if (*place == kNowhere - 1)
            *place = kNowhere;
        else if (*place < 0)
            *place = at.shared_bytes + at.block_bytes + *place;

    auto take = [&](std::int64_t bytes) {
        const std::int64_t begin = found.bytes;
        found.bytes += (bytes + 255) / 256 * 256;
        return begin;
    };
    take(sizeof(Layout));
    at.views = take(std::int64_t(found.views.size() * sizeof(LayerView)));
    at.packed = take(numbers * std::int64_t(sizeof(T)));
    at.blocks_at = take(blocks * at.block_bytes);
    at.sums = take(blocks * parameter_bytes);
    return found;
}

// --- small kernels around the large ones

struct Bytes {
    unsigned word[512];
};
__global__ void store_bytes(unsigned* to, const __grid_constant__ Bytes bytes, int words) {
    for (int i = int(threadIdx.x); i < words; i += int(blockDim.x)) to[i] = bytes.word[i];
}
// Data of the host into the workspace, as kernel parameters: no copy that would have to wait, or outlive the call.
void store(void* to, const void* from, std::int64_t bytes, Stream stream) {
    for (std::int64_t done = 0; done < bytes;) {
        Bytes part{};
        const std::int64_t n = std::min<std::int64_t>(bytes - done, sizeof(part.word));
        std::memcpy(part.word, static_cast<const char*>(from) + done, std::size_t(n));
        launch("ode: plan of tiles", store_bytes, dim3(1), dim3(128), 0, stream,
               reinterpret_cast<unsigned*>(static_cast<char*>(to) + done), part, int((n + 3) / 4));
        done += n;
    }
}

// Both matrices of every layer, column by column, with zeros up to packed_rows.
template <class T>
__global__ void pack_net(const LayerView* views, const T* parameters, T* packed) {
    const LayerView v = views[blockIdx.y];
    const T* w = parameters + v.at;
    const int down = packed_rows(v.out), across = packed_rows(v.in);
    const std::int64_t begin = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
                       step = std::int64_t(gridDim.x) * blockDim.x;
    for (std::int64_t n = begin; n < std::int64_t(v.in) * down; n += step) {
        const std::int64_t i = n / down, r = n % down;
        packed[v.forward + n] = r < v.out ? w[r * v.in + i] : T(0);
    }
    for (std::int64_t n = begin; n < std::int64_t(v.out) * across; n += step) {
        const std::int64_t r = n / across, i = n % across;
        packed[v.backward + n] = i < v.in ? w[r * v.in + i] : T(0);
    }
}
template <class T>
__global__ void pack_linear(const T* parameters, T* packed, int d, int columns, int pieces, std::int64_t numbers) {
    const int down = packed_rows(d), across = packed_rows(columns);
    const std::int64_t begin = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
                       step = std::int64_t(gridDim.x) * blockDim.x;
    auto entry = [&](std::int64_t piece, std::int64_t i, std::int64_t column) {
        const std::int64_t power = column / (d + 1), j = column % (d + 1);
        return parameters[((piece * (columns / (d + 1)) + power) * d + i) * (d + 1) + j];
    };
    for (std::int64_t n = begin; n < std::int64_t(pieces) * columns * down; n += step) {
        const std::int64_t piece = n / (std::int64_t(columns) * down), place = n % (std::int64_t(columns) * down);
        const std::int64_t column = place / down, i = place % down;
        packed[2 * piece * numbers + place] = i < d ? entry(piece, i, column) : T(0);
    }
    for (std::int64_t n = begin; n < std::int64_t(pieces) * d * across; n += step) {
        const std::int64_t piece = n / (std::int64_t(d) * across), place = n % (std::int64_t(d) * across);
        const std::int64_t i = place / across, column = place % across;
        packed[(2 * piece + 1) * numbers + place] = column < columns ? entry(piece, i, column) : T(0);
    }
}
// The sums of all blocks, in their order.
template <class T>
__global__ void collect_sums(const T* sums, std::int64_t count, int blocks, T* out) {
    const std::int64_t begin = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x,
                       step = std::int64_t(gridDim.x) * blockDim.x;
    for (std::int64_t i = begin; i < count; i += step) {
        double sum = 0;
        for (int b = 0; b < blocks; ++b) sum += double(sums[b * count + i]);
        out[i] = T(sum);
    }
}

template <class T>
void run_as(const Job& job, void* workspace, Stream stream) {
    const Places places = places_of<T>(job);
    const Layout& at = places.layout;
    core::Field bare = job.field;
    bare.layers = 0;
    Job plain = job;
    plain.field = bare;
    if (!steps_taken(job)) plain.method = core::Method{};
    Plan plan = make_plan(plain);
    plan.layers = job.field.layers;
    plan.workspace = workspace;

    char* base = static_cast<char*>(workspace);
    T* packed = reinterpret_cast<T*>(base + at.packed);
    const T* parameters = static_cast<const T*>(job.parameters);
    store(base, &at, sizeof(Layout), stream);
    auto grid = [](std::int64_t count) {
        return unsigned(std::max<std::int64_t>(1, std::min<std::int64_t>(divide_up(count, 256), 1024)));
    };
    if (!places.views.empty()) {
        store(base + at.views, places.views.data(), std::int64_t(places.views.size() * sizeof(LayerView)), stream);
        launch("ode: packing of weights", pack_net<T>,
               dim3(grid(std::int64_t(at.widest) * at.widest), unsigned(places.views.size())), dim3(256), 0, stream,
               reinterpret_cast<const LayerView*>(base + at.views), parameters, packed);
    }
    if (job.field.kind == core::kLinear)
        launch("ode: packing of weights", pack_linear<T>, dim3(grid(job.field.parameters)), dim3(256), 0, stream,
               parameters, packed, job.field.d, at.columns, job.field.pieces, at.piece_numbers);
    if (job.operation == core::kIntegrate || job.operation == core::kEvaluate)
        launch_tile_steps<T>(plan, at, stream);
    else if (job.operation == core::kGradient)
        launch_tile_gradient<T>(plan, at, stream);
    else
        launch_tile_adjoint<T>(plan, at, stream);
    if (job.gparameters && job.field.parameters)
        launch("ode: sums of gradients", collect_sums<T>, dim3(grid(job.field.parameters)), dim3(256), 0, stream,
               reinterpret_cast<const T*>(base + at.sums), job.field.parameters, int(at.blocks),
               static_cast<T*>(job.gparameters));
}

}  // namespace

bool tile_serves(const Job& job) {
    const core::Field& f = job.field;
    if (f.d < 1 || widest_of(f) > kWidest || f.layers > 65535) return false;
    if (f.kind == core::kMetric && f.d / 2 > kMetricDimension) return false;
    if (divide_up(job.samples, kSamples) > 0x7fffffff || job.nodes > 0x7fffffff) return false;
    if (!steps_taken(job)) return true;
    const core::Method& m = job.method;
    const int total = m.stages + m.extra;
    if (total > core::kMaxStages || m.errors > 2) return false;
    int numbers = m.b.count + total * m.terms;
    for (int j = 0; j < total; ++j) numbers += m.a[j].count;
    for (int e = 0; e < m.errors; ++e) numbers += m.error[e].count;
    return numbers <= kPlanNumbers;
}
std::int64_t tile_workspace(const Job& job) {
    return job.wide ? places_of<double>(job).bytes : places_of<float>(job).bytes;
}
void run_tile(const Job& job, void* workspace, Stream stream) {
    if (job.samples == 0) return;
    if (job.wide)
        run_as<double>(job, workspace, stream);
    else
        run_as<float>(job, workspace, stream);
}

}  // namespace nnsym::cuda::ode
