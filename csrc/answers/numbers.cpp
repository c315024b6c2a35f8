// Numbers with their signs, scales and units, and the words around them.
#include "answers/numbers.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "answers/answers.hpp"
#include "answers/measures.hpp"
#include "answers/roles.hpp"
#include "answers/sentences.hpp"
#include "answers/stance.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

struct Span {
    std::size_t begin, end;
};

// Is the number that begins at `begin` an index, or the exponent of a name or a group: m^2, s^{-2},
// or m2?
bool is_exponent(View text, std::size_t begin) {
    std::size_t at = begin;
    while (at > 0 && (text[at - 1] == '{' || text[at - 1] == '-' || text[at - 1] == '(')) --at;
    if (at > 1 && text[at - 1] == '_') return true;
    if (at > 1 && text[at - 1] == '^') return !is_digit(text[at - 2]);
    if (at != begin || at == 0 || !is_alpha(text[at - 1])) return false;
    while (at > 0 && is_alpha(text[at - 1])) --at;  // 48 m2, of short units only
    constexpr auto units = std::to_array<View>({"m", "cm", "mm", "km", "ft", "in", "yd", "mi"});
    return std::ranges::find(units, text.substr(at, begin - at)) != units.end();
}

// Does the number between these count the items of a list: 2. Add them.
bool is_index(View text, Span number) {
    const View rest = text.substr(number.end);
    if (number.end - number.begin > 2 || rest.size() < 3 || View(".)").find(rest[0]) == npos ||
        rest[1] != ' ' || !alpha_at(without_lead(rest, ".) *_"), 0))
        return false;
    View before = text.substr(0, number.begin);
    before = before.substr(before.size() - std::min<std::size_t>(before.size(), 16));
    before = before.substr(0, before.find_last_not_of(" \t*_#") + 1);
    return before.empty() || before.ends_with('\n');
}

// The number that ends before `end`: 1,200.50, 7/20, 3:1, 2^5.
std::optional<Span> number_before(View text, std::size_t end) {
    while (end > 0) {
        while (end > 0 && !is_digit(text[end - 1])) --end;
        if (end == 0) return {};
        std::size_t begin = end;
        while (begin > 0 &&
               (is_digit(text[begin - 1]) || (View(".,/:^'~").find(text[begin - 1]) != npos &&
                                              begin > 1 && is_digit(text[begin - 2]))))
            --begin;
        const Span number{begin, end};
        if (!is_exponent(text, begin) && !is_index(text, number) &&
            !is_reference(text.substr(0, begin)))
            return number;
        end = begin;
    }
    return {};
}

// The length of a minus sign at the end of a text: - \u2212, or an en dash behind a space.
std::size_t minus(View before) {
    if (before.ends_with('-')) return 1;
    if (before.ends_with("\u2212") || before.ends_with(" \u2013")) return 3;
    return 0;
}

// The number in its spelling, with its sign, and with the Chinese power of ten behind it.
std::string spelt(View text, Span number) {
    std::string out;
    View before = text.substr(0, number.begin);
    const bool point = before.ends_with('.');
    if (point) before.remove_suffix(1);
    if (minus(before) || ends(before, "negative ") || ends(before, "minus ") ||
        before.ends_with("\u8d1f"))
        out += '-';
    if (point) out += '.';
    out += text.substr(number.begin, number.end - number.begin);
    out += factor_of(text.substr(number.end));
    return out;
}

// The formula without dollar signs that a last number belongs to: \frac{3}{4}, x^2+1.
std::optional<std::string> formula_around(View text, Span number) {
    constexpr std::size_t window = 64;
    const std::size_t low = number.begin > window ? number.begin - window : 0;
    const std::size_t space = text.find_last_of(" \t\r\n$", number.begin);
    const std::size_t begin = space == npos || space < low ? low : space + 1;
    const std::size_t stop =
        text.substr(0, number.end + window).find_first_of(" \t\r\n$", number.end);
    View run = text.substr(begin, std::min(stop, text.size()) - begin);
    run = run.substr(0, run.find_last_not_of(",;.:!?") + 1);
    const bool last = begin + run.size() == number.end;  // x^2+1
    if (run.substr(0, number.begin - begin).find_first_of(last ? "\\^+*" : "\\") == npos) return {};
    if (run.size() > window || !can_read(Grader::kMath, run)) return {};
    return std::string(run);
}

// Does a text join two numbers to a formula?
bool is_operator(View between) {
    return between.find_first_of("+-*/x=") != npos &&
           between.find_first_not_of("+-*/x=$ ().%") == npos;
}

// Does a sentence state two numbers with this between them: 5 apples and 6 pears, 5 apples, 6
// pears?
bool is_joint(View between) {
    return between.find(" and ") != npos || between.find(" or ") != npos ||
           between.find(" & ") != npos || ends(between, ", ");
}

// The number that the last sentence with numbers states: its last one, but neither an aside behind
// another nor what follows a result in its clause: so 2 * 9 = 18 eggs fill 3 boxes for 6 people.
// only: nothing if the sentence states two.
std::optional<Span> main_number(View text, std::vector<std::string>& refused, bool only = false) {
    std::optional<Span> aside, plain;
    std::size_t sentence = 0, end = text.size();
    bool apart = false;  // only prepositions make asides so far
    for (int tried = 0; tried < 8; ++tried) {
        const auto found = number_before(text, end);
        if (!found || ((aside || plain) && found->begin < sentence)) break;
        // 12 x 25 = 300: what is no answer makes its operands none
        const bool operand =
            aside && !plain && is_operator(text.substr(found->end, end - found->end));
        end = found->begin;
        if (operand) continue;
        const View before = text.substr(0, found->begin);
        if (is_asked(text.substr(found->end))) continue;
        if (is_refused(before, text.substr(found->end))) {
            refused.push_back(spelt(text, *found));
            continue;
        }
        if (!aside && !plain) sentence = sentence_begin(text, found->begin);
        const View tail = without_lead(text.substr(found->end), "- ");
        const bool size =
            text.substr(found->end).starts_with('-') ? alpha_at(tail, 0) : begins(tail, "digits");
        if (size && only) continue;
        const Role role = size ? Role::kAside : role_of(before.substr(sentence));
        if (role == Role::kAside || role == Role::kClaused) {
            apart = (apart || !aside) && role == Role::kAside;
            if (!aside) aside = found;
        } else if (plain) {
            const View between = text.substr(found->end, plain->begin - found->end);
            if (between.find(" so ") != npos) break;
            if (only && role != Role::kResult && is_joint(between)) return {};
            if (between.find(", ") != npos || between.find("; ") != npos) break;
            if (role == Role::kResult) return found;
        } else if (role == Role::kPlain || (only && role == Role::kSaid)) {
            if (!apart || !is_subject(before.substr(sentence))) plain = found;
        } else {
            return found;
        }
    }
    return plain ? plain : aside;
}

}  // namespace

std::optional<std::string> last_number(View text) {
    std::vector<std::string> refused;
    const auto found = main_number(text, refused);
    if (!found) return {};
    std::string number = spelt(text, *found);
    if (std::ranges::find(refused, number) != refused.end()) return {};
    if (auto formula = formula_around(text, *found)) return formula;
    return number;
}

std::optional<std::string> sole_number(View sentence) {
    std::vector<std::string> refused;
    const auto found = main_number(sentence, refused, true);
    if (!found) return {};
    const View before = sentence.substr(0, found->begin);
    const std::size_t other = before.rfind(" or ");  // x = 5 or x = 6
    if (other != npos && other > 0 && before[other - 1] != ',') return {};
    const bool leads = digit_at(without_lead(sentence, " $*\\(-."), 0);
    if (leads && role_of(before) != Role::kResult) return {};
    return spelt(sentence, *found);
}

View without_index(View text) {
    std::size_t n = 0;
    while (digit_at(text, n)) ++n;
    return n > 0 && is_index(text, {0, n}) ? without_lead(text.substr(n + 1), " ") : text;
}

std::string in_plain_signs(View text) {
    const bool equation = text.find('=') != npos;
    std::string out;
    for (std::size_t at = 0; at < text.size(); ++at) {
        const View rest = text.substr(at);
        const bool behind = digit_at(out, out.size() - 1);
        if (equation && rest[0] == '$' && (digit_at(rest, 1) || (behind && rest.size() == 1))) {
            continue;
        } else if (equation && behind && rest.size() > 3 && begins(rest, " x ")) {
            out += " * ", at += 2;
        } else if (behind && (begins(rest, "e-") || begins(rest, "e+")) && digit_at(rest, 2) &&
                   !digit_at(rest, 3)) {
            out += rest.substr(0, 2), out += '0', at += 1;
        } else {
            out += text[at];
        }
    }
    return out;
}

std::optional<std::string> said_number(View text) {
    text = without_lead(text, " ,$");
    if (!begins(text, "and ") && !begins(text, "so ")) return {};
    const auto found = number_before(text, text.size());
    if (!found || is_refused(text.substr(0, found->begin), text.substr(found->end))) return {};
    const Role role = role_of(text.substr(0, found->begin));
    if (role != Role::kSaid && role != Role::kResult) return {};
    return spelt(text, *found);
}

std::optional<std::string> any_number(View text) {
    const auto found = number_before(text, text.size());
    return found ? std::optional(spelt(text, *found)) : std::nullopt;
}

std::optional<std::string> only_number(View text) {
    std::optional<std::string> only;
    if (const auto last = number_before(text, text.size()))
        if (auto formula = formula_around(text, *last)) return formula;
    for (auto found = number_before(text, text.size()); found;
         found = number_before(text, found->begin)) {
        if (is_refused(text.substr(0, found->begin), text.substr(found->end))) return {};
        std::string number = spelt(text, *found);
        if (only && *only != number) return {};
        only = std::move(number);
    }
    return only;
}

}  // namespace malt
