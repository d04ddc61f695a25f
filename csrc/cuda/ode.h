// SPDX-License-Identifier: MIT
// The ODE family on a device: the jobs of csrc/core/ode.h, whose arrays lie on the device, and their launchers.
//
// In a Job, `field.layer`, `method`, `control`, `event_value`, `event_direction` and all scalars are read on the host;
// `field.knots`, `parameters`, `t`, `steps`, `result`, `breaks`, `jumps`, `rtol`, `atol`, `event` (weights) and all
// arrays of samples are addresses on the device. `packed` and `vectors` are not used.
#pragma once
#include <cstdint>
#include <stdexcept>

#include "../core/ode.h"
#include "device.h"

namespace nnsym::cuda::ode {

namespace core = nnsym::ode;

struct Job : core::Job {
    std::int64_t results;     // that ys and grad have: those of `result` with fixed steps, else nodes
    std::int64_t most_steps;  // fixed: steps of all pieces together, of the sample that has most of them
    std::int32_t kernel;      // 0: whichever serves, 1: small, 2: tile
};
// With fixed steps, `states` and `given` are [kept_steps][d][samples] here: a sample's neighbours lie next to it.

constexpr int kPlanLayers = 12;
constexpr int kPlanNumbers = 296;

// A linear combination of stages: numbers [begin, end) of the plan and the stages that they belong to.
struct PlanRow {
    std::int16_t begin, end;
};

// What kernels take by value: all of a job that is not an array of samples, and the addresses of what is.
struct Plan {
    std::int32_t operation, kind, time, d;
    std::int32_t layers, degree, pieces;
    std::int32_t stages, extra, used, terms, errors, extra_cost, error_order;
    std::int32_t fsal, fixed, event_direction, want_t;
    core::Layer layer[kPlanLayers];
    double constant;
    std::int64_t parameter_count;

    double c[core::kMaxStages];
    PlanRow a[core::kMaxStages];
    PlanRow b, error[2];
    std::int32_t dense;  // where the (stages + extra, terms) coefficients of the dense output begin in `number`
    std::uint8_t stage[kPlanNumbers];
    double number[kPlanNumbers];

    core::Control control;
    double event_value;

    const void* parameters;
    const double* knots;
    std::int64_t samples, nodes, results, most_steps, jump_count, checkpoints, kept_steps;
    const double* t;
    std::int64_t t_sample, steps_sample, breaks_sample;
    const std::int64_t* steps;
    const std::int64_t* result;
    const std::int8_t* breaks;
    const double *jumps, *rtol, *atol, *event;
    const void *y0, *cotangent;
    void *ys, *y_end;
    double* t_end;
    std::int32_t* status;
    std::int64_t* stats;
    void* states;
    const void* given;
    const void* grad;
    void *gy, *gparameters;
    double* gt;

    // Filled by a launcher as it likes.
    void* workspace;
};
static_assert(sizeof(Plan) <= 4000, "a kernel has 4096 bytes of parameters");

// Throws std::invalid_argument where a job has more than a plan holds.
Plan make_plan(const Job&);

// One thread to a sample, weights in shared memory: states of few numbers (csrc/cuda/ode_small.cu).
bool small_serves(const Job&);
std::int64_t small_workspace(const Job&);  // bytes
void run_small(const Job&, void* workspace, Stream);

// A block to a tile of samples: any other field (csrc/cuda/ode_tile.cu).
bool tile_serves(const Job&);
std::int64_t tile_workspace(const Job&);
void run_tile(const Job&, void* workspace, Stream);

// Whichever serves; run throws std::runtime_error where none does. The workspace begins at 256 bytes.
std::int64_t workspace_bytes(const Job&);
void run(const Job&, void* workspace, Stream);

}  // namespace nnsym::cuda::ode
