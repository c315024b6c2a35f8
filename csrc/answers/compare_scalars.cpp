// Numbers and formulas: exact values first, then values at random points.
#include <algorithm>
#include <cmath>

#include "answers/comparison.hpp"
#include "answers/values.hpp"

namespace malt {
namespace {

using enum Verdict;

std::string_view without_zeros(std::string_view digits) {
    while (digits.size() > 1 && digits[0] == '0' && digits[1] != '.') digits.remove_prefix(1);
    if (digits.find('.') != std::string_view::npos) {
        while (digits.ends_with('0')) digits.remove_suffix(1);
        if (digits.ends_with('.')) digits.remove_suffix(1);
    }
    return digits;
}

// `log` without a base, which may mean e or 10.
bool uses_log(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        const auto& [op, text, parts] = (*side.in)[node];
        return op == Op::kCall && text == "log" && parts.size() == 1;
    });
}

// The 5 of `5 m`, which may be a length rather than five times m.
std::optional<Rational> measured(const Expression& in, Node node) {
    if (in[node].op != Op::kMultiply) return {};
    const auto& last = in[in[node].parts[1]];
    const auto& unit = last.op == Op::kPower ? in[last.parts[0]] : last;  // m^3
    const bool is_unit = unit.op == Op::kSymbol && unit.text.size() == 1 &&
                         std::string_view("mgshLVWNJ").find(unit.text) != std::string_view::npos;
    return is_unit ? exact(in, in[node].parts[0]) : std::nullopt;
}

bool divides_by_zero(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        const auto& [op, text, parts] = (*side.in)[node];
        return op == Op::kDivide && exact(*side.in, parts[1]) == Rational{0, 1};
    });
}

// Is `digits` a floating-point number printed in full, and `value` the number it stands for?
bool prints(const Side& digits, const Rational& value) {
    if (digits.op() == Op::kNegate) return prints(digits.child(0), {-value.num, value.den});
    if (digits.op() != Op::kNumber) return false;
    const std::string_view text = without_zeros(digits.part().text);
    const auto first = text.find_first_of("123456789");
    if (first == std::string_view::npos || text.find('.') == std::string_view::npos) return false;
    const auto figures = text.size() - first - (text.find('.') > first ? 1 : 0);
    const double number = static_cast<double>(value.num) / static_cast<double>(value.den);
    return figures >= 15 &&
           std::abs(std::strtod(text.data(), nullptr) - number) <= 1e-14 * std::abs(number);
}

// |x|, or a root such as that of a square: where it bends, random points may miss a difference.
bool has_kink(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        const auto& part = (*side.in)[node];
        return (part.op == Op::kAbs || part.op == Op::kRoot) &&
               any_part(*side.in, node,
                        [&](Node below) { return (*side.in)[below].op == Op::kSymbol; });
    });
}

// A number with more digits than exact() takes: only the same digits are known to be equal.
bool has_long_number(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        return (*side.in)[node].op == Op::kNumber && !exact(*side.in, node);
    });
}

// Values at random points of the symbols. `rational`: one side is known to be a rational number.
Verdict compare_at_points(const Side& gold, const Side& answer, bool rational) {
    bool agree = true;
    for (int point = 0; point < kPoints; ++point) {
        const auto a = approximate(*gold.in, gold.node, point, gold.sign);
        const auto b = approximate(*answer.in, answer.node, point, answer.sign);
        if (!a || !b) return kUnknown;
        const bool huge = std::isinf(a->value.real()), huge_too = std::isinf(b->value.real());
        if (huge && huge_too) return kUnknown;
        const double error = a->error + b->error;
        const bool differ = huge || huge_too || std::abs(a->value - b->value) > 4 * error + 1e-300;
        if (differ && point < kPositive) {
            if (uses_log(gold) || uses_log(answer)) return kUnknown;
            if (measured(*gold.in, gold.node)) return kUnknown;
            return kDifferent;
        }
        if (differ || error > 1e-9 * std::max(1.0, std::abs(a->value))) agree = false;
    }
    // Far out, |x - 3| is another formula than near 0.
    for (int far = 0; agree && (has_kink(gold) || has_kink(answer)) && far < kFar; ++far) {
        const auto a = approximate(*gold.in, gold.node, kPoints + far, gold.sign);
        const auto b = approximate(*answer.in, answer.node, kPoints + far, answer.sign);
        if (!a || !b) return kUnknown;
        if (std::abs(a->value - b->value) <= 4 * (a->error + b->error) + 1e-300) continue;
        return far % 2 == 0 ? kDifferent : kUnknown;
    }
    // A rational number seldom equals an irrational formula: that needs a proof.
    return agree && !rational && !has_long_number(gold) && !has_long_number(answer) ? kEqual
                                                                                    : kUnknown;
}

}  // namespace

Verdict compare_scalars(const Side& gold, const Side& answer) {
    if (gold.op() == Op::kNegate && answer.op() == Op::kNegate)
        return compare_scalars(gold.child(0), answer.child(0));
    if (gold.op() == Op::kNumber && answer.op() == Op::kNumber) {
        const bool same = without_zeros(gold.part().text) == without_zeros(answer.part().text);
        if (same) return kEqual;
    }
    const auto x = exact(*gold.in, gold.node, gold.sign);
    const auto y = exact(*answer.in, answer.node, answer.sign);
    if (x && y) return *x == *y || prints(gold, *y) || prints(answer, *x) ? kEqual : kDifferent;
    if (const auto number = x && !y ? measured(*answer.in, answer.node) : std::nullopt)
        return *number == *x ? kEqual : kDifferent;  // the gold answer has no variable m
    const auto s = surd(*gold.in, gold.node, gold.sign);
    const auto t = s ? surd(*answer.in, answer.node, answer.sign) : std::nullopt;
    if (s && t) return *s == *t ? kEqual : kDifferent;
    if (divides_by_zero(gold) != divides_by_zero(answer)) return kDifferent;
    if (gold.op() == Op::kNumber && answer.op() == Op::kNumber) return kDifferent;  // long ones
    return compare_at_points(gold, answer, x || y);
}

}  // namespace malt
