// SPDX-License-Identifier: MIT
// Random numbers from counters: Philox words, and normals by Box-Muller.
namespace {

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011). Blocks l of a vector have counters (sample, site[l], draw[l]); word
// w of block b goes to planes[w * stride + b]. `blocks` is a multiple of the lanes.
NNSYM_INLINE void philox_rounds(U32& c0, U32& c1, U32& c2, U32& c3, std::uint32_t k0, std::uint32_t k1) {
    struct High {
        static constexpr int at(int l) { return l & 1 ? kLanes<float> + l : l + 1; }
    };
    struct Low {
        static constexpr int at(int l) { return l & 1 ? kLanes<float> + l - 1 : l; }
    };
    const U32 m0 = splat<U32>(0xD2511F53u), m1 = splat<U32>(0xCD9E8D57u);
    for (int round = 0; round < 10; ++round) {
        U32 even0 = reinterpret_cast<U32>(multiply_even(c0, m0));
        U32 odd0 = reinterpret_cast<U32>(multiply_even(reinterpret_cast<U32>(reinterpret_cast<U64>(c0) >> 32), m0));
        U32 even1 = reinterpret_cast<U32>(multiply_even(c2, m1));
        U32 odd1 = reinterpret_cast<U32>(multiply_even(reinterpret_cast<U32>(reinterpret_cast<U64>(c2) >> 32), m1));
        U32 high0 = shuffle<High>(even0, odd0), low0 = shuffle<Low>(even0, odd0);
        U32 high1 = shuffle<High>(even1, odd1), low1 = shuffle<Low>(even1, odd1);
        U32 n0 = high1 ^ c1 ^ k0, n2 = high0 ^ c3 ^ k1;
        c0 = n0, c1 = low1, c2 = n2, c3 = low0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

void philox(std::uint64_t seed, std::uint64_t sample, const std::uint32_t* site, const std::uint32_t* draw,
            std::uint32_t* planes, std::int64_t blocks) {
    const std::uint32_t k0 = std::uint32_t(seed), k1 = std::uint32_t(seed >> 32);
    for (std::int64_t b = 0; b < blocks; b += kLanes<float>) {
        U32 c0 = splat<U32>(std::uint32_t(sample)), c1 = splat<U32>(std::uint32_t(sample >> 32));
        U32 c2 = load<U32>(site + b), c3 = load<U32>(draw + b);
        philox_rounds(c0, c1, c2, c3, k0, k1);
        store(planes + b, c0);
        store(planes + blocks + b, c1);
        store(planes + 2 * blocks + b, c2);
        store(planes + 3 * blocks + b, c3);
    }
}

// Four vectors of standard normals from the four words of a vector of blocks, word w of block b at words[w * stride +
// b].
template <class T>
NNSYM_INLINE void box_muller(const std::uint32_t* words, std::int64_t stride, typename Vec<T>::F* normal) {
    typedef typename Vec<T>::F F;
    typedef typename Vec<T>::U32 U;
    for (int pair = 0; pair < 2; ++pair) {
        F s, c;
        F radius = square_root(-2 * Math<T>::log_uniform(load<U>(words + 2 * pair * stride)));
        Math<T>::sincos_turn(load<U>(words + (2 * pair + 1) * stride), s, c);
        normal[2 * pair] = radius * c;
        normal[2 * pair + 1] = radius * s;
    }
}

// Normals of blocks draw + number[b], b < blocks, of one site, to out[4 b + word]; number null: b itself. Writes whole
// vectors of blocks: up to 4 * kLanes<float> numbers past the end.
template <class T>
void normals(std::uint64_t seed, std::uint64_t sample, std::uint32_t site, std::uint32_t draw,
             const std::uint32_t* number, std::int64_t blocks, T* out) {
    constexpr int W = kLanes<float>;
    const std::uint32_t k0 = std::uint32_t(seed), k1 = std::uint32_t(seed >> 32);
    for (std::int64_t b = 0; b < blocks; b += W) {
        U32 c0 = splat<U32>(std::uint32_t(sample)), c1 = splat<U32>(std::uint32_t(sample >> 32));
        U32 c2 = splat<U32>(site);
        U32 c3 = (number ? load<U32>(number + b) : iota<U32>() + std::uint32_t(b)) + draw;
        philox_rounds(c0, c1, c2, c3, k0, k1);
        std::uint32_t words[4 * W];
        store(words, c0), store(words + W, c1), store(words + 2 * W, c2), store(words + 3 * W, c3);
        for (int part = 0; part < W; part += kLanes<T>) {
            typename Vec<T>::F normal[4];
            box_muller<T>(words + part, W, normal);
            store_interleaved(out + 4 * (b + part), normal[0], normal[1], normal[2], normal[3]);
        }
    }
}

}  // namespace
