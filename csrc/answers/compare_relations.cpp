// Relations: what they state about their head, equations and inequalities up to a factor.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "answers/comparison.hpp"
#include "answers/real_sets.hpp"

namespace malt {
namespace {

using enum Verdict;

bool consists_of(const std::string& signs, Kind kind) {
    return signs.find_first_not_of(char(kind)) == std::string::npos;
}

bool orders(const std::string& signs) {
    return std::ranges::all_of(
        signs, [](char c) { return c >= char(Kind::kLess) && c <= char(Kind::kGreaterEqual); });
}

bool rises(char sign) {
    return sign == char(Kind::kLess) || sign == char(Kind::kLessEqual);
}

bool has_variable(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) { return is_variable(*side.in, node); });
}

// An inequality as the interval that contains its head.
Side as_set(const Side& side) {
    return {side.in, as_interval(*side.in, side.node), side.sign};
}

// Numbers that are equal: 5 * 3 = 15, \log_3 81 = 4.
bool is_true(const Side& side) {
    if (has_variable(side)) return false;
    const auto first = exact(*side.in, side.child(0).node, side.sign);
    const auto about = approximate(*side.in, side.child(0).node, 0, side.sign);
    for (std::size_t i = 1; i < side.size(); ++i) {
        const auto next = exact(*side.in, side.child(i).node, side.sign);
        if (first && next && *first == *next) continue;
        if (first && next) return false;
        const auto value = approximate(*side.in, side.child(i).node, 0, side.sign);
        if (!about || !value) return false;
        if (!(std::abs(about->value - value->value) <= 4 * (about->error + value->error)))
            return false;
    }
    return true;
}

// ---- up to a factor ----

std::optional<Fraction> modular_difference(const Side& side, int prime, int point) {
    const auto left = modular(*side.in, side.child(0).node, prime, point, side.sign);
    const auto right =
        left ? modular(*side.in, side.child(1).node, prime, point, side.sign) : std::nullopt;
    if (!right) return {};
    return Fraction{subtract(multiply(left->top, right->bottom, prime),
                             multiply(right->top, left->bottom, prime), prime),
                    multiply(left->bottom, right->bottom, prime)};
}

std::optional<Approximation> difference_at(const Side& side, int point) {
    const auto left = approximate(*side.in, side.child(0).node, point, side.sign);
    const auto right = approximate(*side.in, side.child(1).node, point, side.sign);
    if (!left || !right) return {};
    const auto value = left->value - right->value;
    const double size = std::max(std::abs(left->value), std::abs(right->value));
    const double low = std::min(std::abs(left->value), std::abs(right->value));
    return Approximation{value, left->error + right->error + 1e-15 * size,
                         left->lost || right->lost || (low > 0 && low < 1e-8 * size)};
}

// Are the differences of the two sides proportional? As fractions, exactly.
std::optional<bool> proportional_fractions(const Side& gold, const Side& answer) {
    for (int prime = 0; prime < kPrimes; ++prime) {
        std::array<Fraction, 4> at;
        for (int i = 0; i < 4; ++i) {
            const auto value = modular_difference(i < 2 ? gold : answer, prime, 2 * prime + i % 2);
            if (!value) return {};
            at[static_cast<std::size_t>(i)] = *value;
        }
        const auto times = [&](const Fraction& a, const Fraction& b) {
            return Fraction{multiply(a.top, b.top, prime), multiply(a.bottom, b.bottom, prime)};
        };
        const Fraction x = times(at[0], at[3]), y = times(at[1], at[2]);
        if (multiply(x.top, y.bottom, prime) != multiply(y.top, x.bottom, prime)) return false;
        if ((at[0].top == 0) != (at[2].top == 0)) return false;
    }
    return true;
}

// The same, in doubles; `factor` is that of the first point.
Verdict proportional_values(const Side& gold, const Side& answer, std::complex<double>& factor) {
    int seen = 0;
    for (int point = 0; point < kPoints; ++point) {
        const auto a = difference_at(gold, point), b = difference_at(answer, point);
        if (!a || !b) return kUnknown;
        if (std::abs(a->value) < 1e9 * a->error || std::abs(b->value) < 1e9 * b->error)
            return kUnknown;
        const auto now = a->value / b->value;
        if (point == 0) factor = now;
        if (!(std::abs(now - factor) < 1e-8 * std::abs(factor)))
            return point < kPositive ? kDifferent : kUnknown;
        seen += !a->lost && !b->lost;
    }
    return seen >= 2 ? kEqual : kUnknown;
}

// Relations with two sides are equal where their left minus right sides are proportional; `turned`:
// the factor must be negative; nothing: any factor.
Verdict compare_by_factor(const Side& gold, const Side& answer, std::optional<bool> turned) {
    std::complex<double> factor;
    const auto fractions = proportional_fractions(gold, answer);
    if (fractions && !*fractions) return kDifferent;
    if (!fractions || turned) {
        const Verdict values = proportional_values(gold, answer, factor);
        if (!fractions && values != kEqual) return values;
        if (turned && factor == 0.0) return kUnknown;
        if (turned && (factor.real() < 0) != *turned) return kDifferent;
    }
    return kEqual;
}

// ---- chains: a < b < c ----

// The same chain read from its other end.
Verdict compare_reversed(const Side& gold, const Side& answer) {
    const std::string& signs = gold.part().text;
    const std::string& others = answer.part().text;
    const std::size_t n = signs.size();
    if (n != others.size()) return kDifferent;
    for (std::size_t i = 0; i < n; ++i)
        if (mirrored(static_cast<Kind>(signs[i])) != static_cast<Kind>(others[n - 1 - i]))
            return kDifferent;
    Verdict all = kEqual;
    for (std::size_t i = 0; i <= n; ++i)
        all = both(all, compare(gold.child(i), answer.child(n - i)));
    return all;
}

// f(x) = ... and y = ... name the same.
bool names_alike(const Side& a, const Side& b) {
    const auto applied = [](const Side& side) {
        return side.op() == Op::kCall && side.size() > 0 && side.child(0).op() == Op::kSymbol;
    };
    const auto is_y = [](const Side& side) {
        return side.op() == Op::kSymbol && (side.part().text == "y" || side.part().text.empty());
    };
    return (applied(a) && is_y(b)) || (applied(b) && is_y(a)) ||
           (a.op() == Op::kSymbol && a.part().text.empty()) ||
           (b.op() == Op::kSymbol && b.part().text.empty()) || compare(a, b) == kEqual;
}

Verdict compare_equations(const Side& gold, const Side& answer) {
    if (!has_variable(gold) && !has_variable(answer)) {
        if (gold.size() != answer.size() && is_true(gold) && is_true(answer))
            return compare(gold.child(gold.size() - 1), answer.child(answer.size() - 1));
        const Verdict straight = compare_in_order(gold, answer);
        return straight == kEqual ? straight : compare_reversed(gold, answer);
    }
    const bool heads =
        is_head(*gold.in, gold.child(0).node) && is_head(*answer.in, answer.child(0).node);
    if (heads && names_alike(gold.child(0), answer.child(0)))
        return compare(gold.child(gold.size() - 1), answer.child(answer.size() - 1));
    if (gold.size() != 2 || answer.size() != 2) return kUnknown;
    for (const Side& side : {gold, answer})
        if (has_foreign(side.child(0)) || has_foreign(side.child(1))) return kDifferent;
    return compare_by_factor(gold, answer, {});
}

Verdict compare_inequalities(const Side& gold, const Side& answer) {
    const Verdict reversed = compare_reversed(gold, answer);
    if (reversed == kEqual) return kEqual;
    const Side x = as_set(gold), y = as_set(answer);
    if (x.op() != Op::kRelation && y.op() != Op::kRelation) {
        const auto name = [](const Side& side) -> Side {
            const Side head{side.in, head_of(*side.in, side.node), side.sign};
            return head.op() == Op::kAbs && head.child(0).op() == Op::kSymbol ? head.child(0)
                                                                              : head;
        };
        const Side head = name(gold), other = name(answer);
        if (names_alike(head, other)) return compare(x, y);
    }
    if (gold.size() != 2 || answer.size() != 2) return kDifferent;
    if (!has_variable(gold) && !has_variable(answer)) return kDifferent;  // 5 > 3 is not 5 > 4
    const char sign = gold.part().text[0], other = answer.part().text[0];
    const bool turned = rises(sign) != rises(other);
    const auto strict = [](char c) { return c == char(Kind::kLess) || c == char(Kind::kGreater); };
    return strict(sign) == strict(other) ? compare_by_factor(gold, answer, turned) : kDifferent;
}

}  // namespace

Side stated(const Side& side) {
    const auto& [op, signs, parts] = side.part();
    const bool equations = consists_of(signs, Kind::kEqual);
    const bool about = (equations || signs == std::string(1, char(Kind::kIn)));
    if ((about && is_head(*side.in, parts[0])) || (equations && is_true(side)))
        return {side.in, parts.back(), side.sign};
    return as_set(side);
}

Verdict compare_relations(const Side& gold, const Side& answer) {
    const std::string signs = gold.part().text, others = answer.part().text;
    if (signs == others && compare_in_order(gold, answer) == kEqual) return kEqual;
    if (consists_of(signs, Kind::kEqual) && consists_of(others, Kind::kEqual))
        return compare_equations(gold, answer);
    if (orders(signs) && orders(others)) return compare_inequalities(gold, answer);
    if (compare_reversed(gold, answer) == kEqual) return kEqual;
    const Side x = stated(gold), y = stated(answer);
    if (x.op() != Op::kRelation && y.op() != Op::kRelation) return compare(x, y);
    if (signs == others && signs == std::string(1, char(Kind::kNotEqual)))
        return compare_by_factor(gold, answer, {});
    return kDifferent;
}

}  // namespace malt
