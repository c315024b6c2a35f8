// Values of the scalar parts of an answer.
//
// Exact for small rational numbers and sums of square roots; otherwise a complex number with an
// error bound, for random values of the symbols. Nothing is simplified, nothing is executed.
#pragma once

#include <complex>
#include <map>
#include <optional>
#include <string>

#include "answers/expression.hpp"
#include "answers/rationals.hpp"

namespace malt {

// The exact value of a scalar part; nothing if it is irrational, too large or has symbols. `sign`
// stands for every +-.
[[nodiscard]] std::optional<Rational> exact(const Expression& in, Node node, int sign = 1);

struct Approximation {
    std::complex<double> value;
    double error;       // absolute
    bool lost = false;  // something that counts is too small for a double to show
};

constexpr int kPoints = 5;    // random values of the symbols,
constexpr int kPositive = 3;  // which at these first are all positive, at the last all negative;
constexpr int kFar = 6;       // and further ones, far out, positive and negative in turn

// A scalar part at a random point. Infinite on overflow; nothing where it has no value.
[[nodiscard]] std::optional<Approximation> approximate(const Expression& in, Node node, int point,
                                                       int sign);

// A sum of square roots: squarefree radicand -> coefficient, none of them 0. As roots of different
// squarefree numbers are independent over the rationals, equal sums have equal terms.
using Surd = std::map<std::int64_t, Rational>;
[[nodiscard]] std::optional<Surd> surd(const Expression& in, Node node, int sign = 1);

// A sum of multiples of symbols: symbol -> coefficient, none of them 0; the constant's is "".
using Linear = std::map<std::string, Rational>;
[[nodiscard]] std::optional<Linear> linear(const Expression& in, Node node);

// Two formulas of integers, symbols, sums, products, quotients, whole powers and factorials are
// compared as fractions modulo primes of 61 bits, at random values of the symbols.
struct Fraction {
    std::uint64_t top, bottom;  // modulo the prime
};
constexpr int kPrimes = 3;
// integers: the symbols are small positive integers, as factorials of symbols need them.
[[nodiscard]] std::optional<Fraction> modular(const Expression& in, Node node, int prime, int point,
                                              int sign, bool integers = false);
[[nodiscard]] bool counts_symbols(const Expression& in, Node node);  // n!, or n over 2
[[nodiscard]] std::uint64_t multiply(std::uint64_t a, std::uint64_t b, int prime);
[[nodiscard]] std::uint64_t subtract(std::uint64_t a, std::uint64_t b, int prime);

}  // namespace malt
