// Words of choices in words of answers.
#include "answers/choice_texts.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <span>

#include "answers/answers.hpp"
#include "answers/sentences.hpp"
#include "answers/stance.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;
using Tokens = std::vector<ChoiceToken>;

template <std::size_t N>
bool is_one_of(View word, const std::array<View, N>& words) {
    return std::ranges::find(words, word) != words.end();
}

// Signs in UTF-8 with a plain equivalent; "" for those that count no more than emphasis.
constexpr auto kSigns = std::to_array<std::pair<View, View>>({{"\u3002", "."},
                                                              {"\uff0e", "."},
                                                              {"\uff0c", ","},
                                                              {"\uff1b", ";"},
                                                              {"\uff1a", ":"},
                                                              {"\uff01", "!"},
                                                              {"\uff1f", "?"},
                                                              {"\uff08", "("},
                                                              {"\uff09", ")"},
                                                              {"\u2013", "-"},
                                                              {"\u2014", "-"},
                                                              {"\u2212", "-"},
                                                              {"\u2019", "'"},
                                                              {"\u201c", ""},
                                                              {"\u201d", ""}});

const std::pair<View, View>* sign_at(View text) {
    if (static_cast<unsigned char>(text[0]) < 0xe2) return nullptr;
    const auto found =
        std::ranges::find_if(kSigns, [&](auto& sign) { return text.starts_with(sign.first); });
    return found == kSigns.end() ? nullptr : &*found;
}

// The length of a command that only sets a font and opens its group; 0 for other texts.
std::size_t font_at(View text) {
    for (const View font :
         {View("\\text{"), View("\\textbf{"), View("\\textit{"), View("\\textrm{"),
          View("\\mathrm{"), View("\\mathbf{"), View("\\emph{"), View("\\mbox{"), View("\\boxed{")})
        if (text.starts_with(font)) return font.size();
    return 0;
}

// The length of markup at the front of a text that is no more than space.
std::size_t blank_at(View text) {
    if (std::isspace(static_cast<unsigned char>(text[0])) || text[0] == '_' || text[0] == '~')
        return 1;
    const bool command = text[0] == '\\' && text.size() > 1;
    return command && View("()[] ,;:!").find(text[1]) != npos ? 2 : 0;
}

// The words and signs of a text, with articles. The signs of emphasis and formulas are none.
Tokens spelt(View text) {
    Tokens out;
    std::vector<bool> fonts;  // of the open braces: whether they are of a font
    bool glued = false, run = false;
    const auto add = [&](View piece, std::size_t begin, bool word) {
        if (word && run && glued) {
            for (const char c : piece) out.back().word += lower(c);
            out.back().label = false;
            return;
        }
        const bool label = piece.size() == 1 && piece[0] >= 'A' && piece[0] <= 'Z';
        std::string small(piece);
        std::ranges::transform(small, small.begin(), lower);
        out.push_back({std::move(small), begin, glued, label});
        run = word;
        glued = true;
    };
    for (std::size_t i = 0; i < text.size();) {
        const View rest = text.substr(i);
        std::size_t length = 1;
        if (const std::size_t blank = blank_at(rest)) {
            length = blank, glued = false;
        } else if (const std::size_t font = font_at(rest)) {
            length = font, fonts.push_back(true);
        } else if (const auto* sign = sign_at(rest)) {
            length = sign->first.size();
            if (!sign->second.empty()) add(sign->second, i, sign->second == "'");
        } else if (rest[0] == '}' && !fonts.empty() && fonts.back()) {
            fonts.pop_back();
        } else if (is_word(rest[0])) {
            add(rest.substr(0, 1), i, true);
        } else if (View("*`\"$").find(rest[0]) == npos) {
            if (rest[0] == '{') fonts.push_back(false);
            if (rest[0] == '}' && !fonts.empty()) fonts.pop_back();
            add(rest.substr(0, 1), i, false);
        }
        i += length;
    }
    for (ChoiceToken& token : out) {  // 'library'
        if (token.word.size() > 1 && token.word.front() == '\'') token.word.erase(0, 1);
        if (token.word.size() > 1 && token.word.back() == '\'') token.word.pop_back();
    }
    return out;
}

constexpr auto kArticles = std::to_array<View>({"a", "an", "the"});

// Without articles; a capital A may be a label and stays.
Tokens tokens_in(View text) {
    Tokens out = spelt(text.substr(0, kMaxAnswer));
    std::erase_if(out, [](const ChoiceToken& token) {
        return !token.label && is_one_of(token.word, kArticles);
    });
    return out;
}

bool is_space_or_stop(const ChoiceToken& token) {
    return token.word == "." || token.word == "!";
}

// The words of a choice; of one that is no more than an article that one.
Tokens choice_tokens(View text) {
    Tokens all = spelt(text);
    while (!all.empty() && is_space_or_stop(all.back())) all.pop_back();
    Tokens out = all;
    std::erase_if(out, [](const ChoiceToken& token) { return is_one_of(token.word, kArticles); });
    return out.empty() ? all : out;
}

// The text of a line that lists the choice of a letter: A: bank, (B) library, C. shop.
std::optional<View> listed(View line, char letter) {
    line = line.substr(std::min(line.find_first_not_of(" \t*-"), line.size()));
    if (line.starts_with('(')) line.remove_prefix(1);
    if (line.size() < 3 || line[0] != letter || View(":).").find(line[1]) == npos) return {};
    line.remove_prefix(2);
    const std::size_t begin = line.find_first_not_of(" \t*");
    if (begin == npos || begin == 0) return {};
    return line.substr(begin, line.find_last_not_of(" \t\r") + 1 - begin);
}

// Do the signs beside tokens[begin, end) belong to it, as in -3, 3.5 and 10%?
bool is_cut(const Tokens& tokens, std::size_t begin, std::size_t end) {
    const auto sign = [&](std::size_t at, View signs) {
        return tokens[at].word.size() == 1 && signs.find(tokens[at].word[0]) != npos;
    };
    if (begin > 0 && tokens[begin].glued && sign(begin - 1, "-+./,^\\<>=")) return true;
    if (end >= tokens.size() || !tokens[end].glued) return false;
    if (sign(end, "%^+*=<>/\\")) return true;
    return sign(end, ".,:-") && end + 1 < tokens.size() && tokens[end + 1].glued &&
           is_word(tokens[end + 1].word[0]);
}

// ---- what stands around the words of a choice ----

constexpr auto kLeads = std::to_array<View>(
    {"option",     "choice",    "answer",  "is",     "it",        "it's",   "that",
     "that's",     "would",     "be",      "should", "must",      "likely", "probably",
     "definitely", "certainly", "clearly", "surely", "obviously", "simply", "indeed",
     "therefore",  "thus",      "so",      "hence",  "then",      "in",     "at",
     "on",         "(",         "[",       ":",      ","});

constexpr auto kReasons =
    std::to_array<View>({"because", "since", "as", "where", "which", "when", "for", "who", "so"});

constexpr auto kStops = std::to_array<View>({".", ",", ";", ":", "!", ")", "]", "("});

// Behind these a text is no longer about the letter before.
constexpr auto kParts = std::to_array<View>({"not", "unlike", "than", "whereas", "while", "rather",
                                             "instead", "because", "since", "as", "so"});

// Behind a choice these leave open whether it is the answer.
constexpr auto kDoubts = std::to_array<View>(
    {"or", "and",      "but", "maybe",    "perhaps", "possibly", "wait",   "actually",
     "no", "not",      "nor", "although", "though",  "however",  "unless", "except",
     "if", "unlikely", "?",   "/",        "|",       "&"});

constexpr auto kFaults = std::to_array<View>(
    {"wrong", "incorrect", "mistaken", "false", "impossible", "wait", "actually", "however"});

bool is_lead(const Tokens& tokens, std::size_t at) {
    if (tokens[at].word == "most") return at + 1 < tokens.size() && tokens[at + 1].word == "likely";
    return is_one_of(tokens[at].word, kLeads);
}

// Does nothing behind a choice go on with it, doubt it or take it back?
bool is_settled(const Tokens& tokens, std::size_t end) {
    if (end == tokens.size()) return true;
    const ChoiceToken& next = tokens[end];
    const bool dash = next.word == "-" && !next.glued;
    if (!dash && !is_one_of(next.word, kStops) && !is_one_of(next.word, kReasons)) return false;
    bool reason = false;
    for (std::size_t at = end; at < tokens.size(); ++at) {
        const View word = tokens[at].word;
        reason = reason || is_one_of(word, kReasons);
        if (is_one_of(word, kFaults) || (!reason && is_one_of(word, kDoubts))) return false;
        if (word.ends_with("n't") && !reason) return false;
    }
    return true;
}

// Is a capital letter outside of tokens[begin, end) another label than `letter`?
bool names_other(const Tokens& tokens, std::size_t begin, std::size_t end, char letter) {
    for (std::size_t at = 0; at < tokens.size(); ++at) {
        const ChoiceToken& token = tokens[at];
        const char name =
            static_cast<char>(std::toupper(static_cast<unsigned char>(token.word[0])));
        if (!token.label || (at >= begin && at < end) || name == letter || name == 'I') continue;
        const bool article = name == 'A' && at + 1 != begin && at + 1 < tokens.size() &&
                             is_word(tokens[at + 1].word[0]) && !tokens[at + 1].label &&
                             !tokens[at + 1].glued && at >= end;
        if (!article) return true;
    }
    return false;
}

std::optional<std::string> only(std::uint32_t choices) {
    if (!std::has_single_bit(choices)) return {};
    return std::string(1, static_cast<char>('A' + std::countr_zero(choices)));
}

}  // namespace

ChoiceTexts::ChoiceTexts(View question) {
    std::vector<Tokens> block;
    const auto end_block = [&] {
        if (block.size() > 1) texts_ = block;
        block.clear();
    };
    while (!question.empty()) {
        const std::size_t length = std::min(question.find('\n'), question.size());
        const View line = question.substr(0, length);
        question.remove_prefix(std::min(length + 1, question.size()));
        if (line.find_first_not_of(" \t\r") == npos) continue;
        auto text =
            block.size() < 26 ? listed(line, static_cast<char>('A' + block.size())) : std::nullopt;
        if (!text) {
            end_block();
            text = listed(line, 'A');
        }
        if (text) block.push_back(choice_tokens(*text));
    }
    end_block();
}

ChoiceTexts::Match ChoiceTexts::longest_at(const Tokens& tokens, std::size_t at) const {
    Match best;
    for (std::size_t i = 0; i < texts_.size(); ++i) {
        const Tokens& own = texts_[i];
        const std::size_t n = own.size();
        if (n == 0 || n < best.length || at + n > tokens.size()) continue;
        const bool same = std::ranges::equal(own, std::span(tokens).subspan(at, n), {},
                                             &ChoiceToken::word, &ChoiceToken::word);
        if (!same || is_cut(tokens, at, at + n)) continue;
        if (n > best.length) best = {0, n};
        best.choices |= std::uint32_t{1} << i;
    }
    return best;
}

std::uint32_t ChoiceTexts::all_in(const Tokens& tokens, std::size_t begin, std::size_t end) const {
    std::uint32_t found = 0;
    while (begin < end) {
        const Match match = longest_at(tokens, begin);
        found |= match.choices;
        begin += std::max<std::size_t>(match.length, 1);
    }
    return found;
}

bool ChoiceTexts::denies_in_words(View text) const {
    if (text.empty()) return false;
    const Tokens tokens = tokens_in(text);
    std::uint32_t found = all_in(tokens, 0, tokens.size());
    for (std::size_t i = 0; found; found >>= 1U, ++i)
        if (found & 1U && texts_[i][0].word == "not") return true;
    return false;
}

std::optional<std::string> ChoiceTexts::named(View text) const {
    if (empty()) return {};
    const View kept = without_denial(text);
    if (denies_in_words(text.substr(kept.size()))) return {};
    const Tokens tokens = tokens_in(kept);
    for (std::size_t at = 0; at < tokens.size(); ++at) {
        const auto [choices, length] = longest_at(tokens, at);
        if (length == 0) {
            const bool label = tokens[at].word == "a" && tokens[at].label;  // or an article
            if (label || is_lead(tokens, at)) continue;
            return {};
        }
        const auto letter = only(choices);
        if (!letter || all_in(tokens, 0, tokens.size()) != choices ||
            names_other(tokens, at, at + length, (*letter)[0]) || !is_settled(tokens, at + length))
            return {};
        return letter;
    }
    return {};
}

std::optional<std::string> ChoiceTexts::alone(View line) const {
    if (empty()) return {};
    Tokens tokens = tokens_in(line);
    while (!tokens.empty() && is_space_or_stop(tokens.back())) tokens.pop_back();
    if (tokens.empty()) return {};
    const auto [choices, length] = longest_at(tokens, 0);
    return length == tokens.size() ? only(choices) : std::nullopt;
}

std::string ChoiceTexts::standing(View text) const {
    std::string letters;
    if (empty()) return letters;
    const Tokens tokens = tokens_in(text);
    const std::uint32_t found = all_in(tokens, 0, tokens.size());
    for (std::size_t i = 0; i < texts_.size(); ++i)
        if (found >> i & 1U) letters += static_cast<char>('A' + i);
    return letters;
}

std::uint32_t ChoiceTexts::beside(const Tokens& tokens, std::size_t letter, View text) const {
    const bool stopped = letter + 2 < tokens.size() && tokens[letter + 1].word == "." &&
                         !tokens[letter + 2].glued;  // B. The bank lends money.
    std::size_t begin = letter + 1;
    for (; begin < tokens.size() && longest_at(tokens, begin).length == 0; ++begin) {
        const View word = tokens[begin].word;
        if (is_word(word[0]) && word != "i" && word != "e") break;  // i.e.
    }
    if (begin >= tokens.size()) return 0;
    const Match first = longest_at(tokens, begin);
    const std::size_t next = begin + first.length;
    if (stopped) {
        const bool all = next == tokens.size() || is_one_of(tokens[next].word, kStops);
        return all ? first.choices : 0;
    }
    const std::size_t stop = sentence_end(text.substr(0, kMaxAnswer), tokens[begin].begin);
    std::size_t end = next;
    while (end < tokens.size() && tokens[end].begin < stop && !is_one_of(tokens[end].word, kParts))
        ++end;
    return all_in(tokens, begin, end);
}

bool ChoiceTexts::contradict(char letter, View text) const {
    if (empty()) return false;
    const Tokens tokens = tokens_in(text);
    const View name(&letter, 1);
    const auto own = static_cast<std::size_t>(
        std::ranges::find_if(tokens, [&](const auto& token) { return begins(name, token.word); }) -
        tokens.begin());
    if (own == tokens.size()) return false;
    const auto another = [&](std::uint32_t found) {
        return found != 0 && !(found >> (letter - 'A') & 1U);
    };
    return another(all_in(tokens, 0, own)) || another(beside(tokens, own, text));
}

}  // namespace malt
