// Sets of real numbers: intervals, inequalities, finite sets and their combinations.
#pragma once

#include <optional>
#include <vector>

#include "answers/values.hpp"

namespace malt {

// Can the node be the unknown of a relation: x, f(x), |AB|, (p,q), NO/BO?
[[nodiscard]] bool is_head(const Expression& in, Node node);

// The unknown of an inequality; -1 where it has none.
[[nodiscard]] Node head_of(const Expression& in, Node node);

// The interval that `a < x <= b` or `x > a` describes (for `x \ne a` all the
// other numbers), as a new node of `in`; other nodes
// unchanged.
[[nodiscard]] Node as_interval(Expression& in, Node node);

// Is it a list of bounds that together describe a set: x < 0 or x > 1?
[[nodiscard]] bool joins_bounds(const Expression& in, Node node);

struct End {
    double value, error;  // infinite ends too
    std::optional<Rational> exact;
    bool closed;
};

struct Piece {
    End low, high;
};

using RealSet = std::vector<Piece>;  // in order, apart from each other

// The set of an interval, a finite set, an inequality, or a union, intersection or difference of
// them; nothing for other nodes, and where ends are too close to order.
[[nodiscard]] std::optional<RealSet> real_set(Expression& in, Node node);

[[nodiscard]] std::optional<bool> same(const RealSet& a, const RealSet& b);

}  // namespace malt
