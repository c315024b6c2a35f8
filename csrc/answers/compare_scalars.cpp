// Numbers and formulas: exact values first, then values at random points.
#include <algorithm>
#include <cmath>

#include "answers/comparison.hpp"
#include "answers/units.hpp"
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

// The 5 of `5 m` or `5 m/s^2`, which may be a quantity rather than five times m; `unit` gets its
// letters.
std::optional<Rational> measured(const Expression& in, Node node, Unit* unit = nullptr) {
    const auto& [op, text, parts] = in[node];
    if (op != Op::kMultiply && op != Op::kDivide) return {};
    const auto& last = in[parts[1]];
    const auto& letter = last.op == Op::kPower ? in[last.parts[0]] : last;  // m^3
    if (letter.op != Op::kSymbol || !is_unit_letter(letter.text)) return {};
    const auto power = last.op == Op::kPower ? exact(in, last.parts[1]) : Rational{1, 1};
    if (!power || power->den != 1 || power->num < -9 || power->num > 9) return {};
    const bool simple =
        op == Op::kMultiply && in[parts[0]].op != Op::kMultiply && in[parts[0]].op != Op::kDivide;
    const auto value = simple ? exact(in, parts[0]) : measured(in, parts[0], unit);
    const auto number = value || op == Op::kDivide ? value : exact(in, parts[0]);
    if (number && unit) {
        if (op == Op::kDivide) unit->divide();
        unit->add(letter.text, static_cast<int>(power->num));
    }
    return number;
}

bool divides_by_zero(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        const auto& [op, text, parts] = (*side.in)[node];
        return op == Op::kDivide && exact(*side.in, parts[1]) == Rational{0, 1};
    });
}

// Is `digits` a floating-point number printed in full, and `value` the number it stands for?
bool prints(const Side& digits, double value) {
    if (digits.op() == Op::kNegate) return prints(digits.child(0), -value);
    if (digits.op() != Op::kNumber) return false;
    const std::string_view text = without_zeros(digits.part().text);
    const auto first = text.find_first_of("123456789");
    if (first == std::string_view::npos || text.find('.') == std::string_view::npos) return false;
    const auto point = text.find('.');
    const auto figures = text.size() - first - (point > first ? 1 : 0);
    // Doubles have 17 figures, perhaps 18 are printed; 12345678901234.5 has too few behind the
    // point.
    return figures >= 15 && figures <= 18 && text.size() - point > 6 &&
           std::abs(std::strtod(text.data(), nullptr) - value) <= 1e-14 * std::abs(value);
}

bool prints(const Side& digits, const Rational& value) {
    return prints(digits, static_cast<double>(value.num) / static_cast<double>(value.den));
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

// A float printed in full, and the irrational number without symbols that it stands for?
bool prints_irrational(const Side& digits, const Side& other) {
    const bool symbols =
        any_part(*other.in, other.node, [&](Node part) { return is_variable(*other.in, part); });
    const auto value =
        symbols ? std::nullopt : approximate(*other.in, other.node, 0, other.sign ? other.sign : 1);
    if (!value || value->value.imag() != 0) return false;
    return prints(digits, value->value.real()) && value->error < 1e-13 * std::abs(value->value);
}

// Equal as fractions of polynomials, exactly; nothing where one of them is none.
std::optional<bool> same_fractions(const Side& gold, const Side& answer) {
    const bool integers =
        counts_symbols(*gold.in, gold.node) || counts_symbols(*answer.in, answer.node);
    int tried = 0;
    for (int point = 0; point < (integers ? 8 : kPrimes); ++point) {
        const int prime = point % kPrimes;
        const auto a = modular(*gold.in, gold.node, prime, point, gold.sign, integers);
        if (!a && !integers) return {};
        const auto b = modular(*answer.in, answer.node, prime, point, answer.sign, integers);
        if (!b && !integers) return {};
        if (!a || !b) continue;  // the factorial of a negative number
        ++tried;
        if (multiply(a->top, b->bottom, prime) != multiply(b->top, a->bottom, prime)) return false;
    }
    return tried >= 3 ? std::optional(true) : std::nullopt;
}

// Values at random points of the symbols. `rational`: one side is known to be a rational number.
Verdict compare_at_points(const Side& gold, const Side& answer, bool rational) {
    bool agree = true;
    int seen = 0;  // points where both values show all that counts
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
        if (differ || error > 1e-10 * std::abs(a->value)) agree = false;
        seen += !a->lost && !b->lost;
    }
    // Far out, |x - 3| is another formula than near 0.
    for (int far = 0; agree && (has_kink(gold) || has_kink(answer)) && far < kFar; ++far) {
        const auto a = approximate(*gold.in, gold.node, kPoints + far, gold.sign);
        const auto b = approximate(*answer.in, answer.node, kPoints + far, answer.sign);
        if (!a || !b) return kUnknown;
        if (std::abs(a->value - b->value) <= 4 * (a->error + b->error) + 1e-300) continue;
        return far % 2 == 0 ? kDifferent : kUnknown;
    }
    if (seen < 2) return kDifferent;  // what is too small for doubles may differ
    // A rational number seldom equals an irrational formula: that needs a proof.
    return agree && !rational ? kEqual : kUnknown;
}

}  // namespace

bool has_foreign(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        const auto& [op, text, parts] = (*side.in)[node];
        return !is_scalar(op) || (op == Op::kSymbol && text == "dots");
    });
}

std::optional<Rational> letter_quantity(const Side& side) {
    return measured(*side.in, side.node);
}

std::string letter_unit(const Expression& in, Node node) {
    Unit unit;
    return measured(in, node, &unit) ? unit.text() : std::string();
}

Verdict compare_scalars(const Side& gold, const Side& answer) {
    if (has_foreign(gold) || has_foreign(answer)) {
        const bool alike = gold.op() == answer.op() && gold.part().text == answer.part().text;
        const Verdict verdict = alike ? compare_in_order(gold, answer) : kDifferent;
        const auto has_matrix = [](const Side& side) {
            return any_part(*side.in, side.node,
                            [&](Node node) { return (*side.in)[node].op == Op::kMatrix; });
        };
        if (verdict == kEqual) return kEqual;
        return has_matrix(gold) || has_matrix(answer) ? kUnknown : kDifferent;
    }
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
    if (y && !x && prints_irrational(answer, gold)) return kEqual;
    if (x && !y && prints_irrational(gold, answer)) return kEqual;
    if (const auto number = y && !x ? measured(*gold.in, gold.node) : std::nullopt;
        number && gold.op() == Op::kDivide && *number == *y)
        return kEqual;  // m/s is a unit
    const auto s = surd(*gold.in, gold.node, gold.sign);
    const auto t = s ? surd(*answer.in, answer.node, answer.sign) : std::nullopt;
    if (s && t) return *s == *t ? kEqual : kDifferent;
    if (divides_by_zero(gold) != divides_by_zero(answer)) return kDifferent;
    if (const auto same = same_fractions(gold, answer)) {
        if (!*same && measured(*gold.in, gold.node)) return kUnknown;
        return *same ? kEqual : kDifferent;
    }
    return compare_at_points(gold, answer, x || y);
}

}  // namespace malt
