// Letters in prose: what opens a text, unless another letter contradicts it.
#include "answers/choices.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include "answers/answers.hpp"
#include "answers/sentences.hpp"
#include "answers/stance.hpp"

namespace malt {
namespace {

// The text without commands, braces, emphasis and dollar signs; full-width signs are ASCII, and
// Chinese characters ZZ, a word apart.
std::string spoken(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (const std::size_t n = wide(text.substr(i))) {
            const bool ascii = text[i] == '\xef' && text[i + 1] == '\xbc';
            if (ascii)
                out += static_cast<char>(text[i + 2] - '\x80' + ' ');
            else if (text[i] == '\xe3')
                out += text.substr(i, n) == "\u3001" ? ", " : ". ";  // punctuation
            else if (text.substr(i, n) == "\u6216" || text.substr(i, n) == "\u548c")
                out += " or ";  // 或 和
            else if (text.substr(i, n) == "\u4e0d")
                out += " not ";  // 不
            else
                out += " ZZ ";
            i += n - 1;
        } else if (text[i] == '_') {
            out += ' ';
        } else if (text[i] == '\\') {
            const auto letter = [&] { return i + 1 < text.size() && is_alpha(text[i + 1]); };
            if (!letter())
                ++i;
            else
                while (letter()) ++i;
            out += ' ';
        } else if (std::string_view("{}*`$").find(text[i]) == std::string_view::npos) {
            out += text[i];
        }
    }
    return out;
}

// The next word; `text` continues after it.
std::string_view next_word(std::string_view& text) {
    while (!text.empty() && !is_word(text.front())) text.remove_prefix(1);
    std::size_t n = 0;
    while (n < text.size() && is_word(text[n])) ++n;
    std::string_view word = text.substr(0, n);
    text.remove_prefix(n);
    while (word.size() > 1 && word.ends_with('\'')) word.remove_suffix(1);
    while (word.size() > 1 && word.starts_with('\'')) word.remove_prefix(1);
    return word;
}

bool is_letter(std::string_view word) {
    return word.size() == 1 && is_alpha(word[0]);
}

// Is a letter followed by this text an article or a pronoun? A dog, I think; not: A is, A because.
bool is_article(char letter, std::string_view after) {
    if ((letter != 'A' && letter != 'I') || !after.starts_with(' ')) return false;
    constexpr std::array verbs = std::to_array<std::string_view>(
        {"is", "because", "since", "as", "was", "for", "and", "or", "but"});
    after.remove_prefix(1);
    if (after.empty() || !std::islower(static_cast<unsigned char>(after[0]))) return false;
    return letter == 'I' || std::ranges::find(verbs, next_word(after)) == verbs.end();
}

bool is_label(std::string_view word) {
    return is_letter(word) && word[0] >= 'A' && word[0] <= 'J' && word[0] != 'I';
}

// Does the text after a letter call it wrong or name a second one: `or B`, `, B`, `(B)`, `B.`?
// Behind `because`, and in later sentences, only `or B` and a sentence that begins with `(B)` do.
bool names_another(std::string_view after) {
    constexpr std::array joins = std::to_array<std::string_view>(
        {"or", "and", "but", "possibly", "maybe", "also", "then", "plus", "vs"});
    std::string before;  // the word before, lower case
    constexpr std::array reasons =
        std::to_array<std::string_view>({"because", "since", "while", "whereas", "unlike", "than"});
    constexpr std::array doubts =
        std::to_array<std::string_view>({"or", "possibly", "maybe", "also"});
    bool first = true, other = false, later = false;
    while (true) {
        const std::string_view text = after;
        const std::string_view word = next_word(after);
        if (word.empty()) return false;
        const auto gap = text.substr(0, static_cast<std::size_t>(word.data() - text.data()));
        const bool label = is_label(word);
        const bool closed =
            after.starts_with(')') || after.starts_with(':') ||
            (after.starts_with('.') && after.find_first_not_of(" .") != std::string::npos);
        const bool joined = gap.find_first_of("(,;&/|+~=-?\\") != std::string_view::npos;
        const bool linked = std::ranges::find(joins, std::string_view(before)) != joins.end();
        const bool article = label && is_article(word[0], after);
        const bool sentence = gap.find(". ") != std::string_view::npos;
        const bool denied = before == "not";
        std::string said(word);
        std::ranges::transform(said, said.begin(), lower);
        if (sentence) other = false;
        if (sentence && !first) later = true;
        const bool doubted = std::ranges::find(doubts, std::string_view(before)) != doubts.end();
        if (label && !article) {
            const bool faulted = begins(after, " is wrong") || begins(after, " is incorrect") ||
                                 begins(after, " is not ");
            const bool subject =
                !closed &&
                (faulted || (sentence && (begins(after, " is") || begins(after, " and"))));
            if (subject) other = true;
            const bool second =
                later ? doubted || (sentence && closed) : closed || joined || linked || first;
            if (!subject && !other && !denied && second) return true;
            if (later) other = true;  // the sentence is about that one
        }
        first = false;
        before = std::move(said);
        if (std::ranges::find(reasons, std::string_view(before)) != reasons.end()) later = true;
        if (other) continue;
        if (before == "wrong" || before == "incorrect") return true;
        if (denied && (before == "right" || before == "correct")) return true;
    }
}

constexpr std::array kLead = std::to_array<std::string_view>(
    {"the",        "correct",   "final",    "answer",    "option", "choice", "is",      "letter",
     "most",       "likely",    "probably", "must",      "be",     "should", "would",   "best",
     "definitely", "certainly", "clearly",  "therefore", "thus",   "so",     "hence",   "simply",
     "indeed",     "actually",  "it",       "it's",      "that",   "think",  "believe", "right",
     "obviously",  "then",      "i",        "zz",        "also",   "surely", "choose",  "select",
     "pick",       "with",      "would",    "go",        "my",     "i'd",    "i'll",    "would",
     "labeled",    "labelled"});

// Those that say that a letter follows.
constexpr std::array kNouns = std::to_array<std::string_view>(
    {"answer", "option", "choice", "letter", "likely", "probably", "choose", "select", "pick"});

// The letter that opens a text, behind nothing but words of kLead; `led`: with one of kNouns.
struct Opening {
    char letter;
    bool led;
    std::string_view rest;
};

std::optional<Opening> opening(std::string_view text) {
    std::string_view rest = text;
    bool led = false;
    for (int words = 0; words < 12; ++words) {
        const std::string_view word = next_word(rest);
        if (is_letter(word) && !(word == "I" && is_article('I', rest))) {
            const bool upper = std::isupper(static_cast<unsigned char>(word[0]));
            if (is_article(word[0], rest)) return {};
            const bool closed = rest.find_first_not_of(" .)]\"'") == std::string_view::npos ||
                                rest.starts_with(')');
            if (!upper && !closed) return {};
            return Opening{static_cast<char>(std::toupper(word[0])), led, rest};
        }
        std::string small(word);
        std::ranges::transform(small, small.begin(), lower);
        if (std::ranges::find(kLead, small) == kLead.end()) return {};
        led = led || std::ranges::find(kNouns, small) != kNouns.end();
    }
    return {};
}

}  // namespace

std::string_view last_line(std::string_view text) {
    const std::size_t end = text.find_last_not_of(" \t\r\n");
    if (end == std::string_view::npos) return {};
    text = text.substr(0, end + 1);
    const std::size_t line = text.rfind('\n');
    return line == std::string_view::npos ? text : text.substr(line + 1);
}

std::optional<std::string> opening_letter(std::string_view region) {
    const std::string text = spoken(region.substr(0, kMaxAnswer));
    const auto found = opening(text);
    if (!found || names_another(found->rest)) return {};
    return std::string(1, found->letter);
}

std::optional<std::string> first_letter(std::string_view region) {
    const std::string text = spoken(region.substr(0, kMaxAnswer));
    std::string_view rest = text;
    for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest))
        if (is_label(word) && !is_article(word[0], rest)) return std::string(word);
    return {};
}

std::optional<std::string> leading_letter(std::string_view text) {
    text = trimmed(text);
    auto letter = unmarked_letter(text.substr(0, text.find('\n')));
    if (!letter || !is_label(*letter)) return {};
    constexpr std::array takes_back = std::to_array<std::string_view>(
        {"wrong", "incorrect", "not", "no", "wait", "actually", "however", "but", "or"});
    const std::string said = spoken(text);
    std::string_view rest = said;
    for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest)) {
        const bool other = is_label(word) && word != *letter && !is_article(word[0], rest);
        const auto same = [&](std::string_view one) {
            return one.size() == word.size() && begins(word, one);
        };
        if (other || std::ranges::any_of(takes_back, same)) return {};
    }
    return letter;
}

std::optional<std::string> unmarked_letter(std::string_view text) {
    const std::string_view line = last_line(text);
    if (line.size() > kMaxAnswer) return {};
    const std::string said = spoken(line);
    if (said.size() <= 16 && can_read(Grader::kChoice, said)) return opening_letter(line);
    const bool all = text.find_first_not_of(" \t\r\n") ==
                     static_cast<std::size_t>(line.data() - text.data());  // of the output
    const auto found = opening(said);
    if (!found || (!all && !found->led)) return {};
    const auto after = found->rest;
    const bool lone = all && after.find_first_not_of(" .)\"'") == std::string_view::npos;
    const bool labelled =
        !after.empty() && std::string_view(").:,").find(after[0]) != std::string_view::npos;
    const bool right = begins(after, " is correct") || begins(after, " is the correct") ||
                       begins(after, " is the best") || begins(after, " is the answer") ||
                       begins(after, " is right") || begins(after, " is the right");
    if (!lone && !labelled && !found->led && !right) return {};
    return opening_letter(line);
}

}  // namespace malt
