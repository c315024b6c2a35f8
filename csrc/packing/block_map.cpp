// Two passes: the range of `end` in each block, then every pair of blocks.
#include "packing/block_map.hpp"

#include <algorithm>
#include <stdexcept>

namespace malt {

BlockMap block_map(std::span<const std::int32_t> end, std::int64_t block) {
    if (block <= 0) throw std::invalid_argument("block must be positive");
    const auto size = static_cast<std::size_t>(block);
    const std::size_t n = (end.size() + size - 1) / size;
    std::vector<std::int32_t> least(n), most(n);
    for (std::size_t b = 0; b < n; ++b) {
        const auto part = end.subspan(b * size, std::min(size, end.size() - b * size));
        const auto [low, high] = std::ranges::minmax(part);
        least[b] = low;
        most[b] = high;
    }
    BlockMap map{.count = std::vector<std::int32_t>(n),
                 .index = std::vector<std::int32_t>(n * n),
                 .full_count = std::vector<std::int32_t>(n),
                 .full_index = std::vector<std::int32_t>(n * n)};
    for (std::size_t q = 0; q < n; ++q) {
        const auto first = static_cast<std::int64_t>(q * size);
        const auto stop = static_cast<std::int64_t>(std::min((q + 1) * size, end.size()));
        for (std::size_t k = 0; k <= q; ++k) {
            if (k < q && most[k] <= first) continue;
            const bool full = k < q && least[k] >= stop;
            auto& count = full ? map.full_count : map.count;
            (full ? map.full_index : map.index)[q * n + static_cast<std::size_t>(count[q]++)] =
                static_cast<std::int32_t>(k);
        }
    }
    return map;
}

}  // namespace malt
