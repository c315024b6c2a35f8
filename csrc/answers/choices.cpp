// What opens a text, and what the lines without a marker say.
#include "answers/choices.hpp"

#include <array>

#include "answers/answers.hpp"
#include "answers/choice_claims.hpp"
#include "answers/sentences.hpp"
#include "answers/stance.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;
using Tokens = ChoiceTokens;

constexpr auto kLead = std::to_array<View>(
    {"correct",  "final",      "answer",    "option",   "choice",    "is",        "letter",
     "most",     "likely",     "probably",  "must",     "be",        "should",    "would",
     "best",     "definitely", "certainly", "clearly",  "therefore", "thus",      "so",
     "hence",    "simply",     "indeed",    "actually", "it",        "it's",      "that",
     "that's",   "think",      "believe",   "right",    "obviously", "then",      "i",
     "also",     "surely",     "choose",    "select",   "pick",      "with",      "go",
     "my",       "i'd",        "i'll",      "labeled",  "labelled",  "maybe",     "perhaps",
     "possibly", "in",         "fact",      "given",    "by",        "described", "as",
     "of",       "course",     "going",     "to",       "statement", "at",        "on",
     "still"});

// Those that say that a letter follows.
constexpr auto kNouns = std::to_array<View>(
    {"answer", "option", "choice", "letter", "likely", "probably", "choose", "select", "pick"});

bool is_lead(const ChoiceToken& token) {
    return is_one_of(token.word, kLead) || static_cast<unsigned char>(token.word[0]) >= 0x80;
}

// The choice that a text opens with, behind nothing but words of kLead.
struct Opening {
    char letter;
    bool led;        // one of kNouns stands before it
    std::size_t at;  // of its token
};

bool is_closed(const Tokens& tokens, std::size_t at) {
    constexpr auto signs = std::to_array<View>({".", ")", "]", "'", "}"});
    if (at + 1 < tokens.size() && tokens[at + 1].word == ")") return true;
    return std::all_of(tokens.begin() + static_cast<std::ptrdiff_t>(at) + 1, tokens.end(),
                       [&](auto& token) { return is_one_of(token.word, signs); });
}

// Is the letter at `at` part of something else: E-mail, C++, A.M., C major, D = 2r?
bool is_in_word(const Tokens& tokens, std::size_t at, const ChoiceTexts& choices) {
    if (at + 1 >= tokens.size() || is_closed(tokens, at)) return false;
    const ChoiceToken& next = tokens[at + 1];
    const bool last = at + 2 >= tokens.size();
    const ChoiceToken& second = tokens[last ? at + 1 : at + 2];
    const bool own = !last && second.letter != 0 && second.text;
    if (next.letter) return false;
    if (is_word(next)) return !next.opens && !goes_on(next);
    if (next.word == "=") {
        const bool more = at + 3 < tokens.size() && tokens[at + 3].glued &&
                          tokens[at + 3].word != "." && tokens[at + 3].word != ",";
        return !own && (last || second.word.size() < 2 || !is_alpha(second.word[0]) || more);
    }
    if (next.glued && next.word == ".") {
        if (last || own) return false;
        const bool lower = second.opens && second.small && !goes_on(second) && !choices.empty();
        return lower || (second.glued && !second.opens && is_word(second));
    }
    constexpr auto signs =
        std::to_array<View>({"-", "+", "#", "&", "^", "~", "<", "/", "|", "%", "@", "="});
    const bool spaced = next.word == "-" && !last && !second.glued;
    return next.glued && is_one_of(next.word, signs) && !own && !spaced && next.word != "<";
}

std::optional<Opening> opening(const Tokens& tokens, const ChoiceTexts& choices) {
    bool led = false;
    for (std::size_t at = 0, words = 0; at < tokens.size() && words < 12; ++at) {
        const ChoiceToken& token = tokens[at];
        const bool command = at > 0 && token.glued && tokens[at - 1].word == "\\";  // \bf B
        if (!is_word(token) || command) continue;
        ++words;
        const bool letter = token.word.size() == 1 && is_alpha(token.word[0]) && !token.text;
        const char name = letter ? static_cast<char>(token.word[0] - 'a' + 'A') : '\0';
        if (letter && name != 'I' && choices.has(name)) {
            if (!token.label && !is_closed(tokens, at)) return {};
            if (is_in_word(tokens, at, choices)) return {};
            return Opening{name, led, at};
        }
        if (!is_lead(token) || token.text) return {};
        led = led || is_one_of(token.word, kNouns);
    }
    return {};
}

// The choice whose words open a text.
std::optional<Opening> naming(const Tokens& tokens) {
    for (std::size_t at = 0; at < tokens.size(); ++at) {
        const ChoiceToken& token = tokens[at];
        if (!token.text) {
            if (token.letter || (is_word(token) && !is_lead(token))) return {};
            if (!is_word(token) &&
                !is_one_of(token.word, std::to_array<View>({"(", "[", ":", ",", "'", "-", "#"})))
                return {};
            continue;
        }
        if (token.letter == kManyChoices) return {};
        if (at + 1 == tokens.size()) return Opening{token.letter, true, at};
        const ChoiceToken& next = tokens[at + 1];
        constexpr auto stops = std::to_array<View>(
            {".",       ",",      ";",       ":",     "!",     ")",        "]",     "(",   "'",
             "because", "since",  "as",      "where", "which", "when",     "for",   "who", "so",
             "not",     "rather", "instead", "over",  "but",   "although", "though"});
        const bool dash = next.word == "-" && !next.glued;
        if (!next.opens && !dash && !is_one_of(next.word, stops)) return {};
        return Opening{token.letter, true, at};
    }
    return {};
}

std::optional<std::string> as_answer(char letter) {
    return std::string(1, letter);
}

void append(Tokens& tokens, Tokens more, bool opens) {
    if (!more.empty() && opens) more[0].opens = true;
    tokens.insert(tokens.end(), more.begin(), more.end());
}

std::optional<std::string> chosen_of(Tokens tokens, Tokens after, bool opens,
                                     const ChoiceTexts& choices) {
    auto found = opening(tokens, choices);
    if (!found) found = naming(tokens);
    if (!found) return {};
    append(tokens, std::move(after), opens);
    return is_kept(tokens, found->at + 1, found->letter, !choices.empty())
               ? as_answer(found->letter)
               : std::nullopt;
}

// The last line that is not blank or a fence, without white space at its end.
View last_line(View text) {
    while (true) {
        const std::size_t end = text.find_last_not_of(" \t\r\n");
        if (end == npos) return {};
        text = text.substr(0, end + 1);
        const std::size_t line = text.rfind('\n');
        if (line == npos) return text;
        if (text.substr(line + 1).find_first_not_of(" `") != npos) return text.substr(line + 1);
        text = text.substr(0, line);
    }
}

// The only choice that the words of a line name: library. (B) library
char only_choice(const Tokens& tokens) {
    char found = 0;
    for (const ChoiceToken& token : tokens) {
        if (!is_word(token)) continue;
        if (!token.letter || (found && found != token.letter)) return 0;
        found = token.letter;
    }
    return found == kManyChoices ? '\0' : found;
}

bool has_text(const Tokens& tokens) {
    return std::ranges::any_of(tokens, [](auto& token) { return token.text; });
}

// Does a line list a choice: B: library - it lends books?
bool lists_choice(const Tokens& tokens) {
    std::size_t at = 0;
    while (at < tokens.size() && !is_word(tokens[at])) ++at;
    if (at + 1 >= tokens.size()) return at < tokens.size() && tokens[at].letter;
    return tokens[at].letter && (is_word(tokens[at + 1]) ? only_choice(tokens) != 0 : true);
}

// A line that is a lone letter, or chooses one in words; of a whole text also a letter with what it
// stands for.
std::optional<std::string> line_choice(View line, bool all, const ChoiceTexts& choices) {
    if (line.size() > kMaxAnswer) return {};
    const Tokens tokens = choices.tokens(line);
    const auto found = opening(tokens, choices);
    if (!found || !is_kept(tokens, found->at + 1, found->letter, !choices.empty())) return {};
    const auto words = std::ranges::count_if(tokens, [](auto& token) { return is_word(token); });
    if (words == 1) return as_answer(found->letter);
    if (found->led) return as_answer(found->letter);
    if (!all) return {};
    if (found->at + 1 == tokens.size()) return as_answer(found->letter);
    const View next = tokens[found->at + 1].word;
    if (next == ")" || next == "." || next == ":" || next == ",") return as_answer(found->letter);
    if (only_choice(tokens) == found->letter) return as_answer(found->letter);
    constexpr auto right = std::to_array<View>({"correct", "right", "best", "answer"});
    const bool praised =
        next == "is" && found->at + 2 < tokens.size() &&
        std::any_of(
            tokens.begin() + static_cast<std::ptrdiff_t>(found->at) + 2,
            tokens.begin() + static_cast<std::ptrdiff_t>(std::min(found->at + 4, tokens.size())),
            [&](auto& token) { return is_one_of(token.word, right); });
    return praised ? as_answer(found->letter) : std::nullopt;
}

// The letter of the first line, if no other choice stands anywhere.
std::optional<std::string> leading_choice(View text, const ChoiceTexts& choices) {
    text = trimmed(text);
    const std::size_t first = std::min(text.find('\n'), text.size());
    const auto letter = line_choice(text.substr(0, first), true, choices);
    if (!letter || *letter > "J") return {};
    text.remove_prefix(first);
    while (!text.empty()) {
        const View piece = text.substr(0, std::min(text.find('\n'), kMaxAnswer));
        if (!is_quiet(choices.tokens(piece, false), letter->front())) return {};
        text.remove_prefix(std::min(piece.size() + 1, text.size()));
    }
    return letter;
}

}  // namespace

std::optional<std::string> opening_letter(View region) {
    const ChoiceTexts choices({});
    const Tokens tokens = choices.tokens(region);
    const auto found = opening(tokens, choices);
    if (!found || !is_kept(tokens, found->at + 1, found->letter, !choices.empty())) return {};
    return as_answer(found->letter);
}

std::optional<std::string> chosen(View region, View after, const ChoiceTexts& choices) {
    after.remove_prefix(std::min(after.find('\n'), after.size()));
    return chosen_of(choices.tokens(region), choices.tokens(after, false), true, choices);
}

std::optional<std::string> boxed_choice(View text, const Box& box, const ChoiceTexts& choices) {
    const View before = text.substr(0, box.begin);
    if (is_refused(before, {})) return {};
    const auto found = chosen_of(choices.tokens(box.inside),
                                 choices.tokens(text.substr(box.end), false), false, choices);
    if (!found) return {};
    const auto other = last_box(text, box.begin);
    if (other && other->begin >= sentence_begin(text, box.begin)) {
        const auto letter = chosen(other->inside, {}, choices);
        if (letter && *letter != *found) return {};
    }
    return found;
}

std::string choices_in(View text, const ChoiceTexts& choices) {
    std::string letters;
    for (const ChoiceToken& token : choices.tokens(text))
        if (token.letter) letters += token.letter;
    return letters;
}

std::optional<std::string> unmarked_choice(View text, const ChoiceTexts& choices) {
    const View line = last_line(text);
    const View before = text.substr(0, static_cast<std::size_t>(line.data() - text.data()));
    const View above = last_line(before);
    auto letter = line_choice(line, above.empty(), choices);
    const Tokens tokens = choices.tokens(line);
    if (!letter && has_text(tokens))
        if (const char only = only_choice(tokens))
            if (above.empty() || !lists_choice(choices.tokens(above))) letter = as_answer(only);
    if (!letter) return leading_choice(text, choices);
    const Tokens over = choices.tokens(above);
    const char listed = has_text(over) ? '\0' : only_choice(over);
    if (listed && listed != letter->front()) return {};  // A on a line, B on the next
    const bool ended = above.empty() || View(".!").find(above.back()) != npos;
    if (!ended && is_negative(choices.tokens(above, false))) return {};
    return letter;
}

}  // namespace malt
