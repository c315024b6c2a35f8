// Sets of real numbers: what inequalities, intervals and what is made of them say.
#pragma once

#include <optional>
#include <vector>

#include "answers/values.hpp"

namespace malt {

// Can it stand for the unknown of a relation: x, f(x), |AB|, (p,q), NO/BO?
[[nodiscard]] bool is_head(const Expression& in, Node node);

// The interval that `a < x <= b` or `x > a` says x is in, a new node of `in`; other nodes as they
// are.
[[nodiscard]] Node as_interval(Expression& in, Node node);

struct End {
    double value, error;  // infinite ends too
    std::optional<Rational> exact;
    bool closed;
};

struct Piece {
    End low, high;
};

using RealSet = std::vector<Piece>;  // in order, apart from each other

// The set that intervals, finite sets, inequalities, their unions, intersections and differences
// make; nothing for what else there is, and where ends are too close to tell their order.
[[nodiscard]] std::optional<RealSet> real_set(Expression& in, Node node);

[[nodiscard]] std::optional<bool> same(const RealSet& a, const RealSet& b);

}  // namespace malt
