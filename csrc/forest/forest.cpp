// Growing a forest: each public function validates a whole batch, then writes it.
#include "forest/forest.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

namespace malt {
namespace {

void require(bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
}

[[noreturn]] void fail_at(NodeId id, const char* what) {
    throw std::invalid_argument("node " + std::to_string(id) + " " + what);
}

void check_offsets(std::span<const std::int64_t> offsets, std::size_t n, std::size_t n_tokens) {
    require(offsets.size() == n + 1, "offsets needs one entry more than ids");
    require(offsets.front() == 0 && std::cmp_equal(offsets.back(), n_tokens),
            "offsets must start at 0 and end at the number of tokens");
    constexpr std::int64_t kLongest = std::numeric_limits<std::uint32_t>::max();
    for (std::size_t i = 0; i < n; ++i) {
        const std::int64_t length = offsets[i + 1] - offsets[i];
        require(length >= 0 && length <= kLongest, "offsets must not decrease");
    }
}

void check_finish(std::span<const std::uint8_t> finish) {
    require(std::ranges::all_of(finish, [](auto f) { return f <= 1; }),
            "finish must be FINISH_STOP or FINISH_LENGTH");
}

// One tree of Forest::add_trees, ids relative to its question.
struct Shape {
    std::vector<Level> level;
    std::vector<NodeId> first_child;
    std::vector<std::uint16_t> n_children;

    explicit Shape(std::span<const std::int32_t> parents)
        : level(parents.size() + 1),
          first_child(parents.size() + 1, kNoNode),
          n_children(parents.size() + 1) {
        for (std::size_t i = 0; i < parents.size(); ++i) {
            require(parents[i] >= -1 && std::cmp_less(parents[i], i),
                    "a parent must be -1 or an earlier entry");
            add(static_cast<std::size_t>(parents[i] + 1), i + 1);
        }
    }

  private:
    void add(std::size_t parent, std::size_t node) {
        require(n_children[parent] < std::numeric_limits<std::uint16_t>::max(),
                "a node has too many children");
        require(level[parent] < std::numeric_limits<Level>::max(), "the tree is too deep");
        if (n_children[parent] == 0) first_child[parent] = static_cast<NodeId>(node);
        require(first_child[parent] + n_children[parent] == node, "siblings must stand together");
        ++n_children[parent];
        level[node] = static_cast<Level>(level[parent] + 1);
    }
};

}  // namespace

NodeId Forest::add_questions(std::size_t n) {
    make_room(n);
    const auto first = static_cast<NodeId>(size());
    alike_ = alike_ && n == 0;
    append_nodes(n, State::kDone);
    return first;
}

NodeId Forest::add_trees(std::size_t n, std::span<const std::int32_t> parents) {
    const Shape shape(parents);
    const std::size_t stride = parents.size() + 1;
    if (n > kMaxNodes / stride) throw std::length_error("a forest holds at most 2**32 - 1 nodes");
    make_room(n * stride);
    const auto first = static_cast<NodeId>(size());
    alike_ = alike_ && (first == 0 || tree_size_ == stride);
    tree_size_ = stride;
    for (std::size_t t = 0; t < n; ++t) {
        const auto root = static_cast<NodeId>(size());
        append_nodes(1, State::kDone);
        append_nodes(parents.size(), State::kReserved);
        for (std::size_t i = 0; i < stride; ++i) {
            const std::size_t v = root + i;
            if (i > 0) parent_[v] = root + static_cast<NodeId>(parents[i - 1] + 1);
            level_[v] = shape.level[i];
            n_children_[v] = shape.n_children[i];
            if (shape.n_children[i] > 0) first_child_[v] = root + shape.first_child[i];
        }
    }
    return first;
}

void Forest::reserve(std::span<const NodeId> parents, std::span<const std::uint16_t> counts,
                     std::span<NodeId> first) {
    require(parents.size() == counts.size(), "parents and counts differ in length");
    std::size_t total = 0;
    for (const std::uint16_t count : counts) {
        require(count > 0, "counts must be at least 1");
        total += count;
    }
    make_room(total);

    // Writing n_children while checking finds a parent that is named twice.
    std::size_t checked = 0;
    try {
        for (; checked < parents.size(); ++checked) {
            const NodeId p = parents[checked];
            if (p >= size()) fail_at(p, "does not exist");
            if (state_[p] != State::kDone) fail_at(p, "is not done: it cannot have children yet");
            if (n_children_[p] != 0) fail_at(p, "already has children");
            if (outcome_[p] != kUngraded) fail_at(p, "is graded: it cannot have children");
            if (level_[p] == std::numeric_limits<Level>::max()) fail_at(p, "is too deep");
            n_children_[p] = counts[checked];
        }
    } catch (...) {
        while (checked > 0) n_children_[parents[--checked]] = 0;
        throw;
    }
    auto next = static_cast<NodeId>(size());
    append_nodes(total, State::kReserved);
    for (std::size_t i = 0; i < parents.size(); ++i) {
        const NodeId p = parents[i];
        const auto level = static_cast<Level>(level_[p] + 1);
        first[i] = first_child_[p] = next;
        for (const NodeId end = next + counts[i]; next < end; ++next) {
            parent_[next] = p;
            level_[next] = level;
        }
    }
}

void Forest::complete(std::span<const NodeId> ids, std::span<const std::int32_t> tokens,
                      std::span<const std::int64_t> offsets, std::span<const std::uint8_t> finish) {
    require(finish.size() == ids.size(), "ids and finish differ in length");
    require(!owner_, "the forest's tokens are lent: it takes no others");
    check_finish(finish);
    check_offsets(offsets, ids.size(), tokens.size());
    tokens_.ensure(tokens.size());
    leave_reserved(ids, State::kDone);

    const std::size_t begin = tokens_.size();
    tokens_.append(tokens);
    for (std::size_t i = 0; i < ids.size(); ++i) {
        token_begin_[ids[i]] = begin + static_cast<std::uint64_t>(offsets[i]);
        token_len_[ids[i]] = static_cast<std::uint32_t>(offsets[i + 1] - offsets[i]);
        finish_[ids[i]] = static_cast<Finish>(finish[i]);
    }
}

void Forest::lend(std::span<const std::int32_t> arena, std::shared_ptr<const void> owner,
                  std::span<const NodeId> ids, std::span<const std::uint64_t> begin,
                  std::span<const std::uint32_t> length, std::span<const std::uint8_t> finish) {
    const std::size_t n = ids.size();
    require(begin.size() == n && length.size() == n && finish.size() == n,
            "ids, begin, length and finish differ in length");
    require(tokens_.size() == 0 && !owner_, "the forest has tokens already");
    check_finish(finish);
    for (std::size_t i = 0; i < n; ++i)
        require(begin[i] <= arena.size() && length[i] <= arena.size() - begin[i],
                "tokens lie outside the arena");
    leave_reserved(ids, State::kDone);
    lent_ = arena;
    owner_ = std::move(owner);
    for (std::size_t i = 0; i < n; ++i) {
        token_begin_[ids[i]] = begin[i];
        token_len_[ids[i]] = length[i];
        finish_[ids[i]] = static_cast<Finish>(finish[i]);
    }
}

void Forest::fail(std::span<const NodeId> ids) {
    leave_reserved(ids, State::kFailed);
}

void Forest::set_outcomes(std::span<const NodeId> ids, std::span<const std::uint8_t> outcomes) {
    require(ids.size() == outcomes.size(), "ids and outcomes differ in length");
    require(std::ranges::all_of(outcomes, [](auto o) { return o <= 1; }),
            "outcomes must be 0 or 1");
    for (const NodeId id : ids) {
        if (id >= size()) fail_at(id, "does not exist");
        if (state_[id] != State::kDone) fail_at(id, "is not done: it cannot be graded");
        if (n_children_[id] != 0) fail_at(id, "has children: only leaves are graded");
        if (level_[id] == 0) fail_at(id, "is a question: only outputs are graded");
    }
    for (std::size_t i = 0; i < ids.size(); ++i) outcome_[ids[i]] = outcomes[i];
}

std::size_t Forest::nbytes() const {
    return parent_.nbytes() + first_child_.nbytes() + n_children_.nbytes() + level_.nbytes() +
           state_.nbytes() + finish_.nbytes() + outcome_.nbytes() + token_begin_.nbytes() +
           token_len_.nbytes() + tokens_.nbytes();
}

Nodes Forest::nodes() const {
    return {.parent = parent_.view(),
            .first_child = first_child_.view(),
            .n_children = n_children_.view(),
            .level = level_.view(),
            .state = state_.view(),
            .finish = finish_.view(),
            .outcome = outcome_.view(),
            .token_begin = token_begin_.view(),
            .token_len = token_len_.view(),
            .tokens = owner_ ? lent_ : tokens_.view()};
}

// Appends questions; reserve() makes children of them.
void Forest::append_nodes(std::size_t n, State state) {
    std::ranges::fill(parent_.extend(n), kNoNode);
    std::ranges::fill(first_child_.extend(n), kNoNode);
    std::ranges::fill(state_.extend(n), state);
    std::ranges::fill(outcome_.extend(n), kUngraded);
    n_children_.extend(n);  // the rest stays zero
    level_.extend(n);
    finish_.extend(n);
    token_begin_.extend(n);
    token_len_.extend(n);
}

// Afterwards nothing can fail while writing.
void Forest::make_room(std::size_t n) {
    if (n > kMaxNodes - size()) throw std::length_error("a forest holds at most 2**32 - 1 nodes");
    std::apply([n](auto&... column) { (column.ensure(n), ...); }, node_columns());
}

// Moves every node of ids from reserved to `state`, or none of them.
void Forest::leave_reserved(std::span<const NodeId> ids, State state) {
    std::size_t checked = 0;
    try {
        for (; checked < ids.size(); ++checked) {
            const NodeId id = ids[checked];
            if (id >= size()) fail_at(id, "does not exist");
            if (state_[id] != State::kReserved) fail_at(id, "is not waiting for an output");
            state_[id] = state;
        }
    } catch (...) {
        while (checked > 0) state_[ids[--checked]] = State::kReserved;
        throw;
    }
}

void find_roots(const Nodes& nodes, std::span<NodeId> root) {
    for (NodeId v = 0; v < nodes.size(); ++v) {
        root[v] = nodes.parent[v] == kNoNode ? v : root[nodes.parent[v]];
    }
}

}  // namespace malt
