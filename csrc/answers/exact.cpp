// Exact values: rational numbers of 128 bits, sums of square roots, linear forms.
#include <array>
#include <cmath>
#include <utility>

#include "answers/values.hpp"

namespace malt {
namespace {

Integer gcd(Integer a, Integer b) {
    while (b) a = std::exchange(b, a % b);
    return a < 0 ? -a : a;
}

std::optional<Rational> reduced(Integer num, Integer den) {
    if (den == 0) return {};
    const Integer g = gcd(num, den);
    if (den < 0) num = -num, den = -den;
    return Rational{num / g, den / g};
}

bool times(Integer a, Integer b, Integer& out) {
    return !__builtin_mul_overflow(a, b, &out);
}

std::optional<Rational> product(const Rational& a, const Rational& b) {
    Integer num = 0, den = 0;
    if (!times(a.num, b.num, num) || !times(a.den, b.den, den)) return {};
    return reduced(num, den);
}

std::optional<Rational> total(const Rational& a, const Rational& b) {
    Integer x = 0, y = 0, num = 0, den = 0;
    if (!times(a.num, b.den, x) || !times(b.num, a.den, y) || !times(a.den, b.den, den)) return {};
    if (__builtin_add_overflow(x, y, &num)) return {};
    return reduced(num, den);
}

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

std::optional<Rational> power(Rational base, Rational exponent) {
    if (exponent.den != 1 || exponent.num > 256 || exponent.num < -256) return {};
    if (exponent.num < 0) {
        if (base.num == 0) return {};
        base = *reduced(base.den, base.num);
    }
    std::optional<Rational> out = Rational{1, 1};
    for (Integer n = exponent.num < 0 ? -exponent.num : exponent.num; n > 0 && out; --n)
        out = product(*out, base);
    return out;
}

// The root of a perfect square; -1 for others.
Integer square_root(Integer n) {
    if (n < 0 || n > (Integer{1} << 100)) return -1;
    auto guess = static_cast<Integer>(std::sqrt(static_cast<double>(n)));
    for (Integer r = guess > 0 ? guess - 1 : 0; r <= guess + 1; ++r)
        if (r * r == n) return r;
    return -1;
}

std::optional<Rational> inverse(const Rational& a) {
    return reduced(a.den, a.num);
}

// ---- sums of terms ----

constexpr std::size_t kMaxTerms = 16;

template <class Key>
bool add_term(std::map<Key, Rational>& sum, const Key& key, const Rational& coefficient) {
    auto& term = sum[key];
    const auto now = total(term, coefficient);
    if (!now) return false;
    term = *now;
    if (term.num == 0) sum.erase(key);
    return sum.size() <= kMaxTerms;
}

template <class Key>
std::optional<std::map<Key, Rational>> sum_of(std::map<Key, Rational> a,
                                              const std::map<Key, Rational>& b) {
    for (const auto& [key, coefficient] : b)
        if (!add_term(a, key, coefficient)) return {};
    return a;
}

template <class Key>
std::map<Key, Rational> negated(std::map<Key, Rational> a) {
    for (auto& [key, coefficient] : a) coefficient.num = -coefficient.num;
    return a;
}

// ---- square roots ----

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
    if (a.num < 0 || !times(a.num, a.den, under)) return {};
    const auto parts = squarefree(under);
    if (!parts) return {};
    return Surd{{parts->second, *reduced(parts->first, a.den)}};
}

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

}  // namespace

std::optional<Rational> exact(const Expression& in, Node node, int sign) {
    const auto& [op, text, parts] = in[node];
    std::array<std::optional<Rational>, 2> of;
    if (op == Op::kNumber) return decimal(text);
    if (op < Op::kAdd || op > Op::kSigns || op == Op::kCall || op == Op::kDegrees) return {};
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
            const Integer top = square_root(of[0]->num), bottom = square_root(of[0]->den);
            if (parts.size() > 1 || top < 0 || bottom < 0) return {};
            return Rational{top, bottom};
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

std::optional<Surd> surd(const Expression& in, Node node, int sign) {
    if (const auto rational = exact(in, node, sign)) return from(*rational);
    const auto& [op, text, parts] = in[node];
    if (parts.empty() || parts.size() > 2) return {};
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

std::optional<Linear> linear(const Expression& in, Node node) {
    if (const auto rational = exact(in, node))
        return rational->num ? Linear{{"", *rational}} : Linear{};
    const auto& [op, text, parts] = in[node];
    if (op == Op::kSymbol) return Linear{{text, {1, 1}}};
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

std::optional<Rational> difference(const Rational& a, const Rational& b) {
    return total(a, {-b.num, b.den});
}

}  // namespace malt
