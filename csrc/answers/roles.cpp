// Roles by the words in front of a number.
#include "answers/roles.hpp"

#include <algorithm>
#include <array>

#include "answers/sentences.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

constexpr std::size_t kNear = 96;  // bytes before a number

constexpr auto kVerbs =
    std::to_array<View>({"is", "are", "was", "were", "be", "equals", "equal", "has", "have", "had",
                         "gives", "leaves", "makes", "costs", "totals", "gets", "get"});

constexpr auto kPrepositions =
    std::to_array<View>({"in", "for", "per", "after", "at", "within", "during", "before", "every",
                         "from", "on", "over", "until", "using", "through"});

constexpr auto kSubordinators = std::to_array<View>(
    {"when", "if", "where", "as", "since", "because", "assuming", "while", "whenever", "unless"});

// in total 5, for example 5
constexpr auto kFixed =
    std::to_array<View>({"total", "all", "fact", "sum", "addition", "example", "instance", "most",
                         "least", "last", "which", "only", "just", "about", "exactly", "a"});

// 12 apples left of 20
constexpr auto kParts = std::to_array<View>({"out", "left", "remaining", "remain", "end", "each"});

constexpr auto kDeterminers =
    std::to_array<View>({"the", "these", "those", "all", "so", "thus", "therefore", "hence", "then",
                         "and", "both", "now", "our", "his", "her", "their", "its"});

constexpr auto kReferences =
    std::to_array<View>({"problem", "section", "step", "question", "exercise", "equation",
                         "chapter", "figure", "table", "theorem", "lemma", "example", "eq"});

// Takes the last word off a text; nothing at the end of a clause or behind a number.
View take_word(View& text) {
    text = text.substr(0, text.find_last_not_of(" \t$*_\\~{\"'`\u2248") + 1);
    if (text.empty() || View(",;:.!?)\n").find(text.back()) != npos) return {};
    const std::size_t space = text.find_last_of(" \n\t");
    View word = text.substr(space == npos ? 0 : space + 1);
    if (word.find_first_of("0123456789") != npos) return {};
    text.remove_suffix(word.size());
    return without_lead(word, "(*_$\\\"'");
}

// Takes the sign of a currency off the end of a text.
bool take_currency(View& text) {
    const View before = text.substr(0, text.find_last_not_of(" *_") + 1);
    for (const View sign : kCurrencies) {
        if (!before.ends_with(sign)) continue;
        text = before.substr(0, before.size() - sign.size());
        return true;
    }
    return false;
}

// Does a text end in a remark in brackets: 18 days (assuming 5?
bool is_bracketed(View before) {
    const std::size_t open = before.rfind(" (");
    if (open == npos || open == 0 || before.find(')', open) != npos) return false;
    return is_word(before[open - 1]) || View("$%*}").find(before[open - 1]) != npos;
}

// Does `of` take a part of a number: 5 of 20, 12 apples left of 20, 31 rows of 5?
bool is_part(View before) {
    const View word = take_word(before);
    if (word.empty() || is_one_of(word, kParts)) return true;
    before = before.substr(0, before.find_last_not_of(' ') + 1);
    return !before.empty() && is_digit(before.back());
}

}  // namespace

Role role_of(View before) {
    if (before.size() > kNear) before.remove_prefix(before.size() - kNear);
    if (is_bracketed(before)) return Role::kClaused;
    const bool price = take_currency(before);
    before = before.substr(0, before.find_last_not_of(" \t$*_\\~{([-\"'`") + 1);
    const bool result = before.ends_with('=');
    if (result)  // 5 * 4 = 20
        before = before.substr(0, before.find_last_not_of("0123456789.+-*/x=$ ()<>%") + 1);
    bool said = result;
    View next;
    for (int words = 0; words < 4; ++words) {
        const View word = take_word(before);
        if (word.empty()) break;
        const bool reason = words < 2 && (said || before.ends_with(", "));  // not: as big as 5
        if (is_one_of(word, kSubordinators) && (reason || !begins(word, "as")))
            return Role::kClaused;
        if (is_one_of(word, kVerbs)) said = true;
        if (!said && begins(word, "of") && word.size() == 2)
            return is_part(before) ? Role::kClaused : Role::kPlain;
        const bool free = is_one_of(next, kFixed) || (price && begins(word, "for"));
        if (!said && words < 3 && is_one_of(word, kPrepositions) && !free) return Role::kAside;
        next = word;
    }
    return result ? Role::kResult : said ? Role::kSaid : Role::kPlain;
}

bool is_subject(View before) {
    if (before.size() > kNear) return false;
    before = before.substr(0, before.find_last_not_of(" \t$*_\\~{([-\"'`") + 1);
    for (View word = take_word(before); !word.empty(); word = take_word(before))
        if (!is_one_of(word, kDeterminers)) return false;
    before = before.substr(0, before.find_last_not_of(' ') + 1);
    return before.empty() || before.ends_with(',');
}

bool is_reference(View before) {
    if (before.size() > kNear) before.remove_prefix(before.size() - kNear);
    before = before.substr(0, before.find_last_not_of(" *_($") + 1);
    const std::size_t space = before.find_last_of(" \n\t*(");
    return is_one_of(before.substr(space == npos ? 0 : space + 1), kReferences);
}

bool is_asked(View after) {
    after = after.substr(0, kNear);
    for (std::size_t at = 0; at < after.size(); ++at)
        if (View("?!\n").find(after[at]) != npos || (after[at] == '.' && !digit_at(after, at + 1)))
            return after[at] == '?';
    return false;
}

}  // namespace malt
