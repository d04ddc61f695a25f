// SPDX-License-Identifier: MIT
// One row of a result: copied or gathered, multiplied, rounded to storage, and written past the cache where asked.
// Always (w * row) * column, so every path gives the same bits.
namespace {

using namespace nnsym::orbit;

NNSYM_INLINE std::int64_t to_boundary(const void* p, std::int64_t boundary) {
    return std::int64_t(-reinterpret_cast<std::uintptr_t>(p) & std::uintptr_t(boundary - 1));
}

void stream_copy(void* out, const void* in, std::int64_t bytes) {
    char* to = static_cast<char*>(out);
    const char* from = static_cast<const char*>(in);
    std::int64_t head = to_boundary(to, 64);
    if (head > bytes) head = bytes;
    std::memcpy(to, from, std::size_t(head));
    std::int64_t i = head;
    for (; i + 64 <= bytes; i += 64)
        for (int part = 0; part < 64; part += kVectorBytes) stream(to + i + part, load<I32>(from + i + part));
    std::memcpy(to + i, from + i, std::size_t(bytes - i));
}

void stream_fill(void* out, std::int64_t bytes, float value) {
    Vec<float>::F v = splat<Vec<float>::F>(value);
    char* to = static_cast<char*>(out);
    for (std::int64_t i = 0; i + kVectorBytes <= bytes; i += kVectorBytes) stream(to + i, v);
    stream_fence();
}

// A whole vector of storage, kWhole results, from value(j, lanes).
template <class S, class T>
constexpr int kWhole = kVectorBytes / int(sizeof(S));
template <class S, class T, class Value>
NNSYM_INLINE auto whole(std::int64_t j, Value value) {
    constexpr int L = kLanes<T>;
    if constexpr (kWhole<S, T> == L)
        return Convert<S, T>::round(value(j, L));
    else
        return join(Convert<S, T>::round(value(j, L)), Convert<S, T>::round(value(j + L, L)),
                    typename Iota<kWhole<S, T>>::type());
}

// out[0, width): the row's vectors one after another; unit(j) gives whole ones. With streaming, a first part reaches an
// aligned address. Vectors that would pass the end are stored in part, after reading at most kPad elements of padding
// (never past the end of the source).
template <class S, class T, class Unit, class Value>
NNSYM_INLINE void write_row(S* out, std::int64_t width, bool streaming, Unit unit, Value value) {
    constexpr int L = kLanes<T>, W = kWhole<S, T>;
    auto parts = [&](std::int64_t from, std::int64_t end) {
        for (; from < end; from += L) {
            const std::int64_t count = end - from < L ? end - from : L;
            auto v = Convert<S, T>::round(value(from, count));
            std::memcpy(out + from, &v, std::size_t(count) * sizeof(S));
        }
    };
    std::int64_t j = 0;
    if (streaming) {
        j = to_boundary(out, kVectorBytes) / std::int64_t(sizeof(S));
        if (j > width) j = width;
        parts(0, j);
        for (; j + W <= width; j += W) stream(out + j, unit(j));
    }
    for (; j + W <= width; j += W) store(out + j, unit(j));
    parts(j, width);
}

template <class S, class T>
void copy_row(S* out, const S* in, T row, const T* column, std::int64_t width, bool streaming) {
    typedef typename Vec<T>::F F;
    const F r = splat<F>(row);
    auto plain = [&](std::int64_t j, std::int64_t count) { return load_part<S, T>(in + j, count) * r; };
    auto scaled = [&](std::int64_t j, std::int64_t count) { return plain(j, count) * load<F>(column + j); };
    if (column)
        return write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, scaled); }, scaled);
    if constexpr (std::is_same_v<S, Bfloat16>) {
        // Even and odd elements apart, without a shuffle.
        auto unit = [&](std::int64_t j) {
            const U32 bits = load<U32>(in + j);
            return pair_columns<S>(reinterpret_cast<F>(bits << 16) * r, reinterpret_cast<F>(bits & 0xffff0000u) * r);
        };
        return write_row<S, T>(out, width, streaming, unit, plain);
    }
    write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, plain); }, plain);
}

template <class S, class T>
void gather_row(S* out, const T* in, const std::int32_t* index, T row, const T* column, std::int64_t width,
                bool streaming) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::I32 I;
    const F r = splat<F>(row);
    auto plain = [&](std::int64_t j, std::int64_t) { return gather(in, load<I>(index + j)) * r; };
    auto scaled = [&](std::int64_t j, std::int64_t count) { return plain(j, count) * load<F>(column + j); };
    if (column)
        write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, scaled); }, scaled);
    else
        write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, plain); }, plain);
}

// A row of at most two vectors, permuted in registers.
template <class S, class T>
void permute_row(S* out, const S* in, const std::int32_t* index, T row, const T* column, std::int64_t width,
                 bool streaming) {
    if constexpr (kPermutes) {
        typedef typename Vec<T>::F F;
        typedef typename Vec<T>::I32 I;
        constexpr int L = kLanes<T>;
        const F a = load_part<S, T>(in, width < L ? width : L);
        const F b = width > L ? load_part<S, T>(in + L, width - L) : F{};
        const F r = splat<F>(row);
        auto value = [&](std::int64_t j, std::int64_t) {
            const F v = permute(a, b, load<I>(index + j)) * r;
            return column ? v * load<F>(column + j) : v;
        };
        write_row<S, T>(out, width, streaming, [&](std::int64_t j) { return whole<S, T>(j, value); }, value);
    }
}

}  // namespace
