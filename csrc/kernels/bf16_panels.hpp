// Panels of a bfloat16 matrix as tiles: 32 of its rows or columns, in the order in which products
// read them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace malt {

// One row of a tile: 16 pairs of bfloat16 that follow each other along the summed dimension.
struct alignas(64) Pairs {
    std::uint32_t of[16];
};

inline constexpr std::size_t kTile = 16;   // rows of a tile
inline constexpr std::size_t kSide = 32;   // lines of a panel
inline constexpr std::size_t kDepth = 32;  // elements of a line in a tile
inline constexpr std::size_t kChunk = 32;  // rows of the two tiles that hold kDepth of a panel

// Rows or columns of a matrix, `step` elements apart, their elements `along` apart.
struct Lines {
    const std::uint16_t* values;
    std::ptrdiff_t step, along;
    std::size_t count, length;
    bool by_pairs;  // a tile has one row per pair, not one per line

    [[nodiscard]] std::size_t panels() const { return (count + kSide - 1) / kSide; }
    [[nodiscard]] std::size_t chunks() const { return (length + kDepth - 1) / kDepth; }
};

// Writes chunks() * kChunk rows: per chunk the tile of lines 0 to 15 and that of lines 16 to 31 of
// the panel, zero beyond the end. Needs AVX-512.
void pack_panel(const Lines& from, std::size_t panel, Pairs* to);

}  // namespace malt
