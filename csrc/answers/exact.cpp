// Exact values of numbers, and linear forms.
#include <array>
#include <cmath>
#include <utility>

#include "answers/surds.hpp"
#include "answers/values.hpp"

namespace malt {
namespace {

std::optional<Rational> decimal(std::string_view digits) {
    if (digits.size() > 36) return {};
    Rational out;
    bool point = false;
    for (const char c : digits) {
        if (c == '.') {
            point = true;
            continue;
        }
        out.num = out.num * 10 + (c - '0');
        if (point) out.den *= 10;
    }
    return reduced(out.num, out.den);
}

}  // namespace

std::optional<Rational> exact(const Expression& in, Node node, int sign) {
    const auto& [op, text, parts] = in[node];
    std::array<std::optional<Rational>, 2> of;
    if (op == Op::kNumber) return decimal(text);
    if (op == Op::kQuantity) return exact(in, parts[0], sign);
    if (op == Op::kCall) {
        const auto value = call_value(in, node, sign);
        return value ? rational(*value) : std::nullopt;
    }
    if (op < Op::kAdd || op > Op::kSigns || op == Op::kDegrees) return {};
    for (std::size_t i = 0; i < parts.size() && i < 2; ++i)
        if (!(of[i] = exact(in, parts[i], sign))) return {};
    switch (op) {
        case Op::kAdd:
            return total(*of[0], *of[1]);
        case Op::kNegate:
            return Rational{-of[0]->num, of[0]->den};
        case Op::kMultiply:
            return product(*of[0], *of[1]);
        case Op::kSigns: {
            const Rational& last = *of[parts.size() - 1];
            const Rational turned{last.num * sign, last.den};
            return parts.size() == 1 ? turned : total(*of[0], turned);
        }
        case Op::kDivide:
            return of[1]->num ? product(*of[0], *reduced(of[1]->den, of[1]->num)) : std::nullopt;
        case Op::kPower:
            return power(*of[0], *of[1]);
        case Op::kAbs:
            return Rational{of[0]->num < 0 ? -of[0]->num : of[0]->num, of[0]->den};
        case Op::kRoot: {
            if (parts.size() > 1 && of[1]->den != 1) return {};
            return root(*of[0], parts.size() > 1 ? of[1]->num : 2);
        }
        case Op::kFactorial: {
            if (of[0]->den != 1 || of[0]->num < 0 || of[0]->num > 33) return {};
            Rational out{1, 1};
            for (Integer n = 2; n <= of[0]->num; ++n) out.num *= n;
            return out;
        }
        case Op::kBinomial: {
            const auto [n, k] = std::pair{of[0]->num, of[1]->num};
            if (of[0]->den != 1 || of[1]->den != 1 || n < 0 || n > 60 || k < 0 || k > n) return {};
            Integer out = 1;
            for (Integer i = 1; i <= k; ++i) out = out * (n - k + i) / i;
            return Rational{out, 1};
        }
        default:
            return {};
    }
}

std::optional<Linear> linear(const Expression& in, Node node) {
    if (const auto rational = exact(in, node))
        return rational->num ? Linear{{"", *rational}} : Linear{};
    const auto& [op, text, parts] = in[node];
    if (op == Op::kSymbol) return Linear{{text, {1, 1}}};
    if (op == Op::kQuantity) return linear(in, parts[0]);
    if (op == Op::kNegate) {
        const auto a = linear(in, parts[0]);
        return a ? std::optional(negated(*a)) : std::nullopt;
    }
    if (op == Op::kAdd) {
        const auto a = linear(in, parts[0]), b = linear(in, parts[1]);
        return a && b ? sum_of(*a, *b) : std::nullopt;
    }
    if (op != Op::kMultiply && op != Op::kDivide) return {};
    const bool first = op == Op::kMultiply && exact(in, parts[0]);  // 2x, else x*2 or x/2
    auto scale = exact(in, parts[first ? 0 : 1]);
    if (scale && op == Op::kDivide) scale = inverse(*scale);
    auto form = linear(in, parts[first ? 1 : 0]);
    if (!scale || !form) return {};
    Linear out;
    for (const auto& [symbol, coefficient] : *form) {
        const auto term = product(coefficient, *scale);
        if (!term || !add_term(out, symbol, *term)) return {};
    }
    return out;
}

}  // namespace malt
