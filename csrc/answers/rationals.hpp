// Rational numbers of 128 bits: every function returns nothing on overflow.
#pragma once

#include <optional>

namespace malt {

__extension__ typedef __int128 Integer;

struct Rational {
    Integer num = 0, den = 1;  // den > 0, lowest terms
    bool operator==(const Rational&) const = default;
};

[[nodiscard]] Integer gcd(Integer a, Integer b);
[[nodiscard]] std::optional<Rational> reduced(Integer num, Integer den);
[[nodiscard]] std::optional<Rational> total(const Rational& a, const Rational& b);
[[nodiscard]] std::optional<Rational> difference(const Rational& a, const Rational& b);
[[nodiscard]] std::optional<Rational> product(const Rational& a, const Rational& b);
[[nodiscard]] std::optional<Rational> inverse(const Rational& a);

// base^exponent where that is rational; of a negative base only whole powers.
[[nodiscard]] std::optional<Rational> power(const Rational& base, const Rational& exponent);

// The real root of this degree where it is rational.
[[nodiscard]] std::optional<Rational> root(const Rational& a, Integer degree);

// log of x to the base b where that is rational, with a denominator up to 6.
[[nodiscard]] std::optional<Rational> logarithm(const Rational& base, const Rational& x);

}  // namespace malt
