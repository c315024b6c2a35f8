// Some rows of cached_attention.hpp, compiled once per instruction set (cached_attention_rows.cpp).
#pragma once

#include <span>
#include <vector>

#include "kernels/cached_attention.hpp"

namespace malt {

// Memory that a thread reuses.
struct RowsScratch {
    std::vector<float> q, out, keys, weights, top, total, added, factor;
    std::vector<std::int32_t> first;
};

// The query heads of key head `group` in rows with the same lead and shared columns.
using RowsAttention = void (*)(const CachedAttention& attention, std::span<const std::int32_t> rows,
                               std::size_t group, RowsScratch& scratch);

namespace portable {
extern const RowsAttention kRowsAttention;
}
namespace avx2 {
extern const RowsAttention kRowsAttention;
}
namespace avx512 {
extern const RowsAttention kRowsAttention;
}

}  // namespace malt
