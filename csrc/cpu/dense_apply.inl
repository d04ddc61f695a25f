// SPDX-License-Identifier: MIT
// Matrices on the blocks of one axis: block-wise, where the numbers of a unit are contiguous (rows of a weight), or
// row-wise, where the units themselves are (columns).
namespace {

using namespace nnsym;
using dense::Pass;
using dense::Piece;

// Bytes at element `at` of a tensor stored as `type`.
NNSYM_INLINE const char* element(const char* p, orbit::Dtype type, std::int64_t at) {
    return p + at * std::int64_t(orbit::itemsize(type));
}

template <class T, class S>
void widen_as(T* out, const char* in, std::int64_t count) {
    constexpr int L = kLanes<T>;
    const S* from = reinterpret_cast<const S*>(in);
    for (std::int64_t j = 0; j < count; j += L) {
        auto v = load_part<S, T>(from + j, count - j < L ? count - j : L);
        std::memcpy(out + j, &v, std::size_t(count - j < L ? count - j : L) * sizeof(T));
    }
}
template <class T, class S>
void narrow_as(char* out, const T* in, std::int64_t count) {
    constexpr int L = kLanes<T>;
    S* to = reinterpret_cast<S*>(out);
    for (std::int64_t j = 0; j < count; j += L) {
        const std::int64_t some = count - j < L ? count - j : L;
        auto v = Convert<S, T>::round(load_part<T, T>(in + j, some));
        std::memcpy(to + j, &v, std::size_t(some) * sizeof(S));
    }
}

// Numbers of the compute type from storage, and back.
template <class T>
void widen(T* out, const char* in, orbit::Dtype type, std::int64_t count) {
    if constexpr (sizeof(T) == 8) {
        if (type == orbit::kFloat32) return widen_as<T, float>(out, in, count);
    } else {
        if (type == orbit::kBfloat16) return widen_as<T, Bfloat16>(out, in, count);
        if (type == orbit::kFloat16) return widen_as<T, Float16>(out, in, count);
    }
    std::memcpy(out, in, std::size_t(count) * sizeof(T));
}
template <class T>
void narrow(char* out, const T* in, orbit::Dtype type, std::int64_t count) {
    if constexpr (sizeof(T) == 8) {
        if (type == orbit::kFloat32) return narrow_as<T, float>(out, in, count);
    } else {
        if (type == orbit::kBfloat16) return narrow_as<T, Bfloat16>(out, in, count);
        if (type == orbit::kFloat16) return narrow_as<T, Float16>(out, in, count);
    }
    std::memcpy(out, in, std::size_t(count) * sizeof(T));
}

template <class T>
constexpr orbit::Dtype kTypeOf = sizeof(T) == 8 ? orbit::kFloat64 : orbit::kFloat32;

NNSYM_INLINE std::int64_t outer_offset(const Pass& pass, std::int64_t index) {
    return pass.offset + index * pass.outer_stride;
}

template <class T>
NNSYM_INLINE std::int64_t whole_vectors(std::int64_t n) {
    return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// Whether vectors of a result can bypass the cache: all rows begin at a vector's boundary.
template <class T>
bool aligned(const Pass& pass, std::int64_t at, std::int64_t row_stride) {
    const std::int64_t address =
        std::int64_t(reinterpret_cast<std::uintptr_t>(pass.out)) + at * std::int64_t(sizeof(T));
    return ((address | row_stride * std::int64_t(sizeof(T)) | pass.out_stride) & (kVectorBytes - 1)) == 0;
}

// The matrix of destination block b for sample k; the identity's blocks have none.
template <class T>
NNSYM_INLINE const T* matrix_of(const Pass& pass, std::int64_t k, std::int64_t b) {
    const std::int64_t m = pass.size, heads = pass.blocks / pass.copies;
    return static_cast<const T*>(pass.matrix) + (k * heads + b / pass.copies) * m * m;
}
NNSYM_INLINE std::int64_t source_block(const Pass& pass, std::int64_t k, std::int64_t b) {
    return pass.order ? pass.order[k * pass.blocks + b] : b;
}

// One source block, columns [x, x_end), to its place in every sample.
template <class T>
void apply_block(const Pass& pass, const Piece& piece, std::int64_t begin, std::int64_t end, bool streaming,
                 void* scratch) {
    const std::int64_t m = pass.size, width = piece.x_end - piece.x, padded = whole_vectors<T>(width);
    const std::int64_t base = outer_offset(pass, piece.outer_begin) + piece.x;
    const bool direct_in = pass.source_type == kTypeOf<T>, direct_out = pass.out_type == kTypeOf<T>;
    T* const block = static_cast<T*>(scratch);
    T* const result = block + m * padded;
    const bool past_cache = streaming && direct_out && aligned<T>(pass, base, pass.axis_stride) &&
                            m * pass.axis_stride * std::int64_t(sizeof(T)) % kVectorBytes == 0;
    for (std::int64_t k = begin; k < end; ++k) {
        std::int64_t b = piece.block;
        if (pass.order)
            for (b = 0; b < pass.blocks && source_block(pass, k, b) != piece.block;) ++b;
        if (b == pass.blocks) continue;  // not a permutation: refused before
        const char* source = pass.source + k * pass.source_stride;
        const T* in = nullptr;
        std::int64_t stride = pass.axis_stride;
        if (direct_in) {
            in = reinterpret_cast<const T*>(source) + base + piece.block * m * stride;
        } else {
            if (k == begin || pass.source_stride)
                for (std::int64_t j = 0; j < m; ++j)
                    widen<T>(block + j * padded,
                             element(source, pass.source_type, base + (piece.block * m + j) * pass.axis_stride),
                             pass.source_type, width);
            in = block, stride = padded;
        }
        char* const out = pass.out + k * pass.out_stride;
        auto place = [&](std::int64_t i) {
            return const_cast<char*>(element(out, pass.out_type, base + (b * m + i) * pass.axis_stride));
        };
        if (!pass.matrix) {
            for (std::int64_t i = 0; i < m; ++i) narrow<T>(place(i), in + i * stride, pass.out_type, width);
            continue;
        }
        const T* a = matrix_of<T>(pass, k, b);
        const View<const T> left = pass.dual ? View<const T>{a, 1, m} : View<const T>{a, m, 1};
        const View<T> to =
            direct_out ? View<T>{reinterpret_cast<T*>(place(0)), pass.axis_stride, 1} : View<T>{result, padded, 1};
        multiply<T>(left, {in, stride, 1}, m, to, m, width, past_cache);
        if (!direct_out)
            for (std::int64_t i = 0; i < m; ++i) narrow<T>(place(i), result + i * padded, pass.out_type, width);
    }
}

// Room for the transpose of one matrix, which the row-wise kind needs unless the leg is dual.
template <class T>
NNSYM_INLINE std::int64_t transposed_numbers(const Pass& pass) {
    return pass.matrix && !pass.dual ? pass.size * whole_vectors<T>(pass.size) : 0;
}

// Whole rows, all blocks, to their places in every sample.
template <class T>
void apply_rows(const Pass& pass, const Piece& piece, std::int64_t begin, std::int64_t end, bool streaming,
                void* scratch) {
    const std::int64_t m = pass.size, rows = piece.outer_end - piece.outer_begin, length = pass.blocks * m;
    const std::int64_t padded = whole_vectors<T>(m);
    const bool direct_in = pass.source_type == kTypeOf<T>;
    const bool direct_out = pass.out_type == kTypeOf<T> && !pass.shift;
    T* const matrix = static_cast<T*>(scratch);
    T* const strip = matrix + transposed_numbers<T>(pass);
    T* const result = strip + dense::rows_at_once(pass) * length;
    bool past_cache = streaming && direct_out && m % kLanes<T> == 0;
    for (std::int64_t r = 0; r < rows; ++r)
        past_cache = past_cache && aligned<T>(pass, outer_offset(pass, piece.outer_begin + r), 0);
    for (std::int64_t k = begin; k < end; ++k) {
        const char* source = pass.source + k * pass.source_stride;
        char* const out = pass.out + k * pass.out_stride;
        if (!direct_in && (k == begin || pass.source_stride))
            for (std::int64_t r = 0; r < rows; ++r)
                widen<T>(strip + r * length,
                         element(source, pass.source_type, outer_offset(pass, piece.outer_begin + r)), pass.source_type,
                         length);
        auto in = [&](std::int64_t r) {
            return direct_in ? reinterpret_cast<const T*>(source) + outer_offset(pass, piece.outer_begin + r)
                             : strip + r * length;
        };
        auto place = [&](std::int64_t r) {
            return const_cast<char*>(element(out, pass.out_type, outer_offset(pass, piece.outer_begin + r)));
        };
        auto to = [&](std::int64_t r) { return direct_out ? reinterpret_cast<T*>(place(r)) : result + r * length; };
        for (std::int64_t b = 0; b < pass.blocks; ++b) {
            const std::int64_t from = source_block(pass, k, b) * m;
            if (!pass.matrix) {
                for (std::int64_t r = 0; r < rows; ++r)
                    std::memcpy(to(r) + b * m, in(r) + from, std::size_t(m) * sizeof(T));
                continue;
            }
            const T* a = matrix_of<T>(pass, k, b);
            std::int64_t stride = m;
            // Row j of the right factor: what unit j of the source gives to every unit.
            if (!pass.dual) {
                transposed<T>(matrix, padded, a, m, m);
                a = matrix, stride = padded;
            }
            const View<const T> left{in(0) + from, direct_in ? pass.outer_stride : length, 1};
            const View<T> right{to(0) + b * m, direct_out ? pass.outer_stride : length, 1};
            multiply<T>(left, {a, stride, 1}, m, right, rows, m, past_cache);
        }
        if (direct_out) continue;
        const T* shift = pass.shift ? static_cast<const T*>(pass.shift) + k * length : nullptr;
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t i = 0; shift && i < length; ++i) result[r * length + i] += shift[i];
            narrow<T>(place(r), result + r * length, pass.out_type, length);
        }
    }
}

template <class T>
void apply_pass(const Pass& pass, const Piece& piece, std::int64_t begin, std::int64_t end, bool streaming,
                void* scratch) {
    if (dense::row_wise(pass))
        apply_rows<T>(pass, piece, begin, end, streaming, scratch);
    else
        apply_block<T>(pass, piece, begin, end, streaming, scratch);
}

template <class T>
std::int64_t apply_scratch(const Pass& pass) {
    const std::int64_t m = pass.size;
    const std::int64_t width = pass.inner < dense::kColumns ? pass.inner : dense::kColumns;
    const std::int64_t numbers = dense::row_wise(pass)
                                     ? transposed_numbers<T>(pass) + 2 * dense::rows_at_once(pass) * pass.blocks * m
                                     : 2 * m * whole_vectors<T>(width);
    return (numbers + 2 * kLanes<T>)*std::int64_t(sizeof(T));
}

}  // namespace
