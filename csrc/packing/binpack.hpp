// Best fit decreasing: items into as few bins of one capacity as that simple rule reaches.
#pragma once

#include <cstdint>
#include <span>

namespace malt {

// Puts item i into bin[i] and returns the number of bins. Items go in decreasing size, equal ones
// in order, each into the fullest bin that has room for it; of equally full ones into the one that
// was filled last. O(n + capacity) where the capacity is a few millions at most and no more than
// 128 n, else O(n log n). Throws std::invalid_argument for a size outside 0..capacity.
std::int32_t best_fit_decreasing(std::span<const std::int64_t> sizes, std::int64_t capacity,
                                 std::span<std::int32_t> bin);

}  // namespace malt
