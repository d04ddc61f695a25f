// SPDX-License-Identifier: MIT
#include "ode.h"

#include <string>

namespace nnsym::cuda::ode {

namespace {

PlanRow add_row(Plan& plan, int& used, const core::Row& row) {
    if (used + row.count > kPlanNumbers)
        throw std::invalid_argument("tableau: more than " + std::to_string(kPlanNumbers) +
                                    " numbers that are not zero");
    const PlanRow at{std::int16_t(used), std::int16_t(used + row.count)};
    for (int j = 0; j < row.count; ++j, ++used)
        plan.stage[used] = std::uint8_t(row.stage[j]), plan.number[used] = row.weight[j];
    return at;
}

std::string name_of(const Job& job) {
    const core::Field& f = job.field;
    std::string text = f.kind == core::kMlp         ? "an MLP"
                       : f.kind == core::kLinear    ? "a linear field"
                       : f.kind == core::kConformal ? "geodesics of constant curvature"
                                                    : "geodesics of a metric";
    text += " with d = " + std::to_string(f.d);
    if (f.layers) {
        text += " and widths " + std::to_string(f.layer[0].in);
        for (int l = 0; l < f.layers; ++l) text += ", " + std::to_string(f.layer[l].out);
    }
    return text;
}

}  // namespace

Plan make_plan(const Job& job) {
    Plan p{};
    const core::Field& f = job.field;
    const core::Method& m = job.method;
    p.operation = job.operation, p.kind = f.kind, p.time = f.time, p.d = f.d;
    p.layers = f.layers, p.degree = f.degree, p.pieces = f.pieces;
    if (f.layers > kPlanLayers)
        throw std::invalid_argument("field: at most " + std::to_string(kPlanLayers) + " layers on a device");
    for (int l = 0; l < f.layers; ++l) p.layer[l] = f.layer[l];
    p.constant = f.constant, p.parameter_count = f.parameters, p.knots = f.knots;

    p.stages = m.stages, p.extra = m.extra, p.used = m.used, p.terms = m.terms, p.errors = m.errors;
    p.extra_cost = m.extra_cost, p.error_order = m.error_order, p.fsal = m.fsal;
    const int total = m.stages + m.extra;
    int used = 0;
    if (m.stages) {
        for (int j = 0; j < total; ++j) p.c[j] = m.c[j], p.a[j] = add_row(p, used, m.a[j]);
        p.b = add_row(p, used, m.b);
        for (int e = 0; e < m.errors; ++e) p.error[e] = add_row(p, used, m.error[e]);
        p.dense = used;
        if (used + total * m.terms > kPlanNumbers)
            throw std::invalid_argument("tableau: more than " + std::to_string(kPlanNumbers) +
                                        " numbers with those of its dense output");
        for (int i = 0; i < total * m.terms; ++i) p.number[used + i] = m.dense[i];
    }
    p.control = job.control;
    p.event_value = job.event_value, p.event_direction = job.event_direction, p.event = job.event;
    p.fixed = job.fixed, p.want_t = job.want_t;
    p.parameters = job.parameters;
    p.samples = job.samples, p.nodes = job.nodes, p.results = job.results, p.most_steps = job.most_steps;
    p.jump_count = job.jump_count, p.checkpoints = job.checkpoints, p.kept_steps = job.kept_steps;
    p.t = job.t, p.t_sample = job.t_sample, p.steps_sample = job.steps_sample, p.breaks_sample = job.breaks_sample;
    p.steps = job.steps, p.result = job.result, p.breaks = job.breaks;
    p.jumps = job.jumps, p.rtol = job.rtol, p.atol = job.atol;
    p.y0 = job.y0, p.cotangent = job.cotangent, p.ys = job.ys, p.y_end = job.y_end, p.t_end = job.t_end;
    p.status = job.status, p.stats = job.stats, p.states = job.states, p.given = job.given;
    p.grad = job.grad, p.gy = job.gy, p.gparameters = job.gparameters, p.gt = job.gt;
    return p;
}

std::int64_t workspace_bytes(const Job& job) {
    if (job.kernel != 2 && small_serves(job)) return small_workspace(job);
    return job.kernel != 1 && tile_serves(job) ? tile_workspace(job) : 0;
}

void run(const Job& job, void* workspace, Stream stream) {
    if (job.samples == 0) return;
    if (job.kernel != 2 && small_serves(job)) return run_small(job, workspace, stream);
    if (job.kernel != 1 && tile_serves(job)) return run_tile(job, workspace, stream);
    throw std::runtime_error("ode: no kernel serves " + name_of(job) +
                             " on this device, whose shared memory is too small for it; use the CPU");
}

}  // namespace nnsym::cuda::ode
