// The parts of two answers compared by their kind: collections, ratios, sets, tuples, matrices.
#include "answers/comparison.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "answers/real_sets.hpp"
#include "answers/units.hpp"

namespace malt {
namespace {

using enum Verdict;

constexpr int kMaxCompared = 20'000;

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
        return joins_bounds(*side.in, side.node) || side.op() == Op::kUnion ||
               side.op() == Op::kIntersection || side.op() == Op::kWithout ||
               (side.op() == Op::kSymbol && side.part().text == "R");
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
    const std::string& signs = related.part().text;
    const bool solvable = std::ranges::all_of(
        signs, [](char c) { return c >= char(Kind::kEqual) && c <= char(Kind::kIn); });
    if (!solvable) return kDifferent;
    const bool equation =
        signs == std::string(1, char(Kind::kEqual)) && !is_head(*related.in, related.child(1).node);
    return equation && has_value(other) ? kDifferent : kUnknown;  // a^2 + b = 0 is not 0
}

// A(1,2): a name and its coordinates.
bool is_point(const Side& side) {
    return side.op() == Op::kCall && side.part().text[0] >= 'A' && side.part().text[0] <= 'Z' &&
           side.size() == 1 && side.child(0).op() == Op::kTuple &&
           side.child(0).part().text == "()";
}

bool is_empty(const Side& side) {
    return (side.op() == Op::kSet && side.size() == 0) ||
           (side.op() == Op::kSymbol && side.part().text == "emptyset");
}

// ---- units ----

void collect_units(const Expression& in, Node node, std::vector<std::string>& out) {
    const auto& [op, text, parts] = in[node];
    if (op == Op::kCall) return;  // sin 60 degrees is no angle
    if (op == Op::kDegrees) return out.push_back("degree^1 ");
    if (op == Op::kQuantity && !text.empty()) out.push_back(text);
    if (std::string unit = letter_unit(in, node); !unit.empty())
        return out.push_back(std::move(unit));
    for (const Node part : parts) collect_units(in, part, out);
}

// All units of a side, angles in degrees too, each once.
std::string units_of(const Side& side) {
    std::vector<std::string> found;
    collect_units(*side.in, side.node, found);
    std::ranges::sort(found);
    const auto repeated = std::ranges::unique(found);
    found.erase(repeated.begin(), repeated.end());
    std::string all;
    for (const std::string& unit : found) all += unit;
    return all;
}

Side bare_quantity(Side side) {
    while (side.op() == Op::kDegrees || side.op() == Op::kQuantity) side = side.child(0);
    return side;
}

bool has_unit(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        const Op op = (*side.in)[node].op;
        return op == Op::kQuantity || op == Op::kDegrees;
    });
}

// Where both have units: different if these contradict, and `5 m` is 5 meters.
std::optional<Verdict> compare_quantities(const Side& gold, const Side& answer) {
    if (!is_scalar(gold.op()) || !is_scalar(answer.op())) return {};
    const auto a = letter_quantity(gold), b = letter_quantity(answer);
    if (!(a || has_unit(gold)) || !(b || has_unit(answer))) return {};
    const std::string unit = units_of(gold), other = units_of(answer);
    if (contradict(unit, other)) return kDifferent;
    if (!a && !b) return {};
    const auto x = a ? a : exact(*gold.in, bare_quantity(gold).node, gold.sign);
    const auto y = b ? b : exact(*answer.in, bare_quantity(answer).node, answer.sign);
    return x && y && unit == other ? std::optional(*x == *y ? kEqual : kDifferent) : std::nullopt;
}

std::vector<Side> children(const Side& side) {
    std::vector<Side> out;
    for (std::size_t i = 0; i < side.size(); ++i) out.push_back(side.child(i));
    return out;
}

// Sets that are known by their names only.
bool names_sets(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        return is_variable(*side.in, node) && (*side.in)[node].text != "R" &&
               (*side.in)[node].text != "infty";
    });
}

// ---- kinds of answers that are compared part by part ----

bool has_dots(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        return (*side.in)[node].op == Op::kSymbol && (*side.in)[node].text == "dots";
    });
}

Verdict compare_same_kind(const Side& gold, const Side& answer) {
    const bool alike = gold.op() == answer.op() && gold.part().text == answer.part().text;
    return alike && compare_in_order(gold, answer) == kEqual ? kEqual : kDifferent;
}

// The letter of a choice, with or without its text.
Verdict compare_labelled(const Side& gold, const Side& answer) {
    if (gold.op() == answer.op()) return compare_same_kind(gold, answer);
    const Side& labelled = gold.op() == Op::kLabelled ? gold : answer;
    const Side& other = gold.op() == Op::kLabelled ? answer : gold;
    if (other.op() == Op::kSymbol && other.part().text == labelled.part().text) return kEqual;
    return gold.op() == Op::kLabelled ? compare(gold.child(0), answer)
                                      : compare(gold, answer.child(0));
}

Verdict compare_congruences(const Side& gold, const Side& answer) {
    if (gold.op() != answer.op()) return kDifferent;
    if (gold.size() == 3 && answer.size() == 3 && compare(gold.child(2), answer.child(2)) != kEqual)
        return kDifferent;
    if (compare(gold.child(1), answer.child(1)) != kEqual) return kDifferent;
    const auto modulus = exact(*gold.in, gold.child(1).node);
    const auto a = exact(*gold.in, gold.child(0).node), b = exact(*answer.in, answer.child(0).node);
    const auto apart = a && b ? difference(*a, *b) : std::nullopt;
    const bool integers = apart && modulus && a->den == 1 && b->den == 1 && modulus->den == 1;
    if (integers && modulus->num > 0) return apart->num % modulus->num == 0 ? kEqual : kDifferent;
    return compare(gold.child(0), answer.child(0)) == kEqual ? kEqual : kDifferent;
}

Verdict compare_cases(const Side& gold, const Side& answer) {
    if (gold.op() != answer.op()) return kDifferent;
    return compare_multisets(children(gold), children(answer)) == kEqual ? kEqual : kDifferent;
}

Verdict compare_words(const Side& gold, const Side& answer) {
    const auto meaning = [](const std::string& words) -> std::string_view {
        return words == "yes" ? "true" : words == "no" ? "false" : std::string_view(words);
    };
    if (gold.op() != answer.op()) return kDifferent;
    const std::string &a = gold.part().text, &b = answer.part().text;
    const bool same = gold.op() == Op::kWords ? meaning(a) == meaning(b) : a == b;
    return same ? kEqual : kDifferent;
}

// Lists, sets and +-.
Verdict compare_collections(Side gold, Side answer) {
    const bool mixed_brackets = (gold.op() == Op::kTuple) != (answer.op() == Op::kTuple);
    std::vector<Side> x, y;
    expand(gold, x);
    expand(answer, y);
    if (has_dots(gold) || has_dots(answer)) return compare_same_kind(gold, answer);
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
    if (++gold.in->compared > kMaxCompared) return kDifferent;  // nested without end
    const auto either = [&](Op op) { return gold.op() == op || answer.op() == op; };
    if (either(Op::kLabelled)) return compare_labelled(gold, answer);
    if (const auto verdict = compare_quantities(gold, answer)) return *verdict;
    gold = bare_quantity(gold), answer = bare_quantity(answer);
    if (is_point(gold) && answer.op() == Op::kTuple) gold = gold.child(0);
    if (is_point(answer) && gold.op() == Op::kTuple) answer = answer.child(0);
    if (gold.op() == Op::kRelation && answer.op() == Op::kRelation)
        return compare_relations(gold, answer);
    if (either(Op::kRelation)) return compare_with_relation(gold, answer);
    if (is_empty(gold) || is_empty(answer))
        return is_empty(gold) && is_empty(answer) ? kEqual : kDifferent;
    const bool bounds = joins_bounds(*gold.in, gold.node);
    if (bounds != joins_bounds(*answer.in, answer.node)) {
        if (const auto same = same_sets(gold, answer)) return *same ? kEqual : kDifferent;
    } else if (bounds && gold.part().text != answer.part().text) {
        return kDifferent;  // and, or
    }
    if ((is_collection(gold) || is_collection(answer)) && !gold.sign && !answer.sign)
        return compare_collections(gold, answer);
    if (is_scalar(gold.op()) && is_scalar(answer.op())) return compare_scalars(gold, answer);
    if (either(Op::kWords) || either(Op::kBased)) return compare_words(gold, answer);
    if (either(Op::kRatio)) return compare_ratios(gold, answer);
    if (either(Op::kCongruence)) return compare_congruences(gold, answer);
    if (either(Op::kCases)) return compare_cases(gold, answer);
    if (either(Op::kCondition)) return compare_same_kind(gold, answer);
    if (const auto same = same_sets(gold, answer)) return *same ? kEqual : kDifferent;
    if (gold.op() != answer.op())  // a scalar is no interval; a union may be one
        return has_value(gold) || has_value(answer) || names_sets(gold) ? kDifferent : kUnknown;
    if (gold.op() == Op::kTuple || gold.op() == Op::kMatrix)
        return gold.part().text == answer.part().text ? compare_in_order(gold, answer) : kDifferent;
    Verdict verdict = compare_in_order(gold, answer);
    if (verdict != kEqual && (gold.op() == Op::kUnion || gold.op() == Op::kIntersection))
        verdict = compare_multisets(children(gold), children(answer));
    return verdict == kEqual ? kEqual : names_sets(gold) ? kDifferent : kUnknown;
}

}  // namespace malt
