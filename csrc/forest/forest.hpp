// The forest: every question and everything sampled under it, as columns.
//
// A node is one sampled output. Its id is its append position and never changes; a parent's id is
// smaller than its children's. An expansion reserves all siblings as one contiguous block, which
// makes the children of a node a range even when they finish out of order:
//
//     id              0      1      2      3      4      5      6      7
//     level           0      0      1      1      1      1      1      2
//     parent          -      -      0      0      0      1      1      3
//     first_child     2      5      -      7      -      -      -      -
//     n_children      3      2      0      1      0      0      0      0
//                     questions     '-- of 0 --'  '- of 1 -'  of 3
//
// Tokens lie in one arena, the forest's own in order of completion or a lent one (a file in
// memory); a node has only its own segment of it. Costs 26 bytes per node, and 4 bytes per token of
// its own.
//
// Threads: every caller, of nodes() too, holds Forest::mutex; the bindings do so around every call.
// Spans stay valid while the forest grows. Without the mutex a thread may read only what is never
// written again: parent and level, and the tokens and finish of nodes that were done when the spans
// were taken.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <tuple>
#include <vector>

#include "forest/column.hpp"

namespace malt {

using NodeId = std::uint32_t;
inline constexpr NodeId kNoNode = std::numeric_limits<NodeId>::max();

using Level = std::uint8_t;  // 0 = question, k = output of the k-th role
enum class State : std::uint8_t { kReserved, kDone, kFailed };
enum class Finish : std::uint8_t { kStop, kLength };
inline constexpr std::uint8_t kUngraded = 255;  // else an outcome is 0 or 1
static_assert(sizeof(State) == 1 && sizeof(Finish) == 1);

// The columns at one moment: what readers of a forest work on.
struct Nodes {
    std::span<const NodeId> parent;       // kNoNode for a question
    std::span<const NodeId> first_child;  // kNoNode without children
    std::span<const std::uint16_t> n_children;
    std::span<const Level> level;
    std::span<const State> state;
    std::span<const Finish> finish;
    std::span<const std::uint8_t> outcome;       // of a leaf: 0, 1 or kUngraded
    std::span<const std::uint64_t> token_begin;  // into tokens
    std::span<const std::uint32_t> token_len;
    std::span<const std::int32_t> tokens;

    [[nodiscard]] std::size_t size() const { return parent.size(); }
    [[nodiscard]] std::span<const std::int32_t> tokens_of(NodeId id) const {
        return tokens.subspan(token_begin[id], token_len[id]);
    }
};

class Forest {
  public:
    // Each of these checks all of its input first: an exception (std::invalid_argument,
    // std::length_error) leaves the forest as it was.
    NodeId add_questions(std::size_t n);
    // Appends n whole trees of one shape: a question and, for each entry of parents, a reserved
    // node under that entry's node (-1: the question). Parents come before their children, siblings
    // stand together. Tree t is nodes first + t * (1 + parents.size()) and following, question
    // first.
    NodeId add_trees(std::size_t n, std::span<const std::int32_t> parents);
    // Reserves counts[i] children under parents[i], in this order; writes the blocks' first ids.
    void reserve(std::span<const NodeId> parents, std::span<const std::uint16_t> counts,
                 std::span<NodeId> first);
    // Node ids[i] gets tokens[offsets[i], offsets[i + 1]).
    void complete(std::span<const NodeId> ids, std::span<const std::int32_t> tokens,
                  std::span<const std::int64_t> offsets, std::span<const std::uint8_t> finish);
    // Node ids[i] gets arena[begin[i], begin[i] + length[i]), which is not copied: `owner` keeps
    // it. Only a forest without tokens takes an arena, and then no other tokens.
    void lend(std::span<const std::int32_t> arena, std::shared_ptr<const void> owner,
              std::span<const NodeId> ids, std::span<const std::uint64_t> begin,
              std::span<const std::uint32_t> length, std::span<const std::uint8_t> finish);
    void fail(std::span<const NodeId> ids);
    void set_outcomes(std::span<const NodeId> ids, std::span<const std::uint8_t> outcomes);

    [[nodiscard]] std::size_t size() const { return parent_.size(); }
    // Nodes of each tree, its question included; 0 unless add_trees made all of them alike.
    [[nodiscard]] std::size_t tree_size() const { return alike_ ? tree_size_ : 0; }
    [[nodiscard]] std::size_t nbytes() const;
    [[nodiscard]] Nodes nodes() const;

    std::mutex mutex;

  private:
    auto node_columns() {
        return std::tie(parent_, first_child_, n_children_, level_, state_, finish_, outcome_,
                        token_begin_, token_len_);
    }
    void append_nodes(std::size_t n, State state);
    void make_room(std::size_t n);
    void leave_reserved(std::span<const NodeId> ids, State state);

    static constexpr std::size_t kMaxNodes = kNoNode;
    static constexpr std::size_t kMaxTokens = std::size_t{1} << 36;

    Column<NodeId> parent_{kMaxNodes};
    Column<NodeId> first_child_{kMaxNodes};
    Column<std::uint16_t> n_children_{kMaxNodes};
    Column<Level> level_{kMaxNodes};
    Column<State> state_{kMaxNodes};
    Column<Finish> finish_{kMaxNodes};
    Column<std::uint8_t> outcome_{kMaxNodes};
    Column<std::uint64_t> token_begin_{kMaxNodes};
    Column<std::uint32_t> token_len_{kMaxNodes};
    Column<std::int32_t> tokens_{kMaxTokens};
    std::span<const std::int32_t> lent_;
    std::shared_ptr<const void> owner_;
    std::size_t tree_size_ = 0;
    bool alike_ = true;
};

// The question each node belongs to: root[v] for every node v.
void find_roots(const Nodes& nodes, std::span<NodeId> root);

}  // namespace malt
