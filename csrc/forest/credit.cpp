// Values of nodes from their children's, in one reverse sweep: children have larger ids than their
// parents, so they are always ready.
#include "forest/credit.hpp"

#include <array>
#include <numeric>
#include <stdexcept>

namespace malt {
namespace {

std::int64_t product(std::int64_t a, std::int64_t b) {
    std::int64_t result = 0;
    if (__builtin_mul_overflow(a, b, &result)) {
        throw std::domain_error(
            "the denominator of a value exceeds 2**63, so credit cannot be exact: "
            "use fewer children per node or mean=\"leaves\"");
    }
    return result;
}

// The share of correct leaves among all leaves below: the children's counts, added up.
Fraction pooled(std::span<const Fraction> children) {
    Fraction sum;
    for (const Fraction child : children) {
        sum.num += child.num;
        sum.den += child.den;
    }
    return sum;
}

Fraction share_of_positives(std::span<const Label> children) {
    Fraction share;
    for (const Label child : children) {
        share.num += child == Label::kPositive;
        share.den += child != Label::kNone;
    }
    return share;
}

}  // namespace

Fraction mean_of(std::span<const Fraction> values) {
    Wide num = 0;  // at most den * count, since values are at most 1
    std::int64_t den = 1;
    std::int64_t count = 0;
    for (const Fraction value : values) {
        if (!value.exists()) continue;
        ++count;
        if (value.den == den) {
            num += value.num;
            continue;
        }
        const std::int64_t common = product(den / std::gcd(den, value.den), value.den);
        num = num * (common / den) + Wide{value.num} * (common / value.den);
        den = common;
    }
    if (count == 0) return {};
    const std::int64_t mean_den = product(den, count);
    return {static_cast<std::int64_t>(num), mean_den};
}

Credit assign_credit(const Nodes& nodes, const CreditRule& rule) {
    const std::size_t n = nodes.size();
    Credit credit{rule, std::vector<Fraction>(n), std::vector<double>(n), std::vector<Label>(n)};

    const auto value_of = [&](std::size_t v) -> Fraction {
        const std::size_t count = nodes.n_children[v];
        if (count == 0) return {};
        const std::size_t first = nodes.first_child[v];
        const std::span<const Fraction> exact = std::span{credit.exact}.subspan(first, count);
        const std::span<const Label> labels = std::span{credit.label}.subspan(first, count);
        if (rule.pooling == Pooling::kLocal) return share_of_positives(labels);
        return rule.mean == Mean::kLeaves ? pooled(exact) : mean_of(exact);
    };
    const auto set = [&](std::size_t v, Fraction value, double number, Label label) {
        credit.exact[v] = value;
        credit.value[v] = number;
        credit.label[v] = label;
    };
    const std::array<Label, 2> leaf_label{rule.label({0, 1}), rule.label({1, 1})};
    for (std::size_t v = n; v-- > 0;) {
        const std::uint8_t outcome = nodes.outcome[v];
        if (outcome != kUngraded) {
            set(v, {outcome, 1}, outcome, leaf_label[outcome]);
            continue;
        }
        const Fraction value = value_of(v);
        set(v, value, value.number(), rule.label(value));
    }
    return credit;
}

}  // namespace malt
