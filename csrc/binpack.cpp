#include "binpack.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace malt {
namespace {

constexpr std::int64_t kCountingSort = std::int64_t{1} << 22;  // beyond, counters cost more

// A set of integers 0..n-1 as bits, and bits saying which words have any, and so on up.
class BitSet {
  public:
    explicit BitSet(std::size_t n) {
        do {
            n = (n + 63) / 64;
            levels_.emplace_back(n, 0);
        } while (n > 1);
    }
    void insert(std::size_t i) {
        for (auto& words : levels_) {
            words[i / 64] |= std::uint64_t{1} << i % 64;
            i /= 64;
        }
    }
    void erase(std::size_t i) {
        for (auto& words : levels_) {
            words[i / 64] &= ~(std::uint64_t{1} << i % 64);
            if (words[i / 64] != 0) return;
            i /= 64;
        }
    }
    // The least member >= i, or -1.
    [[nodiscard]] std::int64_t next(std::size_t i) const {
        for (std::size_t level = 0; level < levels_.size(); ++level, i = i / 64 + 1) {
            if (i / 64 >= levels_[level].size()) return -1;
            const std::uint64_t word = levels_[level][i / 64] >> i % 64;
            if (word == 0) continue;
            i += static_cast<std::size_t>(std::countr_zero(word));
            while (level-- > 0)
                i = i * 64 + static_cast<std::size_t>(std::countr_zero(levels_[level][i]));
            return static_cast<std::int64_t>(i);
        }
        return -1;
    }

  private:
    std::vector<std::vector<std::uint64_t>> levels_;
};

// Indices of sizes in decreasing order, equal ones ascending.
std::vector<std::int32_t> decreasing(std::span<const std::int64_t> sizes, std::int64_t capacity) {
    std::vector<std::int32_t> order(sizes.size());
    if (capacity > kCountingSort) {
        std::iota(order.begin(), order.end(), 0);
        std::ranges::stable_sort(order, std::greater{}, [&](std::int32_t i) {
            return sizes[static_cast<std::size_t>(i)];
        });
        return order;
    }
    std::vector<std::uint32_t> place(static_cast<std::size_t>(capacity) + 2, 0);
    for (const std::int64_t size : sizes) ++place[static_cast<std::size_t>(capacity - size) + 1];
    std::partial_sum(place.begin(), place.end(), place.begin());
    for (std::size_t i = 0; i < sizes.size(); ++i)
        order[place[static_cast<std::size_t>(capacity - sizes[i])]++] =
            static_cast<std::int32_t>(i);
    return order;
}

}  // namespace

std::int32_t best_fit_decreasing(std::span<const std::int64_t> sizes, std::int64_t capacity,
                                 std::span<std::int32_t> bin) {
    if (bin.size() != sizes.size()) throw std::invalid_argument("bin must be as long as sizes");
    for (const std::int64_t size : sizes)
        if (size < 0 || size > capacity)
            throw std::invalid_argument("size " + std::to_string(size) + " does not fit 0.." +
                                        std::to_string(capacity));
    if (sizes.empty()) return 0;
    const auto rooms = static_cast<std::size_t>(capacity) + 1;
    BitSet open(rooms);                        // rooms that some bin has left
    std::vector<std::int32_t> top(rooms, -1);  // a bin with this room left
    std::vector<std::int32_t> below;           // another one with as much, by bin
    for (const std::int32_t i : decreasing(sizes, capacity)) {
        const auto size = static_cast<std::size_t>(sizes[static_cast<std::size_t>(i)]);
        const std::int64_t found = open.next(size);
        auto room = static_cast<std::size_t>(found < 0 ? capacity : found);
        auto chosen = static_cast<std::int32_t>(below.size());
        if (found < 0) {
            below.push_back(-1);
        } else {
            chosen = top[room];
            top[room] = below[static_cast<std::size_t>(chosen)];
            if (top[room] < 0) open.erase(room);
        }
        room -= size;
        if (top[room] < 0) open.insert(room);
        below[static_cast<std::size_t>(chosen)] = top[room];
        top[room] = chosen;
        bin[static_cast<std::size_t>(i)] = chosen;
    }
    return static_cast<std::int32_t>(below.size());
}

}  // namespace malt
