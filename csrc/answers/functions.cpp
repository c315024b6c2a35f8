// Exact values of functions: sines of known angles, logarithms, floors.
#include <array>
#include <cmath>
#include <utility>

#include "answers/surds.hpp"

namespace malt {
namespace {

// The angle in degrees of r pi or of r degrees, from 0 to 359, where it is whole.
std::optional<int> degrees(const Expression& in, Node node) {
    Rational turn;  // in degrees
    if (in[node].op == Op::kDegrees) {
        const auto angle = exact(in, in[node].parts[0]);
        if (!angle) return {};
        turn = *angle;
    } else if (in[node].op == Op::kNegate) {
        const auto angle = degrees(in, in[node].parts[0]);
        return angle ? std::optional((360 - *angle) % 360) : std::nullopt;
    } else {
        const auto form = linear(in, node);
        if (!form || form->size() > 1 || (form->size() == 1 && !form->contains("pi"))) return {};
        const auto angle = product(form->empty() ? Rational{} : form->at("pi"), {180, 1});
        if (!angle) return {};
        turn = *angle;
    }
    if (turn.den != 1) return {};
    return static_cast<int>((turn.num % 360 + 360) % 360);
}

std::optional<Surd> sine(int angle) {
    if (angle >= 180) {
        auto opposite = sine(angle - 180);
        if (opposite) *opposite = negated(*opposite);
        return opposite;
    }
    switch (angle > 90 ? 180 - angle : angle) {
        case 0:
            return Surd{};
        case 15:
            return Surd{{2, {-1, 4}}, {6, {1, 4}}};
        case 18:
            return Surd{{1, {-1, 4}}, {5, {1, 4}}};
        case 30:
            return Surd{{1, {1, 2}}};
        case 45:
            return Surd{{2, {1, 2}}};
        case 54:
            return Surd{{1, {1, 4}}, {5, {1, 4}}};
        case 60:
            return Surd{{3, {1, 2}}};
        case 75:
            return Surd{{2, {1, 4}}, {6, {1, 4}}};
        case 90:
            return Surd{{1, {1, 1}}};
        default:
            return {};
    }
}

std::optional<Surd> quotient(const std::optional<Surd>& a, const std::optional<Surd>& b) {
    const auto below = b ? inverse(*b) : std::nullopt;
    return a && below ? product(*a, *below) : std::nullopt;
}

std::optional<Surd> of_angle(std::string_view name, int angle) {
    const auto sin = sine(angle), cos = sine((angle + 90) % 360);
    if (name == "sin") return sin;
    if (name == "cos") return cos;
    if (name == "tan") return quotient(sin, cos);
    if (name == "cot") return quotient(cos, sin);
    if (name == "sec") return quotient(Surd{{1, {1, 1}}}, cos);
    if (name == "csc") return quotient(Surd{{1, {1, 1}}}, sin);
    return {};
}

std::optional<Rational> log_of(const Rational& base, const Expression& in, Node node, int sign) {
    if (const auto x = exact(in, node, sign)) return logarithm(base, *x);
    if (in[node].op == Op::kPower) {  // too large for exact(): 2^200
        const auto n = exact(in, in[node].parts[1], sign);
        const auto of_base = n ? log_of(base, in, in[node].parts[0], sign) : std::nullopt;
        return of_base ? product(*of_base, *n) : std::nullopt;
    }
    const auto x = surd(in, node, sign);  // log of a root: half that of its square
    if (!x || x->size() != 1) return {};
    const auto& [under, coefficient] = *x->begin();
    if (coefficient.num < 0) return {};
    const auto square = product(coefficient, coefficient);
    const auto whole = square ? product(*square, {under, 1}) : std::nullopt;
    const auto twice = whole ? logarithm(base, *whole) : std::nullopt;
    return twice ? product(*twice, {1, 2}) : std::nullopt;
}

// The largest integer that is not above.
std::optional<Rational> floor_of(const Expression& in, Node node, int sign) {
    if (const auto x = exact(in, node, sign)) {
        const Integer rest = (x->num % x->den + x->den) % x->den;
        return Rational{(x->num - rest) / x->den, 1};
    }
    const bool symbols = any_part(in, node, [&](Node part) { return is_variable(in, part); });
    const auto x = symbols ? std::nullopt : approximate(in, node, 0, sign);
    if (!x || x->value.imag() != 0 || x->lost || std::abs(x->value.real()) > 1e15) return {};
    const double low = std::floor(x->value.real() - 4 * x->error);
    if (low != std::floor(x->value.real() + 4 * x->error)) return {};
    return Rational{static_cast<Integer>(low), 1};
}

}  // namespace

bool has_few_calls(const Expression& in, Node node) {
    int calls = 0;
    return !any_part(in, node, [&](Node part) { return in[part].op == Op::kCall && ++calls > 4; });
}

std::optional<Rational> exponent_of_e(const Expression& in, Node node) {
    const auto& [op, text, parts] = in[node];
    if (op == Op::kSymbol) return text == "e" ? std::optional(Rational{1, 1}) : std::nullopt;
    if (op == Op::kPower && exponent_of_e(in, parts[0]) == Rational{1, 1})
        return exact(in, parts[1]);
    if (op == Op::kDivide && exact(in, parts[0]) == Rational{1, 1}) {
        const auto below = exponent_of_e(in, parts[1]);
        return below ? std::optional(Rational{-below->num, below->den}) : std::nullopt;
    }
    if (op == Op::kRoot && parts.size() == 1) {
        const auto under = exponent_of_e(in, parts[0]);
        return under ? product(*under, {1, 2}) : std::nullopt;
    }
    return exact(in, node) == Rational{1, 1} ? std::optional(Rational{}) : std::nullopt;
}

std::optional<Surd> call_value(const Expression& in, Node call, int sign) {
    const auto& [op, name, parts] = in[call];
    const auto as_surd = [](const std::optional<Rational>& x) {
        return x ? std::optional(x->num ? Surd{{1, *x}} : Surd{}) : std::nullopt;
    };
    if (name.ends_with("()") || !has_few_calls(in, call)) return {};
    if (name == "ln") return as_surd(exponent_of_e(in, parts[0]));
    if (name == "log" && parts.size() == 2) {
        const auto base = exact(in, parts[1], sign);
        return as_surd(base ? log_of(*base, in, parts[0], sign) : std::nullopt);
    }
    if (name == "floor") return as_surd(floor_of(in, parts[0], sign));
    if (name == "ceil") {
        // -floor(-x), without a new node
        const auto below = floor_of(in, parts[0], sign);
        const auto x = exact(in, parts[0], sign);
        if (!below || x == below) return as_surd(below);
        return as_surd(Rational{below->num + 1, 1});
    }
    if (parts.size() > 1) return {};
    const auto angle = degrees(in, parts[0]);
    return angle ? of_angle(name, *angle) : std::nullopt;
}

}  // namespace malt
