// Letters in prose: what opens a text, unless another letter contradicts it.
#include "answers/choices.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include "answers/answers.hpp"

namespace malt {
namespace {

// The text without commands, braces, emphasis and dollar signs.
std::string spoken(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\') {
            const auto letter = [&] {
                return i + 1 < text.size() && std::isalpha(static_cast<unsigned char>(text[i + 1]));
            };
            if (!letter()) ++i;
            while (letter()) ++i;
            out += ' ';
        } else if (std::string_view("{}*_`$").find(text[i]) == std::string_view::npos) {
            out += text[i];
        }
    }
    return out;
}

bool is_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || static_cast<unsigned char>(c) >= 0x80 ||
           c == '\'';
}

// The next word; `text` continues after it.
std::string_view next_word(std::string_view& text) {
    while (!text.empty() && !is_word(text.front())) text.remove_prefix(1);
    std::size_t n = 0;
    while (n < text.size() && is_word(text[n])) ++n;
    const std::string_view word = text.substr(0, n);
    text.remove_prefix(n);
    return word;
}

bool is_letter(std::string_view word) {
    return word.size() == 1 && std::isalpha(static_cast<unsigned char>(word[0]));
}

// Is an A followed by this text an article? A dog; not: A is, A because.
bool is_article(std::string_view after) {
    if (!after.starts_with(' ')) return false;
    constexpr std::array verbs = std::to_array<std::string_view>(
        {"is", "because", "since", "as", "was", "for", "and", "or", "but"});
    const std::string_view word = next_word(after);
    return !word.empty() && std::islower(static_cast<unsigned char>(word[0])) &&
           std::ranges::find(verbs, word) == verbs.end();
}

// Does the text after a letter call it wrong or name a second one: `or B`, `, B`, `(B)`, `B.`?
bool names_another(std::string_view after) {
    constexpr std::array joins = std::to_array<std::string_view>(
        {"or", "and", "but", "possibly", "maybe", "also", "then", "plus", "vs"});
    std::string before;  // the word before, lower case
    while (true) {
        const std::string_view text = after;
        const std::string_view word = next_word(after);
        if (word.empty()) return false;
        const auto gap = text.substr(0, static_cast<std::size_t>(word.data() - text.data()));
        const bool label = is_letter(word) && word[0] >= 'A' && word[0] <= 'H';
        const bool closed = after.starts_with(')') || after.starts_with(':') ||
                            (after.starts_with('.') && after.size() > 1);
        const bool joined = gap.find_first_of("(,;&/|+~=-?\\") != std::string_view::npos;
        const bool linked = std::ranges::find(joins, std::string_view(before)) != joins.end();
        const bool article = word == "A" && is_article(after);
        if (label && !article && (closed || joined || linked || before.empty())) return true;
        const bool denied = before == "not";
        before.assign(word);
        std::ranges::transform(before, before.begin(), lower);
        if (before == "wrong" || before == "incorrect") return true;
        if (denied && (before == "right" || before == "correct")) return true;
    }
}

}  // namespace

char lower(char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

std::string_view last_line(std::string_view text) {
    const std::size_t end = text.find_last_not_of(" \t\r\n");
    if (end == std::string_view::npos) return {};
    text = text.substr(0, end + 1);
    const std::size_t line = text.rfind('\n');
    return line == std::string_view::npos ? text : text.substr(line + 1);
}

std::optional<std::string> opening_letter(std::string_view region) {
    constexpr std::array lead{"the",    "correct", "final", "answer",
                              "option", "choice",  "is",    "letter"};
    const std::string text = spoken(region.substr(0, kMaxAnswer));
    std::string_view rest = text;
    for (std::size_t words = 0; words < lead.size(); ++words) {
        const std::string_view word = next_word(rest);
        if (is_letter(word)) {
            const bool upper = std::isupper(static_cast<unsigned char>(word[0]));
            if (word == "A" && is_article(rest)) return {};
            const bool closed = rest.find_first_not_of(" .)]\"'") == std::string_view::npos ||
                                rest.starts_with(')');
            if ((!upper && !closed) || names_another(rest)) return {};
            return std::string(1, static_cast<char>(std::toupper(word[0])));
        }
        std::string small(word);
        std::ranges::transform(small, small.begin(), lower);
        if (std::ranges::find(lead, small) == lead.end()) return {};
    }
    return {};
}

std::optional<std::string> unmarked_letter(std::string_view text) {
    const std::string_view line = last_line(text);
    if (line.size() > 16 || !can_read(Grader::kChoice, line)) return {};
    return opening_letter(line);
}

}  // namespace malt
