#include "forest/twins.hpp"

#include <algorithm>
#include <functional>
#include <numeric>
#include <string_view>
#include <unordered_set>

namespace malt {

Twins find_twins(const Nodes& nodes, const Credit& credit, Level level) {
    Twins twins{std::vector<NodeId>(nodes.size(), kNoNode),
                std::vector<NodeId>(nodes.size(), kNoNode)};
    std::vector<NodeId> last(nodes.size(), kNoNode);  // of the twins that a first one leads
    std::vector<NodeId> above, here;                  // the nodes of a level by their paths
    const auto hash = [&](NodeId v) {
        const auto bytes = std::as_bytes(nodes.tokens_of(v));
        const std::string_view text{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
        return std::hash<std::string_view>{}(text) * 31 + twins.first[nodes.parent[v]];
    };
    const auto same = [&](NodeId a, NodeId b) {
        return twins.first[nodes.parent[a]] == twins.first[nodes.parent[b]] &&
               std::ranges::equal(nodes.tokens_of(a), nodes.tokens_of(b));
    };
    for (NodeId v = 0; v < nodes.size(); ++v) {
        if (nodes.parent[v] != kNoNode) continue;
        twins.first[v] = v;
        above.push_back(v);
    }
    for (Level l = 1; l <= level; ++l) {
        here.clear();
        std::unordered_set<NodeId, decltype(hash), decltype(same)> known(above.size(), hash, same);
        for (const NodeId parent : above) {
            for (NodeId v = nodes.first_child[parent], i = 0; i < nodes.n_children[parent];
                 ++v, ++i) {
                if (l == level && !credit.exact[v].exists()) continue;
                here.push_back(v);
                const NodeId first = *known.insert(v).first;
                twins.first[v] = first;
                if (first != v) twins.next[last[first]] = v;
                last[first] = v;
            }
        }
        std::swap(above, here);
        if (l == std::numeric_limits<Level>::max()) break;
    }
    return twins;
}

}  // namespace malt
