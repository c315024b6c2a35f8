// Twins: outputs with the same tokens all along their paths from the question, siblings and cousins
// alike. What hangs below twins has the same prompt.
//
// Found level by level with a hash set, whose equality compares tokens: O(nodes + tokens). "First"
// and "next" follow paths (question, child, child), not ids, so the order in which an engine
// answered does not matter.
#pragma once

#include <vector>

#include "forest/credit.hpp"
#include "forest/forest.hpp"

namespace malt {

struct Twins {
    std::vector<NodeId> first;  // [nodes]: the first twin of each node of the levels 0..level
    std::vector<NodeId> next;   // [nodes]: the twin after it; kNoNode for the last
};

// Twins down to `level`, of which only nodes with a value count.
[[nodiscard]] Twins find_twins(const Nodes& nodes, const Credit& credit, Level level);

}  // namespace malt
