// Which blocks of keys each block of queries of a pack sees: the layout of FlexAttention.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace malt {

// For N tokens and n = ceil(N / block): block q of queries sees part of count[q] blocks of keys,
// index[q * n ...], and the whole of full_count[q] blocks, full_index[q * n ...]; both ascending.
struct BlockMap {
    std::vector<std::int32_t> count, index, full_count, full_index;
};

// end [N] as in tree_layout.hpp. Throws std::invalid_argument unless block is positive.
[[nodiscard]] BlockMap block_map(std::span<const std::int32_t> end, std::int64_t block);

}  // namespace malt
