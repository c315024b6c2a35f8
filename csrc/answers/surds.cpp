// Sums of square roots.
#include "answers/surds.hpp"

#include <cmath>
#include <utility>

namespace malt {
namespace {

constexpr std::int64_t kMaxRadicand = 100'000'000;

// The root of n as (a, b): a times the root of the squarefree b.
std::optional<std::pair<std::int64_t, std::int64_t>> squarefree(Integer n) {
    if (n <= 0 || n > kMaxRadicand) return {};
    std::int64_t root = 1, rest = static_cast<std::int64_t>(n);
    for (std::int64_t p = 2; p * p <= rest; ++p)
        while (rest % (p * p) == 0) rest /= p * p, root *= p;
    return std::pair{root, rest};
}

std::optional<Surd> root_of(const Rational& a) {
    if (a.num == 0) return Surd{};
    Integer under = 0;
    if (a.num < 0 || __builtin_mul_overflow(a.num, a.den, &under)) return {};
    const auto parts = squarefree(under);
    if (!parts) return {};
    return Surd{{parts->second, *reduced(parts->first, a.den)}};
}

}  // namespace

std::optional<Surd> product(const Surd& a, const Surd& b) {
    Surd out;
    for (const auto& [m, x] : a) {
        for (const auto& [n, y] : b) {
            // Both are squarefree: the common factor leaves the root, the rest is squarefree.
            const auto shared = static_cast<std::int64_t>(gcd(m, n));
            const std::int64_t under = (m / shared) * (n / shared);
            const auto scale = product(x, y);
            const auto term = scale ? product(*scale, Rational{shared, 1}) : std::nullopt;
            if (!term || under > kMaxRadicand || !add_term(out, under, *term)) return {};
        }
    }
    return out;
}

// For one or two terms: 1 / (x + y) = (x - y) / (x^2 - y^2).
std::optional<Surd> inverse(const Surd& a) {
    if (a.empty() || a.size() > 2) return {};
    Surd other = a;
    if (a.size() == 2) other.begin()->second.num = -other.begin()->second.num;
    const auto norm = product(a, other);  // rational
    if (!norm || norm->size() != 1 || norm->begin()->first != 1) return {};
    return product(other, Surd{{1, *inverse(norm->begin()->second)}});
}

namespace {

std::optional<Surd> power(const Surd& base, const Surd& exponent) {
    const bool whole = exponent.size() == 1 && exponent.contains(1) && exponent.at(1).den == 1;
    const Integer n = whole ? exponent.at(1).num : 0;
    if (n < 1 || n > 16) return {};
    std::optional<Surd> out = base;
    for (Integer i = 1; i < n && out; ++i) out = product(*out, base);
    return out;
}

Surd from(const Rational& a) {
    return a.num ? Surd{{1, a}} : Surd{};
}

// |x|; also of a + bi.
std::optional<Surd> absolute(const Expression& in, Node node, int sign) {
    if (const auto a = surd(in, node, sign)) {
        const auto side = sign_of(*a);
        return side ? std::optional(*side < 0 ? negated(*a) : *a) : std::nullopt;
    }
    const auto form = linear(in, node);
    if (!form) return {};
    Rational squares;
    for (const auto& [symbol, x] : *form) {
        if (!symbol.empty() && symbol != "i") return {};
        const auto square = product(x, x);
        const auto now = square ? total(squares, *square) : std::nullopt;
        if (!now) return {};
        squares = *now;
    }
    return root_of(squares);
}

// b^(log_b x) is x.
std::optional<Surd> power_of_log(const Expression& in, const std::vector<Node>& parts, int sign) {
    const auto& exponent = in[parts[1]];
    if (exponent.op != Op::kCall || !has_few_calls(in, parts[1])) return {};
    const bool natural = exponent.text == "ln" && exponent_of_e(in, parts[0]) == Rational{1, 1};
    const bool based = exponent.text == "log" && exponent.parts.size() == 2;
    const auto base = based ? exact(in, exponent.parts[1]) : std::nullopt;
    if (!natural && !(base && exact(in, parts[0]) == base)) return {};
    return surd(in, exponent.parts[0], sign);
}

}  // namespace

std::optional<Rational> rational(const Surd& a) {
    if (a.empty()) return Rational{};
    return a.size() == 1 && a.begin()->first == 1 ? std::optional(a.begin()->second) : std::nullopt;
}

std::optional<int> sign_of(const Surd& a) {
    double value = 0, size = 0;
    for (const auto& [under, coefficient] : a) {
        const double term = static_cast<double>(coefficient.num) /
                            static_cast<double>(coefficient.den) *
                            std::sqrt(static_cast<double>(under));
        value += term, size += std::abs(term);
    }
    if (a.empty()) return 0;
    if (std::abs(value) < 1e-9 * size) return {};
    return value < 0 ? -1 : 1;
}

std::optional<Surd> surd(const Expression& in, Node node, int sign) {
    if (const auto number = exact(in, node, sign)) return from(*number);
    const auto& [op, text, parts] = in[node];
    if (parts.empty() || parts.size() > 2) return {};
    if (op == Op::kCall) return call_value(in, node, sign);
    if (op == Op::kQuantity) return surd(in, parts[0], sign);
    if (op == Op::kAbs) return absolute(in, parts[0], sign);
    if (op == Op::kPower)
        if (const auto log = power_of_log(in, parts, sign)) return log;
    if (op == Op::kRoot) {
        const auto under = exact(in, parts[0], sign);
        return under && parts.size() == 1 ? root_of(*under) : std::nullopt;
    }
    const auto a = surd(in, parts[0], sign);
    const auto b = parts.size() == 2 ? surd(in, parts[1], sign) : a;
    if (!a || !b) return {};
    switch (op) {
        case Op::kNegate:
            return negated(*a);
        case Op::kAdd:
            return sum_of(*a, *b);
        case Op::kSigns: {
            const Surd last = sign < 0 ? negated(*b) : *b;
            return parts.size() == 1 ? last : sum_of(*a, last);
        }
        case Op::kMultiply:
            return product(*a, *b);
        case Op::kDivide: {
            const auto below = inverse(*b);
            return below ? product(*a, *below) : std::nullopt;
        }
        case Op::kPower:
            return power(*a, *b);
        default:
            return {};
    }
}

}  // namespace malt
