// SPDX-License-Identifier: MIT
// What a reverse pass must know of the steps that a tile of samples took: in the order of the tile's steps, with h = 0
// for a sample that did not take one.
#pragma once

namespace {

struct Grown {
    char* data = nullptr;
    std::int64_t used = 0, room = 0;

    static std::int64_t whole_lines(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }
    void* push(std::int64_t bytes) {  // null: out of memory
        bytes = whole_lines(bytes);
        if (used + bytes > room) {
            const std::int64_t wanted = (used + bytes) * 2;
            char* grown = static_cast<char*>(std::aligned_alloc(64, std::size_t(wanted)));
            if (!grown) return nullptr;
            if (used) std::memcpy(grown, data, std::size_t(used));
            std::free(data);
            data = grown, room = wanted;
        }
        void* p = data + used;
        used += bytes;
        return p;
    }
    void release() {
        std::free(data);
        data = nullptr;
        used = room = 0;
    }
};

template <class T, int C>
struct Record {
    typedef typename Vec<T>::F V;
    typedef Tile<T, C> Steps;
    static constexpr int S = Steps::S;

    struct alignas(64) Step {
        double t[S], h[S], closing[S];
        double begin[S], part[S];  // fixed steps: the shares of the piece's length before the step, and in it
        Flag late[S], early[S];
        std::int64_t piece, outputs;  // outputs: those of this step and all before
    };
    struct alignas(64) Output {
        double theta[S];        // 1: the end of the step itself
        std::int64_t index[S];  // -1: none for this sample
    };

    Grown steps, outputs, states;
    std::int64_t step_count = 0, output_count = 0;
    bool keep_states = false, failed = false;

    Step& step(std::int64_t i) { return reinterpret_cast<Step*>(steps.data)[i]; }
    Output& output(std::int64_t i) { return reinterpret_cast<Output*>(outputs.data)[i]; }
    V* state(std::int64_t i, std::int64_t vectors) {
        return reinterpret_cast<V*>(states.data + i * Grown::whole_lines(vectors * std::int64_t(sizeof(V))));
    }

    void begin() {
        steps.used = outputs.used = states.used = 0;
        step_count = output_count = 0;
    }
    void add_step(const Steps& tile, const Flag* taken, std::int64_t piece, const double* begin, const double* part) {
        Step* s = static_cast<Step*>(steps.push(sizeof(Step)));
        const std::int64_t vectors = tile.rows * C;
        V* y = keep_states ? static_cast<V*>(states.push(vectors * std::int64_t(sizeof(V)))) : nullptr;
        if (!s || (keep_states && !y)) {
            failed = true;
            return;
        }
        for (int l = 0; l < S; ++l) {
            s->t[l] = tile.t[l];
            s->h[l] = taken[l] ? tile.h[l] : 0;
            s->begin[l] = begin ? begin[l] : 0;
            s->part[l] = part && taken[l] ? part[l] : 0;
            s->late[l] = tile.late[l], s->early[l] = tile.early[l], s->closing[l] = tile.closing[l];
        }
        s->piece = piece;
        s->outputs = output_count;
        for (std::int64_t i = 0; y && i < vectors; ++i) y[i] = tile.y[i];
        ++step_count;
    }
    Output* add_output() {  // to the step added last
        Output* o = static_cast<Output*>(outputs.push(sizeof(Output)));
        if (!o) {
            failed = true;
            return nullptr;
        }
        for (int l = 0; l < S; ++l) o->theta[l] = 0, o->index[l] = -1;
        step(step_count - 1).outputs = ++output_count;
        return o;
    }
    void release() {
        steps.release();
        outputs.release();
        states.release();
    }
};

}  // namespace
