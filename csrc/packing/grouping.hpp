// Which sequences share a pack.
//
// Sequences that pairs connect stay together where they fit in a pack; otherwise their pairs are
// divided, and a sequence is repeated where pairs in two packs need it. A tree that is larger than
// a pack is cut into subtrees, whose common path is repeated. Packs are filled by best fit
// decreasing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "packing/trie.hpp"

namespace malt {

// What one pack holds, ascending.
struct PackMembers {
    std::vector<Index> sequences, pairs;
};

// order: the nodes of the trie in preorder; last [M]: the node that ends each sequence; pairs
// [2 L]: indices of sequences.
// Throws std::invalid_argument for a sequence, or a pair, that needs more than `capacity` tokens.
[[nodiscard]] std::vector<PackMembers> group_into_packs(const Trie& trie,
                                                        std::span<const Index> order,
                                                        std::span<const Index> last,
                                                        std::span<const std::int64_t> pairs,
                                                        std::int64_t capacity);

}  // namespace malt
