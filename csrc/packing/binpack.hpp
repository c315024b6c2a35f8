// Best fit decreasing: items into few bins of one capacity.
#pragma once

#include <cstdint>
#include <span>

namespace malt {

// Puts item i into bin[i] and returns the number of bins. In decreasing size, equal sizes in order,
// each item goes into the fullest bin that has room for it; of equally full bins, into the one that
// was filled last. O(n + capacity) if the capacity is at most a few millions and 128 n, otherwise
// O(n log n). Throws std::invalid_argument for a size outside 0..capacity.
std::int32_t best_fit_decreasing(std::span<const std::int64_t> sizes, std::int64_t capacity,
                                 std::span<std::int32_t> bin);

}  // namespace malt
