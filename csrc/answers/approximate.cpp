// Approximate values with error bounds; every symbol has a random value.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "answers/values.hpp"

namespace malt {
namespace {

using Complex = std::complex<double>;
constexpr double kEps = 4e-16;
constexpr double kTiny = 1e-290;  // below, doubles underflow
constexpr double kSeen = 1e-8;    // what is relatively smaller may get lost

// The value of a symbol at a point, a function of its name.
double point_of(std::string_view name, int point) {
    std::uint64_t h = 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(point) * 0x100000001b3u;
    for (const char c : name)
        h = (h ^ static_cast<unsigned char>(c)) * 0xff51afd7ed558ccdu, h ^= h >> 32;
    h = (h ^ (h >> 29)) * 0xc4ceb9fe1a85ec53u;
    const double x = 0.3 + 1.9 * static_cast<double>((h ^ (h >> 32)) >> 11) * 0x1p-53;
    if (point >= kPoints)  // beyond the kinks of |x - 3|
        return x * std::array{12.0, -12.0, 150.0, -150.0, 2000.0, -2000.0}[static_cast<std::size_t>(
                       point - kPoints)];
    const bool negative = point == kPoints - 1 || (point >= kPositive && (h & 4096));
    return negative ? -x : x;
}

std::optional<Approximation> call_value(std::string_view name, const Approximation& x) {
    const Complex z = x.value;
    Complex value, slope;
    if (name == "sin")
        value = std::sin(z), slope = std::cos(z);
    else if (name == "cos")
        value = std::cos(z), slope = std::sin(z);
    else if (name == "tan")
        value = std::tan(z), slope = 1.0 + value * value;
    else if (name == "cot")
        value = 1.0 / std::tan(z), slope = 1.0 + value * value;
    else if (name == "sec")
        value = 1.0 / std::cos(z), slope = value * std::tan(z);
    else if (name == "csc")
        value = 1.0 / std::sin(z), slope = value / std::tan(z);
    else if (name == "arcsin")
        value = std::asin(z), slope = 1.0 / std::sqrt(1.0 - z * z);
    else if (name == "arccos")
        value = std::acos(z), slope = 1.0 / std::sqrt(1.0 - z * z);
    else if (name == "arctan")
        value = std::atan(z), slope = 1.0 / (1.0 + z * z);
    else if (name == "sinh")
        value = std::sinh(z), slope = std::cosh(z);
    else if (name == "cosh")
        value = std::cosh(z), slope = std::sinh(z);
    else if (name == "tanh")
        value = std::tanh(z), slope = 1.0 - value * value;
    else if (name == "ln" || name == "log")
        value = std::log(z), slope = 1.0 / z;
    else if (name == "exp")
        value = slope = std::exp(z);
    else
        return {};
    // Where a function hardly depends on its argument, other arguments have the same value.
    const bool flat = std::abs(slope * z) < kSeen * std::abs(value) && z != 0.0;
    const double error = std::abs(slope) * x.error + 8 * kEps * std::abs(value) + kEps;
    const bool vague = z != 0.0 && value != 0.0 && error > 1e-3 * std::abs(value);
    return Approximation{value, error, x.lost || flat || vague};
}

std::optional<Approximation> quotient(const Approximation& a, const Approximation& b) {
    const double size = std::abs(b.value);
    if (!(size > 8 * b.error) || size == 0) return {};
    const Complex value = a.value / b.value;
    return Approximation{
        value, (a.error + std::abs(value) * b.error) / size * 1.2 + kEps * std::abs(value),
        a.lost || b.lost || (a.value != 0.0 && std::abs(value) < kTiny)};
}

std::optional<Approximation> power_value(const Approximation& a, const Approximation& b) {
    if (a.value == 0.0) {
        if (a.error > 0 || b.value.real() <= 0) return {};
        return Approximation{0.0, 0.0, a.lost || b.lost};
    }
    const double n = b.value.real();
    const bool whole =
        b.error == 0 && b.value.imag() == 0 && n == std::round(n) && std::abs(n) < 1e4;
    // The author of a fractional power of a negative number may have meant the real root:
    // undecided.
    if (!whole && a.value.imag() == 0 && a.value.real() < 0) return {};
    if (n * std::log(std::abs(a.value)) > 700)
        return Approximation{std::numeric_limits<double>::infinity(), 0};
    const Complex value =
        whole ? std::pow(a.value, static_cast<int>(n)) : std::pow(a.value, b.value);
    const double relative = std::abs(b.value) * a.error / std::abs(a.value) +
                            std::abs(std::log(a.value)) * b.error + (4 + std::abs(n)) * kEps;
    const bool flat = std::abs(b.value * std::log(a.value)) < kSeen && b.value != 0.0;
    return Approximation{value, std::abs(value) * relative,
                         a.lost || b.lost || std::abs(value) < kTiny || (flat && a.value != 1.0)};
}

Approximation sum(const Approximation& a, const Approximation& b) {
    const Complex value = a.value + b.value;
    const auto [low, high] = std::minmax({std::abs(a.value), std::abs(b.value)});
    const bool lost = a.lost || b.lost || (low > 0 && low < kSeen * high);
    return {value, a.error + b.error + kEps * std::abs(value), lost};
}

Approximation product(const Approximation& a, const Approximation& b) {
    const Complex value = a.value * b.value;
    return {value,
            std::abs(a.value) * b.error + std::abs(b.value) * a.error + a.error * b.error +
                kEps * std::abs(value),
            a.lost || b.lost || (value == 0.0 && a.value != 0.0 && b.value != 0.0) ||
                (value != 0.0 && std::abs(value) < kTiny)};
}

Approximation number_value(const std::string& digits) {
    const double x = std::strtod(digits.c_str(), nullptr);
    const bool exactly = digits.size() < 16 && digits.find('.') == std::string::npos;
    const bool long_one = digits.size() > 13 && digits.find_first_not_of("0.") + 12 < digits.size();
    return {x, exactly ? 0 : kEps * x, !exactly && long_one};
}

Approximation symbol_value(const std::string& name, int point) {
    if (name == "pi") return {std::numbers::pi, kEps};
    if (name == "e") return {std::numbers::e, kEps};
    if (name == "i") return {Complex(0, 1), 0};
    return {point_of(name, point), 0};
}

Approximation square_root(const Approximation& x) {
    // The root of -2 - 0i would be that of -2 + 0i, negated.
    const bool real = x.value.imag() == 0;
    const Complex root = std::sqrt(real ? Complex(x.value.real(), 0) : x.value);
    return {root, x.error / std::abs(root) + kEps * std::abs(root), x.lost};
}

std::optional<Approximation> root_value(const Approximation& x, const Approximation& index) {
    if (x.value.real() < 0 && x.value.imag() == 0) {  // a real cube root
        if (index.value != 3.0) return {};
        const double root = std::cbrt(x.value.real());
        return Approximation{root, std::abs(root) * (x.error / std::abs(x.value) + kEps), x.lost};
    }
    const auto exponent = quotient({1.0, 0}, index);
    return exponent ? power_value(x, *exponent) : std::nullopt;
}

struct Evaluator {
    const Expression& in;
    int point, sign;

    using Value = std::optional<Approximation>;

    Value operator()(Node node) const {
        const auto& [op, text, parts] = in[node];
        switch (op) {
            case Op::kNumber:
                return number_value(text);
            case Op::kSymbol:
                return symbol_value(text, point);
            case Op::kQuantity:
                return (*this)(parts[0]);
            case Op::kDegrees:
            case Op::kAbs:
            case Op::kNegate:
                return unary(op, parts[0]);
            case Op::kAdd:
            case Op::kMultiply:
            case Op::kDivide:
            case Op::kPower:
                return binary(op, parts[0], parts[1]);
            case Op::kRoot:
                return root(parts);
            case Op::kCall:
                return call(text, parts);
            case Op::kFactorial:
                return factorial(parts[0]);
            case Op::kSigns:
                return signs(parts);
            default:
                return {};
        }
    }

    [[nodiscard]] Value unary(Op op, Node part) const {
        const auto x = (*this)(part);
        if (!x) return {};
        if (op == Op::kAbs) return Approximation{std::abs(x->value), x->error, x->lost};
        if (op == Op::kNegate) return Approximation{-x->value, x->error, x->lost};
        constexpr double degree = std::numbers::pi / 180;
        return Approximation{x->value * degree, (x->error + kEps * std::abs(x->value)) * degree,
                             x->lost};
    }

    [[nodiscard]] Value binary(Op op, Node left, Node right) const {
        const auto a = (*this)(left), b = (*this)(right);
        if (!a || !b) return {};
        if (op == Op::kAdd) return sum(*a, *b);
        if (op == Op::kDivide) return quotient(*a, *b);
        if (op == Op::kPower) return power_value(*a, *b);
        return product(*a, *b);
    }

    [[nodiscard]] Value root(const std::vector<Node>& parts) const {
        const auto x = (*this)(parts[0]);
        const auto index = parts.size() > 1 ? (*this)(parts[1]) : Approximation{2.0, 0};
        if (!x || !index) return {};
        if (parts.size() == 1 && x->value != 0.0) return square_root(*x);
        return root_value(*x, *index);
    }

    // Of a function of one argument; parts[1] is the base of a logarithm.
    [[nodiscard]] Value call(const std::string& name, const std::vector<Node>& parts) const {
        const auto x = (*this)(parts[0]);
        if (name == "floor" || name == "ceil") return x ? rounded(name, *x) : x;
        if (name.ends_with("()")) return x ? unknown_value(name, *x) : x;
        auto value = x ? call_value(name, *x) : std::nullopt;
        if (parts.size() == 1 || !value) return value;
        const auto base = (*this)(parts[1]);
        const auto scale = base ? call_value("ln", *base) : std::nullopt;
        return scale ? quotient(*value, *scale) : std::nullopt;
    }

    // A smooth function of its own for every name and point.
    [[nodiscard]] Value unknown_value(const std::string& name, const Approximation& x) const {
        const double a = point_of(name, point), b = point_of(name + "'", point);
        const Complex shifted = a * x.value + b;
        const auto wave =
            call_value("sin", {shifted, std::abs(a) * x.error + kEps * std::abs(shifted), x.lost});
        return wave ? Value(sum({b + 3.0, 0}, *wave)) : std::nullopt;
    }

    [[nodiscard]] static Value rounded(std::string_view name, const Approximation& x) {
        const double sign = name == "ceil" ? -1 : 1, z = sign * x.value.real();
        const double low = std::floor(z - 4 * x.error);
        if (x.value.imag() != 0 || x.lost || low != std::floor(z + 4 * x.error)) return {};
        return Approximation{sign * low, 0, std::abs(low) > 1e15};
    }

    [[nodiscard]] Value factorial(Node part) const {
        const auto n = exact(in, part);
        if (!n || n->den != 1 || n->num < 0 || n->num > 170) return {};
        const double value = std::tgamma(static_cast<double>(n->num) + 1);
        return Approximation{value, 16 * kEps * value};
    }

    [[nodiscard]] Value signs(const std::vector<Node>& parts) const {
        auto x = (*this)(parts.back());
        if (!x) return {};
        x->value *= sign;
        if (parts.size() == 1) return x;
        const auto first = (*this)(parts[0]);
        return first ? Value(sum(*first, *x)) : std::nullopt;
    }
};

}  // namespace

std::optional<Approximation> approximate(const Expression& in, Node node, int point, int sign) {
    const auto out = Evaluator{in, point, sign}(node);
    const bool number = out && !std::isnan(out->value.real()) && !std::isnan(out->value.imag()) &&
                        std::isfinite(out->error);
    return number ? out : std::nullopt;
}

}  // namespace malt
