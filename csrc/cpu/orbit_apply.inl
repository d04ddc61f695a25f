// SPDX-License-Identifier: MIT
// The action on one block: result row pos(r) = source row r gathered by index, times the row's factor, times the
// columns'.
namespace {

using namespace nnsym::orbit;

// Where up to kMaxLanes source rows lie, by the digits of their number in the outer axes.
struct SourceRows {
    std::int64_t digit[kMaxOuter][kMaxLanes], at[kMaxLanes];
    int count;

    SourceRows(const Block& block, std::int64_t first, int rows) : count(rows) {
        for (int l = 0; l < count; ++l) {
            std::int64_t rest = first + l;
            at[l] = block.source_at;
            for (int d = block.outers - 1; d >= 0; --d) {
                const OuterAxis& axis = block.outer[d];
                digit[d][l] = d ? rest % axis.size : rest;
                rest = d ? rest / axis.size : 0;
                at[l] += digit[d][l] * axis.source_stride;
            }
        }
    }
};

// Where these rows go in one point, and their factors.
template <class S, class T>
NNSYM_INLINE void place_rows(const Block& block, const char* record, const SourceRows& from, S* result, S** out,
                             T* row) {
    for (int l = 0; l < from.count; ++l) out[l] = result, row[l] = 1;
    for (int d = 0; d < block.outers; ++d) {
        const OuterAxis& axis = block.outer[d];
        const std::int32_t* pos = reinterpret_cast<const std::int32_t*>(record + axis.pos_at);
        const T* factor = reinterpret_cast<const T*>(record + axis.factor_at);
        for (int l = 0; l < from.count; ++l) {
            const std::int64_t digit = from.digit[d][l];
            out[l] += (axis.pos_at >= 0 ? pos[digit] : digit) * axis.out_stride;
            if (axis.factor_at >= 0) row[l] *= factor[digit];
        }
    }
}
// The same for R rows of a block with one outer axis: neighbours in its arrays, whose padding may be read.
template <int R, class S, class T>
NNSYM_INLINE void place_neighbours(const OuterAxis& axis, const char* record, std::int64_t first, S* result, S** out,
                                   T* row) {
    const std::int32_t* pos = reinterpret_cast<const std::int32_t*>(record + axis.pos_at) + first;
    const T* factor = reinterpret_cast<const T*>(record + axis.factor_at) + first;
    if (axis.pos_at >= 0)
        for (int l = 0; l < R; ++l) out[l] = result + pos[l] * axis.out_stride;
    else
        for (int l = 0; l < R; ++l) out[l] = result + (first + l) * axis.out_stride;
    if (axis.factor_at >= 0)
        for (int l = 0; l < R; ++l) row[l] = factor[l];
    else
        for (int l = 0; l < R; ++l) row[l] = 1;
}

template <class S, class T>
void pack_rows(T* panel, const Block& block, const char* source, const SourceRows& from) {
    const S* rows[kMaxLanes];
    for (int r = 0; r < kPanelRows<S, T>; ++r) rows[r] = reinterpret_cast<const S*>(source) + from.at[r];
    pack_panel<S, T>(panel, rows, block.width);
}

// Elements of one panel: whole vectors of columns.
template <class S, class T>
NNSYM_INLINE std::int64_t panel_size(const Block& block) {
    constexpr int L = kLanes<T>;
    return (block.width + L - 1) / L * L * kPanelRows<S, T>;
}
template <class S, class T>
NNSYM_INLINE bool has_panels(const Block& block) {
    return block.index_at >= 0 && block.width >= kLanes<T> && block.width <= kPanelWidth;
}

template <class S, class T>
void pack(const Block& block, const char* source, void* panels) {
    constexpr int R = kPanelRows<S, T>;
    if (!has_panels<S, T>(block)) return;
    T* panel = static_cast<T*>(panels) + block.panels_at;
    for (std::int64_t r = 0; r + R <= block.rows; r += R, panel += panel_size<S, T>(block))
        pack_rows<S, T>(panel, block, source, SourceRows(block, r, R));
}

constexpr std::int64_t kPanelSamples = 3;  // packing for one task pays from so many samples on

template <class S, class T>
void apply(const Block& block, const Group& group, std::int64_t begin, std::int64_t end, const Scratch& scratch) {
    constexpr int L = kLanes<T>, R = kPanelRows<S, T>;
    const std::int64_t width = block.width;
    const bool gathered = block.index_at >= 0;
    const bool panels =
        has_panels<S, T>(block) && !group.source_stride && (group.panels || group.count >= kPanelSamples);
    const bool single = block.outers == 1;  // rows are neighbours in the arrays of their axis
    for (std::int64_t r = begin; r < end; r += R) {
        const int count = int(end - r < R ? end - r : R);
        const bool packed = panels && count == R;
        const bool kept = packed && group.panels;
        const SourceRows from(block, r, single && kept ? 0 : count);
        T* panel = static_cast<T*>(scratch.panel);
        if (kept)
            panel =
                const_cast<T*>(static_cast<const T*>(group.panels)) + block.panels_at + r / R * panel_size<S, T>(block);
        else if (packed)
            pack_rows<S, T>(panel, block, group.source, from);
        for (std::int64_t k = 0; k < group.count; ++k) {
            S* const result = reinterpret_cast<S*>(group.out + k * group.out_stride) + block.out_at;
            const char* record = group.records + k * group.record_bytes;
            S* out[kMaxLanes];
            T row[kMaxLanes];
            if (single)
                place_neighbours<R>(block.outer[0], record, r, result, out, row);
            else
                place_rows(block, record, from, result, out, row);
            const std::int32_t* index = reinterpret_cast<const std::int32_t*>(record + (gathered ? block.index_at : 0));
            const T* column = block.factor_at >= 0 ? reinterpret_cast<const T*>(record + block.factor_at) : nullptr;
            if (packed) {
                panel_rows<S, T>(out, panel, index, row, column, width, group.stream, static_cast<S*>(scratch.stage));
                continue;
            }
            const S* source = reinterpret_cast<const S*>(group.source + k * group.source_stride);
            for (int l = 0; l < count; ++l) {
                const S* in = source + from.at[l];
                if (!gathered) {
                    copy_row<S, T>(out[l], in, row[l], column, width, group.stream);
                } else if (kPermutes && width <= 2 * L) {
                    permute_row<S, T>(out[l], in, index, row[l], column, width, group.stream);
                } else if constexpr (sizeof(S) == sizeof(T)) {
                    gather_row<S, T>(out[l], in, index, row[l], column, width, group.stream);
                } else {
                    for (std::int64_t j = 0; j < width; j += L)
                        store(panel + j, load_part<S, T>(in + j, width - j < L ? width - j : L));
                    gather_row<S, T>(out[l], panel, index, row[l], column, width, group.stream);
                }
            }
        }
    }
}

}  // namespace
