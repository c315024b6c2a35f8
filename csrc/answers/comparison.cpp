// The parts of two answers compared by their kind: collections, ratios, sets, tuples, matrices.
#include "answers/comparison.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "answers/real_sets.hpp"

namespace malt {
namespace {

using enum Verdict;

// Uses +-.
bool has_signs(const Side& side) {
    return any_part(*side.in, side.node,
                    [&](Node node) { return (*side.in)[node].op == Op::kSigns; });
}

// The answers that a list, a set or a +- stands for.
void expand(const Side& side, std::vector<Side>& out) {
    if (side.op() == Op::kList || side.op() == Op::kSet) {
        for (std::size_t i = 0; i < side.size(); ++i) expand(side.child(i), out);
    } else if (has_signs(side)) {
        out.push_back({side.in, side.node, 1});
        out.push_back({side.in, side.node, -1});
    } else {
        out.push_back(side);
    }
}

// In any order, each as often as the other.
Verdict compare_multisets(const std::vector<Side>& gold, const std::vector<Side>& answer) {
    if (gold.size() != answer.size()) return kDifferent;
    std::vector<bool> used(answer.size());
    Verdict all = kEqual;
    for (const Side& one : gold) {
        bool found = false, unsure = false;
        for (std::size_t i = 0; i < answer.size() && !found; ++i) {
            if (used[i]) continue;
            const Verdict verdict = compare(one, answer[i]);
            unsure = unsure || verdict == kUnknown;
            if (verdict == kEqual) used[i] = found = true;
        }
        if (!found) all = both(all, unsure ? kUnknown : kDifferent);
    }
    return all;
}

bool has_symbol(const Side& side, std::string_view name) {
    return any_part(*side.in, side.node, [&](Node node) {
        return (*side.in)[node].op == Op::kSymbol && (*side.in)[node].text == name;
    });
}

Verdict compare_ratios(const Side& gold, const Side& answer) {
    if (gold.op() != answer.op() || gold.size() != answer.size()) return kDifferent;
    if (gold.size() == 2) {
        std::array<std::optional<Rational>, 4> n;
        for (std::size_t i = 0; i < 2; ++i) {
            n[i] = exact(*gold.in, gold.child(i).node);
            n[2 + i] = exact(*answer.in, answer.child(i).node);
        }
        const auto small = [](const std::optional<Rational>& x) {
            return x && x->num < 1'000'000'000 && x->num > -1'000'000'000 && x->den < 1'000'000;
        };
        const auto half = [](const Side& side) {
            return has_symbol(side, "am") ? 1 : has_symbol(side, "pm") ? 2 : 0;
        };
        if (half(gold) && half(answer) && half(gold) != half(answer)) return kDifferent;
        const bool clock = n[1] == Rational{0, 1} || n[3] == Rational{0, 1};  // 12:00
        if (!clock && std::ranges::all_of(n, small)) {
            const auto left = n[0]->num * n[1]->den * n[3]->num * n[2]->den;
            const auto right = n[1]->num * n[0]->den * n[2]->num * n[3]->den;
            return left == right ? kEqual : kDifferent;
        }
    }
    return compare_in_order(gold, answer);
}

// A number or a formula, not a sum of matrices.
bool has_value(const Side& side) {
    return is_scalar(side.op()) && approximate(*side.in, side.node, 0, 1).has_value();
}

// As sets of real numbers, where one of them is a union, intersection or difference.
std::optional<bool> same_sets(const Side& gold, const Side& answer) {
    const auto made = [](const Side& side) {
        return side.op() == Op::kUnion || side.op() == Op::kIntersection ||
               side.op() == Op::kWithout;
    };
    if (!made(gold) && !made(answer)) return {};
    const auto x = real_set(*gold.in, gold.node), y = real_set(*answer.in, answer.node);
    return x && y ? same(*x, *y) : std::nullopt;
}

bool is_collection(const Side& side) {
    return side.op() == Op::kList || side.op() == Op::kSet ||
           (is_scalar(side.op()) && has_signs(side));
}

// (1, 2) and x = 1, y = 2: equations in the order of their names.
Verdict compare_named(const Side& tuple, std::vector<Side> list) {
    const auto name = [](const Side& side) -> std::string_view {
        const bool equation = side.op() == Op::kRelation && side.size() == 2 &&
                              side.part().text == std::string(1, char(Kind::kEqual)) &&
                              side.child(0).op() == Op::kSymbol;
        return equation ? std::string_view(side.child(0).part().text) : std::string_view();
    };
    if (list.size() != tuple.size()) return kDifferent;
    if (std::ranges::any_of(list, [&](const Side& side) { return name(side).empty(); }))
        return kDifferent;
    std::ranges::sort(list, {}, name);
    Verdict all = kEqual;
    for (std::size_t i = 0; i < list.size(); ++i)
        all = both(all, compare(tuple.child(i), list[i].child(1)));
    return all;
}

// One of the two is a relation: compare what it states with the other.
Verdict compare_with_relation(Side gold, Side answer) {
    Side& related = gold.op() == Op::kRelation ? gold : answer;
    related = stated(related);
    if (related.op() != Op::kRelation) return compare(gold, answer);
    const Side& other = gold.op() == Op::kRelation ? answer : gold;
    const bool equation = related.part().text == std::string(1, char(Kind::kEqual)) &&
                          !is_head(*related.in, related.child(1).node);
    return equation && has_value(other) ? kDifferent : kUnknown;  // a^2 + b = 0 is not 0
}

// Lists, sets and +-.
Verdict compare_collections(Side gold, Side answer) {
    const bool mixed_brackets = (gold.op() == Op::kTuple) != (answer.op() == Op::kTuple);
    std::vector<Side> x, y;
    expand(gold, x);
    expand(answer, y);
    if (x.size() > 1 || y.size() > 1) {
        if (!mixed_brackets || x.size() == y.size()) return compare_multisets(x, y);
        // A list that is meant as a tuple lacks its brackets, which say what it is.
        return gold.op() == Op::kTuple ? compare_named(gold, y) : compare_named(answer, x);
    }
    if (is_collection(gold) && x.size() == 1) gold = x[0];
    if (is_collection(answer) && y.size() == 1) answer = y[0];
    if (x.empty() || y.empty()) return x.size() == y.size() ? kEqual : kUnknown;
    return compare(gold, answer);
}

}  // namespace

Verdict both(Verdict a, Verdict b) {
    if (a == kDifferent || b == kDifferent) return kDifferent;
    return a == kUnknown || b == kUnknown ? kUnknown : kEqual;
}

Verdict compare_in_order(const Side& gold, const Side& answer) {
    if (gold.size() != answer.size()) return kDifferent;
    Verdict all = kEqual;
    for (std::size_t i = 0; i < gold.size(); ++i)
        all = both(all, compare(gold.child(i), answer.child(i)));
    return all;
}

Verdict compare(Side gold, Side answer) {
    while (gold.op() == Op::kDegrees) gold = gold.child(0);
    while (answer.op() == Op::kDegrees) answer = answer.child(0);
    if (gold.op() == Op::kRelation && answer.op() == Op::kRelation)
        return compare_relations(gold, answer);
    if (gold.op() == Op::kRelation || answer.op() == Op::kRelation)
        return compare_with_relation(gold, answer);
    if ((is_collection(gold) || is_collection(answer)) && !gold.sign && !answer.sign)
        return compare_collections(gold, answer);
    if (is_scalar(gold.op()) && is_scalar(answer.op())) return compare_scalars(gold, answer);
    const auto either = [&](Op op) { return gold.op() == op || answer.op() == op; };
    if (either(Op::kWords) || either(Op::kBased))
        return gold.op() == answer.op() && gold.part().text == answer.part().text ? kEqual
                                                                                  : kDifferent;
    if (either(Op::kRatio)) return compare_ratios(gold, answer);
    if (const auto same = same_sets(gold, answer)) return *same ? kEqual : kDifferent;
    if (gold.op() != answer.op())  // a scalar is no interval; a union may be one
        return has_value(gold) || has_value(answer) ? kDifferent : kUnknown;
    if (gold.op() == Op::kTuple || gold.op() == Op::kMatrix)
        return gold.part().text == answer.part().text ? compare_in_order(gold, answer) : kDifferent;
    if (gold.op() == Op::kUnion) {
        std::vector<Side> x, y;
        for (std::size_t i = 0; i < gold.size(); ++i) x.push_back(gold.child(i));
        for (std::size_t i = 0; i < answer.size(); ++i) y.push_back(answer.child(i));
        return x.size() == y.size() ? compare_multisets(x, y) : kUnknown;
    }
    return compare_in_order(gold, answer) == kEqual ? kEqual : kUnknown;
}

}  // namespace malt
