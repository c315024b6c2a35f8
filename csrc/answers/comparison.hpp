// Comparing parsed answers, part by part: scalars, relations, and everything made of them.
#pragma once

#include "answers/answers.hpp"
#include "answers/expression.hpp"
#include "answers/values.hpp"

namespace malt {

// A part of one of the two answers.
struct Side {
    Expression* in;
    Node node;
    int sign = 0;  // +1 or -1 for every +-; 0: not chosen yet

    [[nodiscard]] const Expression::Part& part() const { return (*in)[node]; }
    [[nodiscard]] Op op() const { return part().op; }
    [[nodiscard]] Side child(std::size_t i) const { return {in, part().parts[i], sign}; }
    [[nodiscard]] std::size_t size() const { return part().parts.size(); }
};

// Both must hold: different wins over unknown, unknown over equal.
[[nodiscard]] Verdict both(Verdict a, Verdict b);

[[nodiscard]] Verdict compare(Side gold, Side answer);

// The children one by one; different where their numbers differ.
[[nodiscard]] Verdict compare_in_order(const Side& gold, const Side& answer);

// Numbers and formulas: exact where possible, else at random points.
[[nodiscard]] Verdict compare_scalars(const Side& gold, const Side& answer);

// Has it a part without a value: P(X = 1), a sum with dots or matrices?
[[nodiscard]] bool has_foreign(const Side& side);

// The number before letters that may be a unit: the 5 of `5 m/s`.
[[nodiscard]] std::optional<Rational> letter_quantity(const Side& side);

// The letters behind a number that may be a unit: the m/s of `5 m/s`; empty if there are none.
[[nodiscard]] std::string letter_unit(const Expression& in, Node node);

// Equations, inequalities, memberships.
[[nodiscard]] Verdict compare_relations(const Side& gold, const Side& answer);

// What a relation states about its head: 5 for `x = 5`, S for `x \in S`, an interval for an
// inequality; other relations as they are.
[[nodiscard]] Side stated(const Side& side);

}  // namespace malt
