// Sums of terms with rational coefficients, and the exact values of functions.
#pragma once

#include "answers/values.hpp"

namespace malt {

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

// The value of a sum of roots without roots.
[[nodiscard]] std::optional<Rational> rational(const Surd& a);

[[nodiscard]] std::optional<Surd> product(const Surd& a, const Surd& b);
[[nodiscard]] std::optional<Surd> inverse(const Surd& a);

// -1, 0 or 1; nothing where doubles do not show it.
[[nodiscard]] std::optional<int> sign_of(const Surd& a);

// A call where its value is a sum of roots: sin 60 degrees, log_3 81, floor(4.6).
[[nodiscard]] std::optional<Surd> call_value(const Expression& in, Node call, int sign);

// Are there few enough calls below a node to look for exact values of each? These look several
// times at what is below, so that the time would double from call to call.
[[nodiscard]] bool has_few_calls(const Expression& in, Node node);

// The r of e^r; nothing for other formulas.
[[nodiscard]] std::optional<Rational> exponent_of_e(const Expression& in, Node node);

}  // namespace malt
