// SPDX-License-Identifier: MIT
// The ODE family as plain data: what the kernels of every ISA read. No Python, no torch, no containers.
//
// Samples y' = f(t, y) of d numbers each, integrated by a Runge-Kutta method with steps of their own.
#pragma once
#include <cstdint>

#include "activation.h"

namespace nnsym::ode {

enum FieldKind : std::int32_t { kMlp = 0, kLinear = 1, kConformal = 2, kMetric = 3 };
enum TimeMode : std::int32_t { kNoTime = 0, kConcat = 1, kGate = 2 };
enum Status : std::int32_t { kSuccess = 0, kEvent = 1, kMaxSteps = 2, kStepTooSmall = 3, kNonFinite = 4 };
enum Operation : std::int32_t { kIntegrate = 0, kGradient = 1, kAdjoint = 2, kEvaluate = 3, kVjp = 4 };

// W (out, in) row by row from `at` in the flat parameters, then b (out), then, with kGate, the gate's weight and bias.
struct Layer {
    std::int32_t in, out, activation;
    double value;  // parameter of the activation
    std::int64_t at;
};

// MLP: layers from d (and t, with kConcat) to d. Metric: layers from n = d / 2 to n (n + 1) / 2, the lower triangle of
// L; `constant` is epsilon. Conformal: `constant` is the curvature. Linear: coefficients (pieces, degree + 1, d, d + 1)
// of the powers of t - knots[piece], the last column of b.
struct Field {
    FieldKind kind;
    TimeMode time;
    std::int32_t d;
    std::int32_t layers;
    const Layer* layer;
    std::int32_t degree, pieces;
    const double* knots;
    double constant;
    std::int64_t parameters;
};

inline constexpr int kMaxStages = 32;  // with those of dense output

// A linear combination of stages, zeros left out.
struct Row {
    std::int32_t count;
    const std::int32_t* stage;
    const double* weight;
};
struct Method {
    std::int32_t stages, extra;  // extra ones serve dense output alone
    std::int32_t used;           // the last stage that b uses, plus one
    std::int32_t terms;          // powers of theta in the dense output; 0: none
    std::int32_t errors;         // vectors of error weights: 0, 1 or 2
    std::int32_t extra_cost;     // evaluations that dense output adds to a step
    std::int32_t error_order;
    bool fsal;
    const double* c;  // stages + extra
    const Row* a;     // stages + extra
    Row b, error[2];
    const double* dense;  // (stages + extra, terms): coefficients of theta, theta^2, ...
};

struct Control {
    double safety, factor_min, factor_max, p, i, d, dt_min, dt_max, first_step;
    std::int64_t max_steps;
};

struct Job {
    Operation operation;
    bool wide;             // float64
    std::int32_t vectors;  // of samples in a tile: 1 or 2
    Field field;
    Method method;
    Control control;
    const void* parameters;
    const void* packed;  // by Kernels::pack

    // Times of the nodes: of the results, or with fixed steps of all pieces that steps are taken in.
    std::int64_t samples, nodes;
    const double* t;
    std::int64_t t_sample;  // stride; 0: the same times for all
    bool fixed;
    const std::int64_t* steps;  // of every piece between nodes
    std::int64_t steps_sample;
    const std::int64_t* result;  // with fixed steps, per node: the result that it is, or -1
    const std::int8_t* breaks;   // with fixed steps, per node: whether the field jumps there
    std::int64_t breaks_sample;
    const double* jumps;  // adaptive: ascending
    std::int64_t jump_count;
    const double *rtol, *atol;  // of every component
    const double* event;        // weights of the components; null: no event
    double event_value;
    std::int32_t event_direction;

    const void* y0;         // [sample][d]
    const void* cotangent;  // adjoint and vjp: [sample][d]
    void* ys;               // [result][sample][d]; evaluate: [sample][d]
    void* y_end;            // [sample][d]
    double* t_end;
    std::int32_t* status;
    std::int64_t* stats;  // [sample][3]: accepted, rejected, evaluations

    // With fixed steps that are the same for all samples, none of which fails: the state before every step, kept by an
    // integration and given to the gradient after it. [samples / lanes, rounded up][kept_steps][d][lanes]
    std::int64_t kept_steps;
    void* states;
    const void* given;

    // Gradient
    const void* grad;          // [result][sample][d]
    std::int64_t checkpoints;  // 0: the state of every step is kept
    bool want_t;
    void* gy;           // [sample][d]
    void* gparameters;  // null: not asked for
    double* gt;         // [sample][node]; vjp: [sample]
};

struct Kernels {
    // By type: [0] float, [1] double.
    std::int64_t (*packed_bytes[2])(const Job&);
    void (*pack[2])(const Job&, void* packed);
    std::int64_t (*scratch_bytes[2])(const Job&);
    // Samples [first, end) with scratch memory of one worker, which keeps sums of gradients; false: out of memory.
    bool (*run[2])(const Job&, std::int64_t first, std::int64_t end, void* scratch);
    void (*clear[2])(const Job&, void* scratch);
    void (*collect[2])(const Job&, void* scratch);  // adds the sums of one worker to job.gparameters
    int lanes[2];
    void (*activate[2])(int code, int what, const void* in, double parameter, void* out, std::int64_t n);
    // count vectors of an activation from registers, for the machine's rate: returns a number that depends on all.
    double (*activation_rate[2])(int code, std::int64_t count);
};

void run(Job&, int threads);  // validates nothing; throws std::bad_alloc

}  // namespace nnsym::ode
