// Tiles are made in registers, where lines or their elements lie beside each other.
#include "kernels/bf16_panels.hpp"

#ifdef MALT_X86
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#define MALT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

namespace malt {
namespace {

using Row [[gnu::vector_size(64)]] = std::uint32_t;

// Each of four rounds interleaves the rows of the upper half with those of the lower half, which
// moves the highest bit of a number's row to the lowest of its column, and that of its column on.
MALT_AVX512 inline void transpose(Row (&rows)[kTile]) {
#pragma GCC unroll 4
    for (int round = 0; round < 4; ++round) {
        Row next[kTile];
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kTile / 2; ++i) {
            const Row a = rows[i], b = rows[i + kTile / 2];
            next[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6,
                                                  22, 7, 23);
            next[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28,
                                                      13, 29, 14, 30, 15, 31);
        }
#pragma GCC unroll 16
        for (std::size_t i = 0; i < kTile; ++i) rows[i] = next[i];
    }
}

// The first `count` of 32 elements that follow each other, the rest zero.
MALT_AVX512 inline Row load(const std::uint16_t* from, std::size_t count) {
    const auto given = static_cast<__mmask32>((std::uint64_t{1} << count) - 1);
    return reinterpret_cast<Row>(_mm512_maskz_loadu_epi16(given, from));
}

// The first `count` of 16 as 32-bit numbers.
MALT_AVX512 inline Row load_wide(const std::uint16_t* from, std::size_t count) {
    using Halves [[gnu::vector_size(32)]] = std::uint16_t;
    const auto given = static_cast<__mmask16>((1U << count) - 1);
    return __builtin_convertvector(reinterpret_cast<Halves>(_mm256_maskz_loadu_epi16(given, from)),
                                   Row);
}

inline const std::uint16_t* at(const Lines& from, std::size_t line, std::size_t element) {
    return from.values + static_cast<std::ptrdiff_t>(line) * from.step +
           static_cast<std::ptrdiff_t>(element) * from.along;
}

// A tile: `lines` lines from `line` on, their `length` elements from `begin` on, the rest zero.
MALT_AVX512 void pack_tile(const Lines& from, std::size_t line, std::size_t lines,
                           std::size_t begin, std::size_t length, Pairs* to) {
    Row rows[kTile] = {};
    for (std::size_t i = 0; i < kTile; ++i) {
        if (from.along == 1) {
            if (i < lines) rows[i] = load(at(from, line + i, begin), length);
        } else {
            const std::uint16_t* low = at(from, line, begin + 2 * i);
            if (2 * i < length) rows[i] = load_wide(low, lines);
            if (2 * i + 1 < length) rows[i] |= load_wide(low + from.along, lines) << 16;
        }
    }
    if ((from.along == 1) == from.by_pairs) transpose(rows);
    std::memcpy(to, rows, sizeof(rows));
}

// The same where neither lines nor their elements lie beside each other.
void gather_tile(const Lines& from, std::size_t line, std::size_t lines, std::size_t begin,
                 std::size_t length, Pairs* to) {
    const auto element = [&](std::size_t i, std::size_t k) {
        return i < lines && k < length ? std::uint32_t{*at(from, line + i, begin + k)} : 0U;
    };
    for (std::size_t i = 0; i < kTile; ++i)
        for (std::size_t p = 0; p < kTile; ++p)
            to[from.by_pairs ? p : i].of[from.by_pairs ? i : p] =
                element(i, 2 * p) | element(i, 2 * p + 1) << 16;
}

}  // namespace

void pack_panel(const Lines& from, std::size_t panel, Pairs* to) {
    const auto pack = from.along == 1 || from.step == 1 ? &pack_tile : &gather_tile;
    for (std::size_t begin = 0; begin < from.length; begin += kDepth)
        for (std::size_t line = panel * kSide; line < (panel + 1) * kSide; line += kTile) {
            const std::size_t lines = std::min(kTile, from.count - std::min(from.count, line));
            pack(from, line, lines, begin, std::min(kDepth, from.length - begin), to);
            to += kTile;
        }
}

}  // namespace malt

#endif
