// Relations: what they state about their head, and equations up to a factor.
#include <algorithm>
#include <array>
#include <cmath>

#include "answers/comparison.hpp"
#include "answers/real_sets.hpp"

namespace malt {
namespace {

using enum Verdict;

// An inequality as the interval that contains its head.
Side as_set(const Side& side) {
    return {side.in, as_interval(*side.in, side.node), side.sign};
}

// Equal numbers: 5 * 3 = 15.
bool all_same_number(const Expression& in, const std::vector<Node>& parts) {
    const auto first = exact(in, parts[0]);
    return first && std::ranges::all_of(parts, [&](Node part) { return exact(in, part) == first; });
}

// Left minus right side of a linear equation.
std::optional<Linear> linear_difference(const Side& side) {
    const auto left = linear(*side.in, side.child(0).node);
    const auto right = linear(*side.in, side.child(1).node);
    if (!left || !right) return {};
    Linear out = *left;
    for (const auto& [symbol, coefficient] : *right) {
        const auto now = difference(out[symbol], coefficient);
        if (!now) return {};
        out[symbol] = *now;
    }
    std::erase_if(out, [](const auto& term) { return term.second.num == 0; });
    return out;
}

// Is one a multiple of the other?
bool proportional(const Linear& a, const Linear& b) {
    // In doubles: ratios are equal or far apart.
    const auto ratio = [](const Rational& x, const Rational& y) {
        return static_cast<double>(x.num) / static_cast<double>(x.den) /
               (static_cast<double>(y.num) / static_cast<double>(y.den));
    };
    if (a.size() != b.size() || a.empty()) return false;
    const double first = ratio(a.begin()->second, b.begin()->second);
    return std::ranges::equal(a, b, [&](const auto& x, const auto& y) {
        return x.first == y.first &&
               std::abs(ratio(x.second, y.second) - first) <= 1e-12 * std::abs(first);
    });
}

// Equations are equal where their left minus right sides are proportional.
Verdict compare_equations(const Side& gold, const Side& answer) {
    const auto x = linear_difference(gold), y = linear_difference(answer);
    if (x && y && x->size() > 1 && y->size() > 1) return proportional(*x, *y) ? kEqual : kDifferent;
    std::complex<double> factor;
    for (int point = 0; point < kPoints; ++point) {
        std::array<std::complex<double>, 2> rest;
        for (const auto& [side, out] : {std::pair{&gold, &rest[0]}, std::pair{&answer, &rest[1]}}) {
            const auto left = approximate(*side->in, side->child(0).node, point, side->sign);
            const auto right = approximate(*side->in, side->child(1).node, point, side->sign);
            if (!left || !right) return kUnknown;
            *out = left->value - right->value;
        }
        if (std::abs(rest[0]) < 1e-6 || std::abs(rest[1]) < 1e-6) return kUnknown;
        const auto now = rest[0] / rest[1];
        if (point == 0) factor = now;
        if (!(std::abs(now - factor) < 1e-9 * std::abs(factor))) return kUnknown;
    }
    return kEqual;
}

}  // namespace

Side stated(const Side& side) {
    const auto& [op, signs, parts] = side.part();
    const bool equations =
        std::ranges::all_of(signs, [](char c) { return c == char(Kind::kEqual); });
    const bool about = (equations || signs == std::string(1, char(Kind::kIn)));
    if ((about && is_head(*side.in, parts[0])) || (equations && all_same_number(*side.in, parts)))
        return {side.in, parts.back(), side.sign};
    return as_set(side);
}

Verdict compare_relations(const Side& gold, const Side& answer) {
    if (gold.part().text == answer.part().text && compare_in_order(gold, answer) == kEqual)
        return kEqual;
    const std::string equation(1, char(Kind::kEqual));
    const auto all_equal = [&](const std::string& signs) {
        return signs.find_first_not_of(equation) == std::string::npos;
    };
    if (all_equal(gold.part().text) && all_equal(answer.part().text)) {
        const Verdict heads = compare(gold.child(0), answer.child(0));
        if (heads == kEqual && is_head(*gold.in, gold.child(0).node))
            return compare(gold.child(gold.size() - 1), answer.child(answer.size() - 1));
        return gold.size() == 2 && answer.size() == 2 ? compare_equations(gold, answer) : kUnknown;
    }
    const Side x = as_set(gold), y = as_set(answer);
    return x.op() == Op::kTuple && y.op() == Op::kTuple ? compare(x, y) : kUnknown;
}

}  // namespace malt
