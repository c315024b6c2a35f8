// Training data from credit: examples (positive nodes), labelled nodes, and pairs (a positive and a
// negative node with the same prompt).
//
// All work block by block on the valued siblings of one level. With `dedup`, the children of twins
// (twins.hpp) are one block, and those with the same tokens one candidate: the first by path stands
// for all, with the mean of their values and the label of that mean. A pair never joins two equal
// texts, with or without dedup.
// Random choices depend on the seed and on the nodes' paths (question, child, child),
// not on their ids, so the order in which an engine answered does not matter.
#pragma once

#include <cstdint>
#include <vector>

#include "forest/credit.hpp"
#include "forest/forest.hpp"

namespace malt {

enum class Source : std::uint8_t { kPaired, kAll };  // positives with a negative sibling, or all

enum class Policy : std::uint8_t {
    kAll,        // every positive with every negative
    kOne,        // one random pair per parent
    kBestWorst,  // the highest chosen value, then the lowest rejected one; the first of equals
};

struct PairRule {
    Policy policy = Policy::kAll;
    std::uint64_t seed = 0;
    std::size_t max_per_question = 0;  // 0: no limit; else a random subset
    Fraction min_margin{0, 1};         // least value(chosen) - value(rejected)
    bool dedup = false;
};

struct Pair {
    NodeId chosen;
    NodeId rejected;
};

struct Labelled {
    NodeId id;
    bool positive;
};

// Ids in ascending order.
[[nodiscard]] std::vector<NodeId> find_examples(const Nodes& nodes, const Credit& credit,
                                                Level level, Source source, bool dedup);
// Ids in ascending order.
[[nodiscard]] std::vector<Labelled> find_labelled(const Nodes& nodes, const Credit& credit,
                                                  Level level, bool dedup);
// Ordered by the paths of (chosen, rejected) within a block, blocks in ascending order (of the
// first parents with dedup).
[[nodiscard]] std::vector<Pair> find_pairs(const Nodes& nodes, const Credit& credit, Level level,
                                           const PairRule& rule);

}  // namespace malt
