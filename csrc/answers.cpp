// Comparing parsed answers, and finding them in completions.
#include "answers.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <vector>

#include "expression.hpp"

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

// 5 m: is it a length, or five times m?
bool may_have_unit(const Expression& in, Node node) {
    if (in[node].op == Op::kMultiply) {
        const auto& last = in[in[node].parts[1]];
        const auto& unit = last.op == Op::kPower ? in[last.parts[0]] : last;  // m^3
        return unit.op == Op::kSymbol && unit.text.size() == 1 &&
               std::string_view("mgshLVWNJ").find(unit.text) != std::string_view::npos;
    }
    return false;
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

Verdict compare_scalars(const Side& gold, const Side& answer) {
    if (gold.op() == Op::kNumber && answer.op() == Op::kNumber) {
        const bool same = without_zeros(gold.part().text) == without_zeros(answer.part().text);
        if (same) return kEqual;
    }
    const auto x = exact(*gold.in, gold.node, gold.sign);
    const auto y = exact(*answer.in, answer.node, answer.sign);
    if (x && y) return *x == *y || prints(gold, *y) || prints(answer, *x) ? kEqual : kDifferent;
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
            if (may_have_unit(*gold.in, gold.node) || may_have_unit(*answer.in, answer.node))
                return kUnknown;
            return kDifferent;
        }
        if (differ || error > 1e-9 * std::max(1.0, std::abs(a->value))) agree = false;
    }
    // A rational number is seldom an irrational formula: that needs a proof.
    return agree && !x && !y ? kEqual : kUnknown;
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

bool is_head(const Expression& in, Node node) {  // x, f(x), |AB|, (p,q), NO/BO
    constexpr std::array heads{Op::kSymbol, Op::kMultiply, Op::kDivide, Op::kAbs,
                               Op::kTuple,  Op::kWords,    Op::kRatio,  Op::kList};
    return std::ranges::find(heads, in[node].op) != heads.end() &&
           std::ranges::all_of(in[node].parts, [&](Node part) { return is_head(in, part); });
}

bool opens(char kind) {
    return kind == char(Kind::kLess) || kind == char(Kind::kGreater);
}
bool rises(char kind) {
    return kind == char(Kind::kLess) || kind == char(Kind::kLessEqual);
}
bool orders(char kind) {
    return kind >= char(Kind::kLess) && kind <= char(Kind::kGreaterEqual);
}

// The set that `a < x <= b` or `x > a` says x is in; the side itself for other relations.
Side as_interval(const Side& side) {
    const auto [op, signs, parts] = side.part();
    auto& in = *side.in;
    const auto make = [&](Op kind, std::vector<Node> of, std::string text) {
        in.all.push_back({kind, std::move(text), std::move(of)});
        return static_cast<Node>(in.all.size() - 1);
    };
    Node low = -1, high = -1;
    std::string ends = "()";
    const auto bound = [&](char kind, Node node, bool lower) {
        (lower ? low : high) = node;
        if (!opens(kind)) ends[lower ? 0 : 1] = lower ? '[' : ']';
    };
    if (signs.size() == 1 && orders(signs[0])) {
        if (is_head(in, parts[0]))
            bound(signs[0], parts[1], !rises(signs[0]));
        else if (is_head(in, parts[1]))
            bound(signs[0], parts[0], rises(signs[0]));
        else
            return side;
    } else if (signs.size() == 2 && orders(signs[0]) && orders(signs[1]) &&
               rises(signs[0]) == rises(signs[1]) && is_head(in, parts[1])) {
        bound(signs[0], parts[0], rises(signs[0]));
        bound(signs[1], parts[2], !rises(signs[1]));
    } else {
        return side;
    }
    if (low < 0) low = make(Op::kNegate, {make(Op::kSymbol, {}, "infty")}, {});
    if (high < 0) high = make(Op::kSymbol, {}, "infty");
    return {&in, make(Op::kTuple, {low, high}, ends), side.sign};
}

// What a relation says of its head: `x = 5` says 5, `x \in S` says S.
Side said(const Side& side) {
    const auto& [op, signs, parts] = side.part();
    const bool equations =
        std::ranges::all_of(signs, [](char c) { return c == char(Kind::kEqual); });
    if ((equations || signs == std::string(1, char(Kind::kIn))) && is_head(*side.in, parts[0]))
        return {side.in, parts.back(), side.sign};
    return as_interval(side);
}

// Do two equations say the same? Where left minus right is, up to a factor, the same.
Verdict compare_equations(const Side& gold, const Side& answer) {
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
    const Side x = as_interval(gold), y = as_interval(answer);
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

bool is_collection(const Side& side) {
    return side.op() == Op::kList || side.op() == Op::kSet ||
           (is_scalar(side.op()) && has_signs(side));
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
            const bool tuple = mixed_brackets && x.size() != y.size();
            return tuple && gold.op() != Op::kSet && answer.op() != Op::kSet
                       ? kUnknown
                       : compare_multisets(x, y);
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

std::string_view trimmed(std::string_view text) {
    const auto space = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
    while (!text.empty() && space(text.front())) text.remove_prefix(1);
    while (!text.empty() && (space(text.back()) || text.back() == '.')) text.remove_suffix(1);
    return text;
}

// Letters and digits of a phrase, lower case.
std::string plain(std::string_view text) {
    std::string out;
    for (const char c : text)
        if (std::isalnum(static_cast<unsigned char>(c)))
            out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
}

// ---- where the answer stands ----

constexpr auto npos = std::string_view::npos;

// Where the braces that open at `at` close; npos if they never do.
std::size_t closing(std::string_view text, std::size_t at) {
    int depth = 0;
    for (; at < text.size(); ++at) {
        if (text[at] == '\\') {
            ++at;
        } else if (text[at] == '{') {
            ++depth;
        } else if (text[at] == '}' && --depth == 0) {
            return at;
        }
    }
    return npos;
}

struct Box {
    std::size_t begin, end;  // of \boxed{...}
    std::string_view inside;
};

// The last box before `before`. A word stands for braces: \boxed 2. One walk back over the text.
std::optional<Box> last_box(std::string_view text, std::size_t before) {
    while (before > 0) {
        const std::size_t name = before = text.rfind('\\', before - 1);
        if (name == npos) return {};
        const std::string_view rest = text.substr(name);
        std::size_t open = name + (rest.starts_with("\\boxed")  ? 6
                                   : rest.starts_with("\\fbox") ? 5
                                                                : 0);
        const bool longer =
            open < text.size() && std::isalpha(static_cast<unsigned char>(text[open]));
        if (open == name || longer) continue;
        while (open < text.size() && (text[open] == ' ' || text[open] == '\t')) ++open;
        if (open < text.size() && text[open] == '{') {
            const std::size_t close = closing(text, open);
            if (close == npos) return Box{name, text.size(), {}};
            return Box{name, close + 1, text.substr(open + 1, close - open - 1)};
        }
        const std::size_t end = std::min(text.find_first_of(" \t\r\n$", open), text.size());
        return Box{name, end, text.substr(open, end - open)};
    }
    return {};
}

// Does nothing stand between two boxes but `,`, `and` or `or`, perhaps behind one word (a unit)?
bool joins(std::string_view between) {
    if (between.size() > 64) return false;
    std::vector<std::string> words(1);
    bool comma = between.empty();
    for (const char c : between) {
        if (std::isdigit(static_cast<unsigned char>(c)) || c == '=' || c == '+') return false;
        if (c == ',' || c == ';') comma = true;
        if (std::isalpha(static_cast<unsigned char>(c)))
            words.back() += c;
        else if (!words.back().empty())
            words.emplace_back();
    }
    std::erase_if(words, [](const std::string& word) {
        return word.empty() || word == "quad" || word == "text" || word == "mbox";
    });
    if (words.empty()) return comma;
    return words.size() <= 2 && (words.back() == "and" || words.back() == "or");
}

std::string boxed(std::string_view text, Box last) {
    std::string all(last.inside);
    for (int boxes = 1; boxes < 32; ++boxes) {
        const auto before = last_box(text, last.begin);
        if (!before || before->inside.empty() || before->end > last.begin ||
            !joins(text.substr(before->end, last.begin - before->end)))
            break;
        if (before->end == last.begin && before->inside == last.inside) break;  // said twice
        all.insert(0, std::string(before->inside) + ", ");
        last = *before;
    }
    return all;
}

bool is_prose(std::string_view text) {
    const auto tokens = tokens_of(text);
    return std::ranges::count(tokens, Kind::kWord, &Token::kind) > 3;
}

// The inside of the last $...$, \(...\) or \[...\] that is no prose between two prices.
std::optional<std::string_view> last_formula(std::string_view text) {
    std::vector<std::string_view> all;
    const auto keep = [&](std::string_view formula) {
        // $5 and then $7: no formula ends with a word and a space
        const std::size_t n = formula.size();
        const bool prices = n > 2 && formula[n - 1] == ' ' &&
                            std::isalpha(static_cast<unsigned char>(formula[n - 2])) &&
                            std::isalpha(static_cast<unsigned char>(formula[n - 3]));
        if (n <= kMaxAnswer && !prices) all.push_back(formula);
    };
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '\\' && at + 1 < text.size()) {
            const char open = text[at + 1];
            if (open == '(' || open == '[') {
                const std::size_t end = text.find(open == '(' ? "\\)" : "\\]", at + 2);
                if (end == npos) break;
                keep(text.substr(at + 2, end - at - 2));
                at = end;
            }
            ++at;
        } else if (text[at] == '$') {
            const std::size_t begin = text.find_first_not_of('$', at);
            const std::size_t end = begin == npos ? npos : text.find('$', begin);
            if (end == npos) break;
            keep(text.substr(begin, end - begin));
            at = std::min(text.find_first_not_of('$', end), text.size()) - 1;
        }
    }
    for (int tried = 0; tried < 8 && !all.empty(); ++tried, all.pop_back())
        if (!is_prose(all.back())) return all.back();
    return {};
}

std::optional<std::string_view> last_number(std::string_view text) {
    const auto digit = [&](std::size_t i) {
        return i < text.size() && std::isdigit(static_cast<unsigned char>(text[i]));
    };
    std::size_t end = text.size();
    while (end > 0 && !digit(end - 1)) --end;
    if (end == 0) return {};
    std::size_t begin = end;
    while (begin > 0 && (digit(begin - 1) || ((text[begin - 1] == '.' || text[begin - 1] == ',' ||
                                               text[begin - 1] == '/') &&
                                              begin > 1 && digit(begin - 2))))
        --begin;
    if (begin > 0 && (text[begin - 1] == '-' || text[begin - 1] == '.')) --begin;
    return text.substr(begin, end - begin);
}

// Of a sentence that begins with its answer: 5 cars passed in the first 15 minutes.
std::optional<std::string_view> leading_number(std::string_view text) {
    const std::size_t end = text.find_first_not_of("-$0123456789.,");
    if (end == npos || end == 0 || text.size() > kMaxAnswer) return {};
    const std::string_view number = text.substr(0, end);
    std::size_t next = end + (text[end] == '%');
    next = text.find_first_not_of(' ', next);
    const bool word = next != npos && next > end && next + 1 < text.size() &&
                      std::isalpha(static_cast<unsigned char>(text[next])) &&
                      std::isalpha(static_cast<unsigned char>(text[next + 1]));
    return word && number.find_first_of("0123456789") != npos ? std::optional(number)
                                                              : std::nullopt;
}

std::optional<std::string_view> after_marker(std::string_view text) {
    std::size_t best = npos, length = 0;
    for (const std::string_view marker : {"####", "inal Answer:", "inal answer:", "INAL ANSWER:",
                                          "answer is:", "Answer:", "\nA:"}) {
        const std::size_t at = text.rfind(marker);
        if (at != npos && (best == npos || at + marker.size() > best + length))
            best = at, length = marker.size();
    }
    if (best == npos && text.starts_with("A:")) best = 0, length = 2;
    if (best == npos) return {};
    std::string_view rest = trimmed(text.substr(best + length));
    while (!rest.empty() && (rest.front() == '*' || rest.front() == '_' || rest.front() == ' '))
        rest.remove_prefix(1);
    return trimmed(rest.substr(0, rest.find('\n')));
}

// Without white space, a full stop and dollar signs around it.
std::string_view bare(std::string_view text) {
    text = trimmed(text);
    while (text.starts_with('$')) text.remove_prefix(1);
    while (text.ends_with('$') && !text.ends_with("\\$")) text.remove_suffix(1);
    return trimmed(text);
}

std::optional<std::string> answer_in(std::string_view text) {
    text = trimmed(text.substr(0, text.find("<|")));  // a template's end of turn, and what follows
    const bool brief = text.size() <= kMaxAnswer, prose = !brief || is_prose(text);
    if (!prose && is_answer(text)) return std::string(text);
    if (brief && text.starts_with('$') && text.ends_with('$') && bare(text).find('$') == npos)
        return std::string(bare(text));
    if (const std::size_t line = text.rfind('\n'); line != npos)
        if (const auto last = answer_in(text.substr(line + 1))) return last;
    if (const auto formula = last_formula(text)) {
        const auto end = static_cast<std::size_t>(formula->data() - text.data()) + formula->size();
        const bool display = text.substr(end).starts_with("$$ ");
        const std::size_t sentence = display ? end : text.find(". ", end);  // may say a number
        const auto later = sentence == npos ? std::nullopt : last_number(text.substr(sentence));
        return std::string(later ? *later : trimmed(*formula));
    }
    if (const auto number = leading_number(text)) return std::string(*number);
    if (!prose && text.find('\\') != npos) return std::string(text);  // a formula beyond us
    if (const auto number = last_number(text)) return std::string(*number);
    return {};
}

}  // namespace

bool is_answer(std::string_view text) {
    const Expression read = parse(text);
    if (read.root < 0) return false;
    const auto& [op, text_of, parts] = read[read.root];
    return op != Op::kWords || std::ranges::count(text_of, ' ') < 3;  // more is prose
}

Verdict compare_answers(std::string_view gold, std::string_view answer) {
    gold = bare(gold), answer = bare(answer);
    if (gold.empty() || answer.empty()) return kDifferent;
    if (gold == answer) return kEqual;
    if (gold.size() > kMaxAnswer || answer.size() > kMaxAnswer) return kDifferent;
    Expression x = parse(gold), y = parse(answer);
    if (x.root < 0 || y.root < 0) return kUnknown;
    const Verdict verdict = compare({&x, x.root}, {&y, y.root});
    const bool words = x[x.root].op == Op::kWords || y[y.root].op == Op::kWords;
    return words && verdict == kDifferent && plain(gold) == plain(answer) ? kEqual : verdict;
}

std::optional<std::string> math_answer(std::string_view completion) {
    if (completion.size() > kMaxCompletion)
        completion.remove_prefix(completion.size() - kMaxCompletion);
    std::optional<std::string> found;
    if (const auto box = last_box(completion, completion.size())) {
        found = boxed(completion, *box);
    } else if (const auto marked = after_marker(completion)) {
        found = answer_in(*marked);
    } else {
        found = answer_in(trimmed(completion));
    }
    if (found && trimmed(*found).empty()) return {};
    return found;
}

}  // namespace malt
