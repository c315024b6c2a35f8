// Formulas between dollar signs or brackets, and what they are to the sentence around them.
#include "answers/formulas.hpp"

#include <algorithm>
#include <array>
#include <string>

#include "answers/answers.hpp"
#include "answers/latex.hpp"
#include "answers/numbers.hpp"
#include "answers/roles.hpp"
#include "answers/sentences.hpp"
#include "answers/stance.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;

// Where the formula that begins at `begin` ends: at a dollar sign other than \$.
std::size_t dollar(std::string_view text, std::size_t begin) {
    std::size_t end = begin == npos ? npos : text.find('$', begin);
    while (end != npos && text[end - 1] == '\\') end = text.find('$', end + 1);
    return end;
}

// Is a text between dollar signs that of two prices: $5 and then $7, $5 + $7? No formula ends with
// a word and a space, or with an operator.
bool is_between_prices(std::string_view text) {
    const std::size_t n = text.size(), last = text.find_last_not_of(" <");
    return (n > 2 && text[n - 1] == ' ' && is_alpha(text[n - 2]) && is_alpha(text[n - 3])) ||
           (last != npos && last > 0 && std::string_view("=+-*/").find(text[last]) != npos);
}

// Is a formula the unit of the number before it: 48 $\text{cm}^2$, 90$^\circ$?
bool is_unit(std::string_view formula, std::string_view before) {
    before = before.substr(0, before.find_last_not_of(" $\\(") + 1);
    if (before.empty() || !is_digit(before.back())) return false;
    formula = trimmed(formula);
    for (const std::string_view unit :
         {"^", "\\%", "%", "\\text", "\\mathrm", "\\,\\text", "\\,\\mathrm", "\\circ", "\\degree",
          "cm^", "m^", "km^", "ft^", "in^", "mm^"})
        if (formula.starts_with(unit)) return true;
    return false;
}

// Is the last formula an aside of a sentence that states an earlier one: the minimum is $3$,
// attained at $x = 2$?
bool is_aside(std::string_view text, const std::vector<Formula>& all) {
    if (all.size() < 2) return false;
    const Formula& last = all.back();
    const Formula& earlier = all[all.size() - 2];
    const std::size_t sentence = sentence_begin(text, last.begin);
    if (earlier.begin < sentence || is_name(earlier.inside)) return false;
    const Role role = role_of(text.substr(sentence, last.begin - sentence));
    if (role != Role::kAside && role != Role::kClaused) return false;
    const std::string_view before = text.substr(sentence, earlier.begin - sentence);
    const Role said = role_of(before);
    return said == Role::kSaid || said == Role::kResult ||
           (role == Role::kClaused && is_subject(before));
}

}  // namespace

bool has_words(std::string_view text, int enough) {
    for (std::size_t at = 0; at < text.size() && enough > 0;) {
        std::size_t n = 0;
        while (at + n < text.size() && is_alpha(text[at + n])) ++n;
        enough -= n > 1 && (at == 0 || text[at - 1] != '\\');
        at += n + 1;
    }
    return enough <= 0;
}

bool is_pure(std::string_view text) {
    return std::ranges::all_of(text, [](char c) { return c >= ' ' && c != '/'; }) &&
           !has_words(text, 1);
}

bool is_prose(std::string_view text) {
    if (!has_words(text)) return false;
    const auto tokens = tokens_of(text);
    const auto words = std::ranges::count(tokens, Kind::kWord, &Token::kind);
    const bool mixed = words + 1 < std::ssize(tokens);  // the last token is the end
    const bool aside = std::ranges::adjacent_find(tokens, [](const Token& a, const Token& b) {
                           return a.kind == Kind::kComma && b.kind == Kind::kWord;
                       }) != tokens.end();  // 12, as required
    return words > 3 || (words > 1 && mixed && (aside || tokens[0].kind == Kind::kWord));
}

std::vector<Formula> formulas_in(std::string_view text) {
    std::vector<Formula> all;
    const auto keep = [&](std::size_t begin, std::size_t end) {
        const std::string_view formula = text.substr(begin, end - begin);
        if (formula.size() <= kMaxAnswer && !is_between_prices(formula))
            all.push_back({formula, begin, end});
    };
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '\\' && at + 1 < text.size()) {
            const char open = text[at + 1];
            if (open == '(' || open == '[') {
                const std::size_t end = text.find(open == '(' ? "\\)" : "\\]", at + 2);
                if (end == npos) break;
                keep(at + 2, end);
                at = end;
            }
            ++at;
        } else if (text[at] == '$') {
            const std::size_t begin = text.find_first_not_of('$', at);
            const std::size_t end = dollar(text, begin);
            if (end == npos) break;
            keep(begin, end);
            at = std::min(text.find_first_not_of('$', end), text.size()) - 1;
        }
    }
    return all;
}

bool is_name(std::string_view formula) {
    bool subscript = false, letters = false;
    for (std::size_t i = 0; i < formula.size(); ++i) {
        const char c = formula[i];
        if (is_alpha(c)) {
            letters = true;
        } else if (c == '\\') {
            constexpr auto names = std::to_array<std::string_view>(
                {"angle", "triangle", "overline", "mathbf", "mathcal", "vec",    "alpha",
                 "beta",  "gamma",    "delta",    "theta",  "phi",     "lambda", "omega",
                 "mu",    "sigma",    "square",   "Gamma",  "Delta",   "Omega",  "varphi",
                 "rho",   "tau",      "bar",      "hat",    "odot"});
            const std::string_view rest = formula.substr(i + 1);
            const auto name = std::ranges::find_if(
                names, [&](std::string_view word) { return rest.starts_with(word); });
            if (name == names.end()) return false;
            i += name->size();
            letters = true;
        } else if (c == '_') {
            subscript = true;
            continue;
        } else if (c == '}' || c == ' ') {
            subscript = false;
        } else if (!(std::string_view("{'(),").find(c) != npos || (subscript && is_digit(c)))) {
            return false;
        }
        if (subscript && c != '{' && formula[i ? i - 1 : 0] == '_') subscript = false;
    }
    return letters;
}

std::string_view last_row(std::string_view formula) {
    for (const std::string_view name : {"align", "gather", "split"}) {
        const std::size_t end = formula.rfind(std::string("\\end{") + std::string(name));
        if (end != npos) formula = formula.substr(0, end);
        const bool aligned = end != npos || (name == "align" && formula.find('&') != npos &&
                                             formula.find("\\begin") == npos);
        if (!aligned) continue;
        formula = trimmed(formula);
        while (formula.ends_with("\\\\")) formula = trimmed(formula.substr(0, formula.size() - 2));
        const std::size_t sign = formula.find_last_of("=&");
        return trimmed(formula.substr(sign == npos ? 0 : sign + 1));
    }
    return trimmed(formula);
}

std::optional<std::string> last_said(std::string_view text, std::vector<Formula> all) {
    std::vector<std::string_view> refused;
    const Formula last = all.back();
    std::optional<Formula> name;     // the first of those at the end
    std::size_t stop = text.size();  // what is refused begins there
    for (int tried = 0; tried < 8 && !all.empty(); ++tried, all.pop_back()) {
        const auto& [formula, begin, end] = all.back();
        const std::string_view before = text.substr(0, begin);
        if (is_prose(formula)) continue;
        if (is_asked(text.substr(end)) || is_aside(text, all)) {
            stop = begin;
            continue;
        }
        if (is_refused(before, text.substr(end))) {
            refused.push_back(trimmed(formula));
            stop = begin;
            continue;
        }
        if (is_name(formula) || is_unit(formula, before)) {
            name = all.back();
            continue;
        }
        if (std::ranges::find(refused, trimmed(formula)) != refused.end()) return {};
        const bool display = text.substr(end).starts_with("$$ ");
        const std::size_t next = sentence_end(text, std::min(end + 1, text.size()));
        const std::size_t from = std::min(display ? end : next, stop);
        auto later = last_number(text.substr(from, stop - from));
        if (!later && !display) later = said_number(text.substr(end, std::min(next, stop) - end));
        if (!later && name && name->begin > end)
            later = last_number(text.substr(end, std::min(name->begin, stop) - end));
        return later ? later : std::string(last_row(formula));
    }
    if (auto number = last_number(text.substr(0, stop))) return number;
    if (name && refused.empty()) return std::string(trimmed(last.inside));
    return {};
}

std::optional<std::string_view> only_formula(std::string_view text) {
    if (!text.starts_with('$')) return {};
    const std::size_t begin = text.find_first_not_of('$'), end = dollar(text, begin);
    if (end == npos || text.find('$', text.find_first_not_of('$', end)) != npos) return {};
    if (is_between_prices(text.substr(begin, end - begin))) return {};
    const std::string_view formula = trimmed(text.substr(begin, end - begin));
    return formula.empty() || formula.size() > kMaxAnswer ? std::nullopt : std::optional(formula);
}

}  // namespace malt
