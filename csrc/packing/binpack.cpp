// Best-fit decreasing: the largest item first, each into the fullest bin that still holds it.
#include "packing/binpack.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace malt {
namespace {

// Whether an array entry for each possible size is worth its memory for n items.
bool dense(std::size_t n, std::int64_t capacity) {
    return capacity <= std::int64_t{1} << 23U && capacity / 128 <= static_cast<std::int64_t>(n);
}

// A set of integers 0..n-1 as bits; each further level marks the non-empty words of the one below.
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

// For each free room, 0..capacity, a bin that has it; -1 for none.
class DenseRooms {
  public:
    explicit DenseRooms(std::int64_t capacity)
        : open_(static_cast<std::size_t>(capacity) + 1),
          bin_(static_cast<std::size_t>(capacity) + 1, -1) {}

    // The least room >= size, or -1.
    [[nodiscard]] std::int64_t next(std::int64_t size) const {
        return open_.next(static_cast<std::size_t>(size));
    }
    [[nodiscard]] std::int32_t get(std::int64_t room) const {
        return bin_[static_cast<std::size_t>(room)];
    }
    void set(std::int64_t room, std::int32_t bin) {
        const auto i = static_cast<std::size_t>(room);
        if (bin < 0) open_.erase(i);
        if (bin_[i] < 0) open_.insert(i);
        bin_[i] = bin;
    }

  private:
    BitSet open_;
    std::vector<std::int32_t> bin_;
};

// The same for capacities much larger than the number of items.
class SparseRooms {
  public:
    [[nodiscard]] std::int64_t next(std::int64_t size) const {
        const auto found = bin_.lower_bound(size);
        return found == bin_.end() ? -1 : found->first;
    }
    [[nodiscard]] std::int32_t get(std::int64_t room) const {
        const auto found = bin_.find(room);
        return found == bin_.end() ? -1 : found->second;
    }
    void set(std::int64_t room, std::int32_t bin) {
        if (bin < 0)
            bin_.erase(room);
        else
            bin_.insert_or_assign(room, bin);
    }

  private:
    std::map<std::int64_t, std::int32_t> bin_;
};

// Calls visit(size, index) in decreasing size, equal ones in order. With many items the size comes
// from the counters: reading sizes[index] would wait for memory every time.
template <class Visit>
void for_each_decreasing(std::span<const std::int64_t> sizes, std::int64_t capacity, Visit visit) {
    std::vector<std::int32_t> order(sizes.size());
    if (!dense(sizes.size(), capacity)) {
        std::iota(order.begin(), order.end(), 0);
        const auto size = [&](std::int32_t i) { return sizes[static_cast<std::size_t>(i)]; };
        std::ranges::stable_sort(order, std::greater{}, size);
        for (const std::int32_t i : order) visit(size(i), i);
        return;
    }
    std::vector<std::uint32_t> end(static_cast<std::size_t>(capacity) + 2, 0);  // of each size
    for (const std::int64_t size : sizes) ++end[static_cast<std::size_t>(capacity - size) + 1];
    std::partial_sum(end.begin(), end.end(), end.begin());
    for (std::size_t i = 0; i < sizes.size(); ++i)
        order[end[static_cast<std::size_t>(capacity - sizes[i])]++] = static_cast<std::int32_t>(i);
    std::size_t next = 0;
    for (std::int64_t size = capacity; next < order.size(); --size)
        for (; next < end[static_cast<std::size_t>(capacity - size)]; ++next)
            visit(size, order[next]);
}

template <class Rooms>
std::int32_t fill(std::span<const std::int64_t> sizes, std::int64_t capacity, Rooms rooms,
                  std::span<std::int32_t> bin) {
    std::vector<std::int32_t> below;  // by bin: another bin with the same room
    for_each_decreasing(sizes, capacity, [&](std::int64_t size, std::int32_t i) {
        std::int64_t room = rooms.next(size);
        auto chosen = static_cast<std::int32_t>(below.size());
        if (room < 0) {
            room = capacity;
            below.push_back(-1);
        } else {
            chosen = rooms.get(room);
            rooms.set(room, below[static_cast<std::size_t>(chosen)]);
        }
        room -= size;
        below[static_cast<std::size_t>(chosen)] = rooms.get(room);
        rooms.set(room, chosen);
        bin[static_cast<std::size_t>(i)] = chosen;
    });
    return static_cast<std::int32_t>(below.size());
}

}  // namespace

std::int32_t best_fit_decreasing(std::span<const std::int64_t> sizes, std::int64_t capacity,
                                 std::span<std::int32_t> bin) {
    if (bin.size() != sizes.size()) throw std::invalid_argument("bin must be as long as sizes");
    if (sizes.size() > std::numeric_limits<std::int32_t>::max())
        throw std::invalid_argument("too many items for one call");
    for (const std::int64_t size : sizes)
        if (size < 0 || size > capacity)
            throw std::invalid_argument("size " + std::to_string(size) + " does not fit 0.." +
                                        std::to_string(capacity));
    if (dense(sizes.size(), capacity)) return fill(sizes, capacity, DenseRooms(capacity), bin);
    return fill(sizes, capacity, SparseRooms(), bin);
}

}  // namespace malt
