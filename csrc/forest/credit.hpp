// Credit: the value of every node, and whether it is a positive or a negative example.
//
// value of a graded leaf = its outcome; value of any other node = the mean over its children that
// have one. Failed, unfinished and ungraded nodes have no value and are left out of their parent's
// mean. A node is positive when its value passes the threshold, else negative (MALT, arXiv
// 2412.01928, section 3.2). Values are exact fractions, so a tie at the threshold is a tie.
// One reverse sweep; 25 bytes per node.
#pragma once

#include <cstdint>
#include <vector>

#include "forest/forest.hpp"

namespace malt {

__extension__ typedef __int128 Wide;

struct Fraction {
    std::int64_t num = 0;
    std::int64_t den = 0;  // 0: no value

    [[nodiscard]] bool exists() const { return den != 0; }
    // NaN if it does not exist.
    [[nodiscard]] double number() const {
        return static_cast<double>(num) / static_cast<double>(den);
    }
};
static_assert(sizeof(Fraction) == 16);

[[nodiscard]] inline bool less(Fraction a, Fraction b) {
    return Wide{a.num} * b.den < Wide{b.num} * a.den;
}

// The mean of the fractions that exist; throws std::domain_error when its denominator passes 2**63.
[[nodiscard]] Fraction mean_of(std::span<const Fraction> values);

enum class Mean : std::uint8_t { kChildren, kLeaves };  // of the children's values, of all leaves
enum class Pooling : std::uint8_t { kGlobal, kLocal };  // pool children's values, or their labels

enum class Label : std::int8_t { kNone = -1, kNegative, kPositive };

struct CreditRule {
    Fraction threshold{1, 2};
    bool inclusive = false;  // does a value equal to the threshold pass it?
    Mean mean = Mean::kChildren;
    Pooling pooling = Pooling::kGlobal;

    [[nodiscard]] bool positive(Fraction value) const {
        return less(threshold, value) || (inclusive && !less(value, threshold));
    }
    [[nodiscard]] Label label(Fraction value) const {
        if (!value.exists()) return Label::kNone;
        return positive(value) ? Label::kPositive : Label::kNegative;
    }
};

struct Credit {
    CreditRule rule;
    std::vector<Fraction> exact;
    std::vector<double> value;  // NaN: none
    std::vector<Label> label;
};

[[nodiscard]] Credit assign_credit(const Nodes& nodes, const CreditRule& rule);

}  // namespace malt
