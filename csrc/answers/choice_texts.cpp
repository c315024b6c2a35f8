// Words of choices in words of answers.
#include "answers/choice_texts.hpp"

#include <span>

#include "answers/answers.hpp"
#include "answers/sentences.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;
using Tokens = ChoiceTokens;

constexpr auto kArticles = std::to_array<View>({"a", "an", "the"});

// Behind these a capital A is the letter of a choice, and no article.
constexpr auto kAfterLetter = std::to_array<View>(
    {"is",   "because", "since", "as",   "was",  "for", "and",   "or",    "but",     "instead",
     "over", "rather",  "nor",   "are",  "vs",   "if",  "not",   "isn't", "can't",   "cannot",
     "to",   "through", "plus",  "also", "then", "no",  "which", "while", "whereas", "unlike"});

// Is a capital A or I the article or the pronoun: A dog, I think; not: A is, A because?
bool is_article(const Tokens& tokens, std::size_t at) {
    if (!tokens[at].label || (tokens[at].word != "a" && tokens[at].word != "i")) return false;
    if (at + 1 == tokens.size() || (at > 0 && tokens[at].glued)) return false;
    const ChoiceToken& next = tokens[at + 1];
    if (next.glued || next.opens || !next.small) return false;
    return tokens[at].word == "i" || !is_one_of(next.word, kAfterLetter);
}

bool is_stop(const ChoiceToken& token) {
    return token.word == "." || token.word == "!";
}

// The words of a choice; of one that is no more than an article that one.
Tokens choice_tokens(View text) {
    Tokens all = choice_words(text);
    while (!all.empty() && is_stop(all.back())) all.pop_back();
    Tokens out;
    for (std::size_t at = 0; at < all.size(); ++at)
        if (!is_one_of(all[at].word, kArticles) || (at > 0 && all[at].label))
            out.push_back(all[at]);
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
    const bool lettered = begin > 1 && tokens[begin - 2].label && tokens[begin - 1].word == "-" &&
                          is_alpha(tokens[begin].word[0]);  // D-none of them
    if (begin > 0 && tokens[begin].glued && !lettered && sign(begin - 1, "-+./,^\\<>="))
        return true;
    if (end >= tokens.size() || !tokens[end].glued) return false;
    if (sign(end, "%^+*=<>/\\")) return true;
    if (static_cast<unsigned char>(tokens[end - 1].word[0]) >= 0x80) return false;  // Chinese
    return sign(end, ".,:-") && end + 1 < tokens.size() && tokens[end + 1].glued &&
           is_word(tokens[end + 1].word[0]);
}

}  // namespace

ChoiceTexts::ChoiceTexts(View question) {
    std::vector<View> block;
    const auto end_block = [&] {
        if (block.size() > 1) {
            texts_.clear(), with_article_.clear();
            for (const View text : block) {
                texts_.push_back(choice_tokens(text));
                with_article_.push_back(begins(text, "a "));
            }
        }
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
        if (text) block.push_back(*text);
    }
    end_block();
}

bool ChoiceTexts::has(char letter) const {
    return empty() || (letter >= 'A' && static_cast<std::size_t>(letter - 'A') < texts_.size());
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
        best = {n > best.length ? static_cast<char>('A' + i) : kManyChoices, n};
    }
    return best;
}

Tokens ChoiceTexts::tokens(View text, bool chooses) const {
    const Tokens all = choice_words(text.substr(0, kMaxAnswer));
    Tokens kept, out;
    std::vector<bool> doubtful;  // a capital A that may be the letter: A library
    bool opens = false, capital = false, first = chooses;
    for (std::size_t at = 0; at < all.size(); ++at) {
        const bool article = is_article(all, at) && all[at].word == "a";
        const bool leads = at + 1 < all.size() && !all[at + 1].glued && is_word(all[at + 1]);
        const bool dropped = leads && !all[at].label && is_one_of(all[at].word, kArticles);
        opens = opens || all[at].opens;
        if (!dropped && (!article || first)) {
            kept.push_back(all[at]);
            kept.back().opens = opens;
            kept.back().small = kept.back().small && !capital;
            opens = capital = false;
            doubtful.push_back(article);
        } else
            capital = !all[at].small;  // The bank
        first = first && !is_word(all[at]);
    }
    for (std::size_t at = 0; at < kept.size();) {
        if (doubtful[at]) {
            const auto [letter, length] = longest_at(kept, at + 1);
            const bool listed = length && letter != kManyChoices &&
                                with_article_[static_cast<std::size_t>(letter - 'A')];
            if (listed || !length) {
                if (++at < kept.size()) kept[at].opens = true;
                continue;
            }
        }
        const bool behind = out.size() > 1 && View(".:)").find(out.back().word) != npos;
        const Match match = longest_at(kept, at);
        const ChoiceToken& token = kept[at];
        const char name = token.label ? static_cast<char>(token.word[0] - 'a' + 'A') : '\0';
        const bool letter = name && name <= 'J' && name != 'I' && has(name);
        out.push_back(token);
        if (match.length && !(match.length == 1 && letter && !behind))  // B: C, where C is one
            out.back().letter = match.letter, out.back().text = true, out.back().label = false;
        else if (letter)
            out.back().letter = name;
        at += out.back().text ? match.length : 1;
    }
    return out;
}

}  // namespace malt
