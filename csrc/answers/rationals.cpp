// Arithmetic of rational numbers, checked for overflow.
#include "answers/rationals.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace malt {
namespace {

constexpr Integer kMaxExponent = 256;

bool times(Integer a, Integer b, Integer& out) {
    return !__builtin_mul_overflow(a, b, &out);
}

// base^n of integers; nothing on overflow.
std::optional<Integer> integer_power(Integer base, Integer n) {
    Integer out = 1;
    for (; n > 0; --n)
        if (!times(out, base, out)) return {};
    return out;
}

// The root of a perfect power; nothing for others.
std::optional<Integer> integer_root(Integer n, Integer degree) {
    if (n < 0 || n > (Integer{1} << 100)) return {};
    const auto guess =
        static_cast<Integer>(std::pow(static_cast<double>(n), 1.0 / static_cast<double>(degree)));
    for (Integer r = std::max<Integer>(guess - 1, 0); r <= guess + 1; ++r)
        if (integer_power(r, degree) == n) return r;
    return {};
}

std::optional<Rational> whole_power(Rational base, Integer n) {
    if (n < 0) {
        const auto inverted = inverse(base);
        if (!inverted) return {};
        base = *inverted, n = -n;
    }
    const auto num = integer_power(base.num, n), den = integer_power(base.den, n);
    return num && den ? std::optional(Rational{*num, *den}) : std::nullopt;
}

bool below_one(const Rational& a) {
    return a.num < a.den;
}

}  // namespace

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

std::optional<Rational> total(const Rational& a, const Rational& b) {
    Integer x = 0, y = 0, num = 0, den = 0;
    if (!times(a.num, b.den, x) || !times(b.num, a.den, y) || !times(a.den, b.den, den)) return {};
    if (__builtin_add_overflow(x, y, &num)) return {};
    return reduced(num, den);
}

std::optional<Rational> difference(const Rational& a, const Rational& b) {
    return total(a, {-b.num, b.den});
}

std::optional<Rational> product(const Rational& a, const Rational& b) {
    Integer num = 0, den = 0;
    if (!times(a.num, b.num, num) || !times(a.den, b.den, den)) return {};
    return reduced(num, den);
}

std::optional<Rational> inverse(const Rational& a) {
    return reduced(a.den, a.num);
}

std::optional<Rational> root(const Rational& a, Integer degree) {
    if (degree < 1 || degree > 100 || (a.num < 0 && degree % 2 == 0)) return {};
    const auto top = integer_root(a.num < 0 ? -a.num : a.num, degree);
    const auto bottom = integer_root(a.den, degree);
    if (!top || !bottom) return {};
    return Rational{a.num < 0 ? -*top : *top, *bottom};
}

std::optional<Rational> power(const Rational& base, const Rational& exponent) {
    if (exponent.num > kMaxExponent || exponent.num < -kMaxExponent) return {};
    if (exponent.den == 1) return whole_power(base, exponent.num);
    const auto under = base.num > 0 ? root(base, exponent.den) : std::nullopt;
    return under ? whole_power(*under, exponent.num) : std::nullopt;
}

std::optional<Rational> logarithm(const Rational& base, const Rational& x) {
    if (base.num <= 0 || x.num <= 0 || base == Rational{1, 1}) return {};
    if (x == Rational{1, 1}) return Rational{0, 1};
    const bool flipped = below_one(base) != below_one(x);
    const Rational b = below_one(base) ? *inverse(base) : base;
    const Rational y = below_one(x) ? *inverse(x) : x;
    for (Integer q = 1; q <= 6; ++q) {
        const auto wanted = whole_power(y, q);
        if (!wanted) return {};
        std::optional<Rational> now = b;
        for (Integer p = 1; p <= kMaxExponent && now; ++p, now = product(*now, b))
            if (*now == *wanted) return reduced(flipped ? -p : p, q);
    }
    return {};
}

}  // namespace malt
