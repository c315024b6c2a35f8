// Answers compared by the rules of their grader.
#include "answers/answers.hpp"

#include <algorithm>
#include <cctype>
#include <string>

#include "answers/comparison.hpp"
#include "answers/values.hpp"

namespace malt {
namespace {

using enum Verdict;

// ---- formulas ----

// Letters and digits of a phrase, lower case.
std::string plain(std::string_view text) {
    std::string out;
    for (const char c : text)
        if (std::isalnum(static_cast<unsigned char>(c)))
            out += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
}

// Does a list go on behind its last comma?
bool goes_on(std::string_view text) {
    return text.find("...") != std::string_view::npos;
}

// No operators, brackets or lists, except for the braces of commands.
bool only_words(std::string_view text) {
    return std::ranges::all_of(text, [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) ||
               std::string_view(" \\{}$.'\"~").find(c) != std::string_view::npos;
    });
}

Verdict compare_formulas(std::string_view gold, std::string_view answer) {
    const std::string_view whole = gold, other = answer;  // with a currency sign, with dots
    gold = bare(gold), answer = bare(answer);
    if (gold.empty() || answer.empty()) return kDifferent;
    if (gold.size() > kMaxAnswer || answer.size() > kMaxAnswer)
        return gold == answer ? kEqual : kDifferent;
    if (whole == other || (gold == answer && goes_on(whole) == goes_on(other))) return kEqual;
    Expression x = parse(whole), y = parse(other);
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
    if (side.op() == Op::kRelation) side = stated(side);
    while (side.op() == Op::kDegrees || side.op() == Op::kQuantity) side = side.child(0);
    const Op op = side.op() == Op::kNegate ? side.child(0).op() : side.op();
    return op == Op::kNumber || (is_scalar(side.op()) && exact(read, side.node));
}

// ---- letters and texts ----

// The only letter of a text without digits, in upper case; 0 for other texts. Commands that set a
// font do not count: \textbf{C}.
char lone_letter(std::string_view text) {
    char found = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const std::string_view rest = text.substr(i);
        if (rest.starts_with("\\text") || rest.starts_with("\\math")) {
            const std::size_t brace = rest.find_first_of("{ ", 1);
            if (brace != std::string_view::npos && brace < 12) i += brace;
            continue;
        }
        const auto u = static_cast<unsigned char>(text[i]);
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
