// Comparing parsed answers.
#include "answers/answers.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <vector>

#include "answers/expression.hpp"
#include "answers/real_sets.hpp"
#include "answers/values.hpp"

namespace malt {
namespace {

using enum Verdict;

// All must agree.
Verdict both(Verdict a, Verdict b) {
    if (a == kDifferent || b == kDifferent) return kDifferent;
    return a == kUnknown || b == kUnknown ? kUnknown : kEqual;
}

struct Side {
    Expression* in;
    Node node;
    int sign = 0;  // of every +-; 0: not chosen yet

    [[nodiscard]] const Expression::Part& part() const { return (*in)[node]; }
    [[nodiscard]] Op op() const { return part().op; }
    [[nodiscard]] Side child(std::size_t i) const { return {in, part().parts[i], sign}; }
    [[nodiscard]] std::size_t size() const { return part().parts.size(); }
};

Verdict compare(Side gold, Side answer);

// ---- numbers and formulas ----

std::string_view without_zeros(std::string_view digits) {
    while (digits.size() > 1 && digits[0] == '0' && digits[1] != '.') digits.remove_prefix(1);
    if (digits.find('.') != std::string_view::npos) {
        while (digits.ends_with('0')) digits.remove_suffix(1);
        if (digits.ends_with('.')) digits.remove_suffix(1);
    }
    return digits;
}

bool uses_log(const Side& side) {  // whose base is anybody's guess
    return any_part(*side.in, side.node, [&](Node node) {
        const auto& [op, text, parts] = (*side.in)[node];
        return op == Op::kCall && text == "log" && parts.size() == 1;
    });
}

// 5 m: is it a length, or five times m? The 5, if it may be a length.
std::optional<Rational> measured(const Expression& in, Node node) {
    if (in[node].op != Op::kMultiply) return {};
    const auto& last = in[in[node].parts[1]];
    const auto& unit = last.op == Op::kPower ? in[last.parts[0]] : last;  // m^3
    const bool is_unit = unit.op == Op::kSymbol && unit.text.size() == 1 &&
                         std::string_view("mgshLVWNJ").find(unit.text) != std::string_view::npos;
    return is_unit ? exact(in, in[node].parts[0]) : std::nullopt;
}

bool divides_by_zero(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        const auto& [op, text, parts] = (*side.in)[node];
        return op == Op::kDivide && exact(*side.in, parts[1]) == Rational{0, 1};
    });
}

// Is `digits` a float printed in full, and `value` what it stands for?
bool prints(const Side& digits, const Rational& value) {
    if (digits.op() == Op::kNegate) return prints(digits.child(0), {-value.num, value.den});
    if (digits.op() != Op::kNumber) return false;
    const std::string_view text = without_zeros(digits.part().text);
    const auto first = text.find_first_of("123456789");
    if (first == std::string_view::npos || text.find('.') == std::string_view::npos) return false;
    const auto figures = text.size() - first - (text.find('.') > first ? 1 : 0);
    const double number = static_cast<double>(value.num) / static_cast<double>(value.den);
    return figures >= 15 &&
           std::abs(std::strtod(text.data(), nullptr) - number) <= 1e-14 * std::abs(number);
}

bool has_kink(const Side& side) {  // |x|, the root of a square
    return any_part(*side.in, side.node, [&](Node node) {
        const auto& part = (*side.in)[node];
        return (part.op == Op::kAbs || part.op == Op::kRoot) &&
               any_part(*side.in, node,
                        [&](Node below) { return (*side.in)[below].op == Op::kSymbol; });
    });
}

// More digits than are computed with: only the same ones are known to be equal.
bool has_endless(const Side& side) {
    return any_part(*side.in, side.node, [&](Node node) {
        return (*side.in)[node].op == Op::kNumber && !exact(*side.in, node);
    });
}

Verdict compare_scalars(const Side& gold, const Side& answer) {
    if (gold.op() == Op::kNegate && answer.op() == Op::kNegate)
        return compare_scalars(gold.child(0), answer.child(0));
    if (gold.op() == Op::kNumber && answer.op() == Op::kNumber) {
        const bool same = without_zeros(gold.part().text) == without_zeros(answer.part().text);
        if (same) return kEqual;
    }
    const auto x = exact(*gold.in, gold.node, gold.sign);
    const auto y = exact(*answer.in, answer.node, answer.sign);
    if (x && y) return *x == *y || prints(gold, *y) || prints(answer, *x) ? kEqual : kDifferent;
    if (const auto number = x && !y ? measured(*answer.in, answer.node) : std::nullopt)
        return *number == *x ? kEqual : kDifferent;  // a gold number has no variable for it
    const auto s = surd(*gold.in, gold.node, gold.sign);
    const auto t = s ? surd(*answer.in, answer.node, answer.sign) : std::nullopt;
    if (s && t) return *s == *t ? kEqual : kDifferent;
    if (divides_by_zero(gold) != divides_by_zero(answer)) return kDifferent;
    if (gold.op() == Op::kNumber && answer.op() == Op::kNumber) return kDifferent;  // endless ones
    bool agree = true;
    for (int point = 0; point < kPoints; ++point) {
        const auto a = approximate(*gold.in, gold.node, point, gold.sign);
        const auto b = approximate(*answer.in, answer.node, point, answer.sign);
        if (!a || !b) return kUnknown;
        const bool huge = std::isinf(a->value.real()), huge_too = std::isinf(b->value.real());
        if (huge && huge_too) return kUnknown;
        const double error = a->error + b->error;
        const bool differ = huge || huge_too || std::abs(a->value - b->value) > 4 * error + 1e-300;
        if (differ && point < kPositive) {
            if (uses_log(gold) || uses_log(answer)) return kUnknown;
            if (measured(*gold.in, gold.node)) return kUnknown;
            return kDifferent;
        }
        if (differ || error > 1e-9 * std::max(1.0, std::abs(a->value))) agree = false;
    }
    // Where |x - 3| bends, one formula may be two.
    for (int far = 0; agree && (has_kink(gold) || has_kink(answer)) && far < kFar; ++far) {
        const auto a = approximate(*gold.in, gold.node, kPoints + far, gold.sign);
        const auto b = approximate(*answer.in, answer.node, kPoints + far, answer.sign);
        if (!a || !b) return kUnknown;
        if (std::abs(a->value - b->value) <= 4 * (a->error + b->error) + 1e-300) continue;
        return far % 2 == 0 ? kDifferent : kUnknown;
    }
    // A rational number is seldom an irrational formula: that needs a proof.
    return agree && !x && !y && !has_endless(gold) && !has_endless(answer) ? kEqual : kUnknown;
}

// ---- several answers ----

bool has_signs(const Side& side) {  // +-
    return any_part(*side.in, side.node,
                    [&](Node node) { return (*side.in)[node].op == Op::kSigns; });
}

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

// Any order, each as often.
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

Verdict compare_in_order(const Side& gold, const Side& answer) {
    if (gold.size() != answer.size()) return kDifferent;
    Verdict all = kEqual;
    for (std::size_t i = 0; i < gold.size(); ++i)
        all = both(all, compare(gold.child(i), answer.child(i)));
    return all;
}

// ---- relations ----

// The set that an inequality says its head is in.
Side as_set(const Side& side) {
    return {side.in, as_interval(*side.in, side.node), side.sign};
}

// Numbers, and all the same: 5 * 3 = 15.
bool all_equal(const Expression& in, const std::vector<Node>& parts) {
    const auto first = exact(in, parts[0]);
    return first && std::ranges::all_of(parts, [&](Node part) { return exact(in, part) == first; });
}

// What a relation says of its head: `x = 5` says 5, `x \in S` says S.
Side said(const Side& side) {
    const auto& [op, signs, parts] = side.part();
    const bool equations =
        std::ranges::all_of(signs, [](char c) { return c == char(Kind::kEqual); });
    const bool about = (equations || signs == std::string(1, char(Kind::kIn)));
    if ((about && is_head(*side.in, parts[0])) || (equations && all_equal(*side.in, parts)))
        return {side.in, parts.back(), side.sign};
    return as_set(side);
}

// Left minus right of an equation, as far as it is linear.
std::optional<Linear> rest_of(const Side& side) {
    const auto left = linear(*side.in, side.child(0).node);
    const auto right = linear(*side.in, side.child(1).node);
    if (!left || !right) return {};
    Linear out = *left;
    for (const auto& [symbol, coefficient] : *right) {
        const auto now = difference(out[symbol], coefficient);
        if (!now) return {};
        out[symbol] = *now;
    }
    std::erase_if(out, [](const auto& term) { return term.second.num == 0; });
    return out;
}

// Is one a multiple of the other?
bool proportional(const Linear& a, const Linear& b) {
    const auto ratio = [](const Rational& x,
                          const Rational& y) {  // in doubles: it is exact or far off
        return static_cast<double>(x.num) / static_cast<double>(x.den) /
               (static_cast<double>(y.num) / static_cast<double>(y.den));
    };
    if (a.size() != b.size() || a.empty()) return false;
    const double first = ratio(a.begin()->second, b.begin()->second);
    return std::ranges::equal(a, b, [&](const auto& x, const auto& y) {
        return x.first == y.first &&
               std::abs(ratio(x.second, y.second) - first) <= 1e-12 * std::abs(first);
    });
}

// Do two equations say the same? Where left minus right is, up to a factor, the same.
Verdict compare_equations(const Side& gold, const Side& answer) {
    const auto x = rest_of(gold), y = rest_of(answer);
    if (x && y && x->size() > 1 && y->size() > 1) return proportional(*x, *y) ? kEqual : kDifferent;
    std::complex<double> factor;
    for (int point = 0; point < kPoints; ++point) {
        std::array<std::complex<double>, 2> rest;
        for (const auto& [side, out] : {std::pair{&gold, &rest[0]}, std::pair{&answer, &rest[1]}}) {
            const auto left = approximate(*side->in, side->child(0).node, point, side->sign);
            const auto right = approximate(*side->in, side->child(1).node, point, side->sign);
            if (!left || !right) return kUnknown;
            *out = left->value - right->value;
        }
        if (std::abs(rest[0]) < 1e-6 || std::abs(rest[1]) < 1e-6) return kUnknown;
        const auto now = rest[0] / rest[1];
        if (point == 0) factor = now;
        if (!(std::abs(now - factor) < 1e-9 * std::abs(factor))) return kUnknown;
    }
    return kEqual;
}

Verdict compare_relations(const Side& gold, const Side& answer) {
    if (gold.part().text == answer.part().text && compare_in_order(gold, answer) == kEqual)
        return kEqual;
    const std::string equation(1, char(Kind::kEqual));
    const auto all_equal = [&](const std::string& signs) {
        return signs.find_first_not_of(equation) == std::string::npos;
    };
    if (all_equal(gold.part().text) && all_equal(answer.part().text)) {
        const Verdict heads = compare(gold.child(0), answer.child(0));
        if (heads == kEqual && is_head(*gold.in, gold.child(0).node))
            return compare(gold.child(gold.size() - 1), answer.child(answer.size() - 1));
        return gold.size() == 2 && answer.size() == 2 ? compare_equations(gold, answer) : kUnknown;
    }
    const Side x = as_set(gold), y = as_set(answer);
    return x.op() == Op::kTuple && y.op() == Op::kTuple ? compare(x, y) : kUnknown;
}

// ---- everything ----

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

// A number or a formula, and not a sum of matrices.
bool has_value(const Side& side) {
    return is_scalar(side.op()) && approximate(*side.in, side.node, 0, 1).has_value();
}

// As sets of real numbers, where one is made of others.
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

// (1, 2) and x = 1, y = 2: in the order of the names.
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

Verdict compare(Side gold, Side answer) {
    while (gold.op() == Op::kDegrees) gold = gold.child(0);
    while (answer.op() == Op::kDegrees) answer = answer.child(0);
    if (gold.op() == Op::kRelation && answer.op() == Op::kRelation)
        return compare_relations(gold, answer);
    if (gold.op() == Op::kRelation || answer.op() == Op::kRelation) {
        Side& related = gold.op() == Op::kRelation ? gold : answer;
        related = said(related);
        if (related.op() != Op::kRelation) return compare(gold, answer);
        const Side& other = gold.op() == Op::kRelation ? answer : gold;
        const bool equation = related.part().text == std::string(1, char(Kind::kEqual)) &&
                              !is_head(*related.in, related.child(1).node);
        return equation && has_value(other) ? kDifferent : kUnknown;  // a^2 + b = 0 is not 0
    }
    const bool mixed_brackets = (gold.op() == Op::kTuple) != (answer.op() == Op::kTuple);
    if ((is_collection(gold) || is_collection(answer)) && !gold.sign && !answer.sign) {
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

// Letters and digits of a phrase, lower case.
std::string plain(std::string_view text) {
    std::string out;
    for (const char c : text)
        if (std::isalnum(static_cast<unsigned char>(c)))
            out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
}

// No operators, brackets or lists, but for the braces of commands.
bool only_words(std::string_view text) {
    return std::ranges::all_of(text, [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) ||
               std::string_view(" \\{}$.'\"~").find(c) != std::string_view::npos;
    });
}

Verdict compare_formulas(std::string_view gold, std::string_view answer) {
    gold = bare(gold), answer = bare(answer);
    if (gold.empty() || answer.empty()) return kDifferent;
    if (gold == answer) return kEqual;
    if (gold.size() > kMaxAnswer || answer.size() > kMaxAnswer) return kDifferent;
    Expression x = parse(gold), y = parse(answer);
    if (x.root < 0 || y.root < 0) return kUnknown;
    const Verdict verdict = compare({&x, x.root}, {&y, y.root});
    const bool words = (x[x.root].op == Op::kWords || y[y.root].op == Op::kWords) &&
                       only_words(gold) && only_words(answer);
    return words && verdict == kDifferent && plain(gold) == plain(answer) ? kEqual : verdict;
}

bool is_formula(std::string_view text) {
    const Expression read = parse(text);
    if (read.root < 0) return false;
    const auto& [op, words, parts] = read[read.root];
    return op != Op::kWords || std::ranges::count(words, ' ') < 3;  // more is prose
}

bool is_number(std::string_view text) {
    if (text.size() > kMaxAnswer) return false;
    Expression read = parse(bare(text));
    if (read.root < 0) return false;
    Side side{&read, read.root};
    if (side.op() == Op::kRelation) side = said(side);
    while (side.op() == Op::kDegrees) side = side.child(0);
    const Op op = side.op() == Op::kNegate ? side.child(0).op() : side.op();
    return op == Op::kNumber || (is_scalar(side.op()) && exact(read, side.node));
}

// ---- letters and texts ----

// The only letter of a text that has no digit, upper case; 0 for other texts.
char lone_letter(std::string_view text) {
    char found = 0;
    for (const char c : text) {
        const auto u = static_cast<unsigned char>(c);
        if (u >= 0x80 || std::isdigit(u)) return 0;
        if (!std::isalpha(u)) continue;
        if (found) return 0;
        found = static_cast<char>(std::toupper(u));
    }
    return found;
}

bool same_words(std::string_view a, std::string_view b) {
    const auto space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
    const auto next = [&](std::string_view& text) {
        const auto begin = std::ranges::find_if_not(text, space);
        const auto end = std::find_if(begin, text.end(), space);
        const std::string_view word(begin, end);
        text = std::string_view(end, text.end());
        return word;
    };
    std::string_view word;
    do {
        word = next(a);
        if (word != next(b)) return false;
    } while (!word.empty());
    return true;
}

bool is_blank(std::string_view text) {
    return text.find_first_not_of(" \t\n\v\f\r") == std::string_view::npos;
}

}  // namespace

std::string_view trimmed(std::string_view text) {
    const auto space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
    while (!text.empty() && space(text.front())) text.remove_prefix(1);
    while (!text.empty() && (space(text.back()) || text.back() == '.')) text.remove_suffix(1);
    return text;
}

std::string_view bare(std::string_view text) {
    text = trimmed(text);
    while (text.starts_with('$')) text.remove_prefix(1);
    while (text.ends_with('$') && !text.ends_with("\\$")) text.remove_suffix(1);
    return trimmed(text);
}

Verdict compare_answers(Grader grader, std::string_view gold, std::string_view answer) {
    if (grader == Grader::kExact)
        return !is_blank(gold) && same_words(gold, answer) ? kEqual : kDifferent;
    if (grader == Grader::kChoice) {
        const char letter = lone_letter(gold);
        return letter && letter == lone_letter(answer) ? kEqual : kDifferent;
    }
    const Verdict verdict = compare_formulas(gold, answer);
    return grader == Grader::kNumber && verdict == kUnknown ? kDifferent : verdict;
}

bool can_read(Grader grader, std::string_view gold) {
    switch (grader) {
        case Grader::kNumber:
            return is_number(gold);
        case Grader::kMath:
            return is_formula(gold);
        case Grader::kChoice:
            return lone_letter(gold) != 0;
        case Grader::kExact:
            return !is_blank(gold);
    }
    return false;
}

}  // namespace malt
