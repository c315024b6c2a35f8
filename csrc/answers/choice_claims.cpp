// Claims by short lists of words.
#include "answers/choice_claims.hpp"

namespace malt {
namespace {

using View = std::string_view;
using Tokens = ChoiceTokens;

constexpr auto kNegators = std::to_array<View>({"not", "never", "no", "cannot", "hardly", "non"});

// These deny no more than praise: the least likely.
constexpr auto kWeak = std::to_array<View>({"least", "less", "little", "rarely", "far"});

// These deny what follows them, and say nothing against what is before.
constexpr auto kContrasts = std::to_array<View>(
    {"neither", "nor", "unlike", "than", "instead", "rather", "over", "except", "excluding",
     "avoid", "reject", "discard", "besides", "eliminate", "exclude", "disagree", "contrary"});

constexpr auto kBlame = std::to_array<View>(
    {"wrong",       "wrongly",     "incorrect",   "incorrectly",  "false",      "untrue",
     "mistake",     "mistaken",    "mistakenly",  "unlikely",     "impossible", "invalid",
     "implausible", "nonsense",    "fails",       "excluded",     "eliminated", "rejected",
     "ruled",       "contradicts", "misread",     "misspoke",     "reconsider", "rethink",
     "bad",         "worst",       "oops",        "typo",         "kidding",    "doubt",
     "fail",        "flawed",      "nonsensical", "unreasonable", "inaccurate"});

// Denied, these judge: not right, makes no sense, can't be it.
constexpr auto kPraise = std::to_array<View>({"right", "correct", "true", "valid", "likely",
                                              "possible", "answer", "sense", "fit", "work", "hold",
                                              "best", "good", "sure", "plausible", "reasonable"});

// With these a sentence turns away from the one before, or asks it.
constexpr auto kTurns =
    std::to_array<View>({"no",        "nope",     "wait",       "hmm",           "actually",
                         "but",       "however",  "sorry",      "oops",          "scratch",
                         "edit",      "or",       "correction", "wrong",         "not",
                         "incorrect", "strike",   "false",      "alternatively", "maybe",
                         "perhaps",   "possibly", "never",      "hold",          "disregard",
                         "ignore",    "rather",   "unless",     "rejected"});

constexpr auto kReasons =
    std::to_array<View>({"because", "since", "as", "where", "which", "when", "for", "who", "so",
                         "while", "whereas", "although", "though", "given", "due"});

// In the sentence of a choice these leave it open.
constexpr auto kDoubts =
    std::to_array<View>({"or", "if", "unless", "except", "maybe", "perhaps", "possibly", "wait",
                         "actually", "but", "however", "otherwise", "?"});

constexpr auto kPicks = std::to_array<View>(
    {"is",       "it's",   "that's", "be",       "was",  "been",  "mean", "meant", "choose",
     "pick",     "select", "or",     "actually", "wait", "no",    "also", "maybe", "perhaps",
     "possibly", "prefer", "say",    "so",       "then", "sorry", "to",   "but"});

constexpr auto kOthers =
    std::to_array<View>({"other", "others", "rest", "remaining", "alternatives", "distractors"});

constexpr auto kJoins =
    std::to_array<View>({"and", "or", "nor", ",", "(", ")", "&", "both", "all", "option", "options",
                         "choice", "choices", "either", ":"});

constexpr auto kContinues = std::to_array<View>(
    {"is",       "was",      "as",     "because", "since",   "for",    "and",     "or",
     "but",      "which",    "that",   "where",   "when",    "while",  "not",     "if",
     "unless",   "although", "though", "than",    "whereas", "unlike", "rather",  "instead",
     "over",     "so",       "due",    "given",   "seems",   "would",  "can",     "here",
     "to",       "through",  "vs",     "plus",    "no",      "may",    "however", "then",
     "also",     "fits",     "isn't",  "at",      "by",      "out",    "never",   "should",
     "must",     "might",    "could",  "can't",   "cannot",  "wrong",  "correct", "right",
     "possibly", "maybe",    "perhaps"});

bool is_negator(const ChoiceToken& token) {
    return is_one_of(token.word, kNegators) || token.word.ends_with("n't");
}

bool is_blame(const ChoiceToken& token) {
    return !token.letter && is_one_of(token.word, kBlame);
}

std::size_t sentence_end(const Tokens& tokens, std::size_t at) {
    ++at;
    while (at < tokens.size() && !tokens[at].opens) ++at;
    return std::min(at, tokens.size());
}

bool is_other(const ChoiceToken& token, char letter) {
    return token.letter && token.letter != letter;
}

// Is a choice one of those that its clause denies: not B, neither B nor C, rather than B?
bool is_denied(const Tokens& tokens, std::size_t at) {
    const std::size_t choice = at;
    bool listed = true;  // nothing but choices in between
    while (at > 0 && !tokens[at].opens) {
        const ChoiceToken& token = tokens[--at];
        if (token.word == "but" || token.word == ";" || token.word == "." || token.word == "?")
            return false;
        if (token.word == "," && !listed) return false;
        const bool no = token.word == "no" && !(at + 1 == choice && tokens[choice].text);
        const bool negates = is_negator(token) && !no;  // A, no, C; but: no bank
        if (!token.letter && (negates || is_one_of(token.word, kContrasts))) return true;
        listed = listed && (token.letter || is_one_of(token.word, kJoins));
    }
    return false;
}

// Does a clause deny the choices that it begins with: B and C are wrong?
bool is_faulted(const Tokens& tokens, std::size_t at) {
    const std::size_t end = sentence_end(tokens, at);
    while (at < end && (tokens[at].letter || is_one_of(tokens[at].word, kJoins))) ++at;
    for (std::size_t last = std::min(at + 5, end); at < last; ++at) {
        if (tokens[at].word == "," || tokens[at].word == ";") return false;
        if (is_blame(tokens[at]) || is_negator(tokens[at])) return true;
    }
    return false;
}

// Does a later clause choose the choice at `at`: it is B, I mean B, B is better?
bool is_picked(const Tokens& tokens, std::size_t at) {
    std::size_t before = at;
    constexpr auto leads = std::to_array<View>(
        {"(", "option", "choice", "letter", "answer", "likely", "probably", "rather", "really",
         "definitely", "clearly", "now", "rightly", ",", ":"});
    while (before > 0 && !tokens[before].opens && is_one_of(tokens[before - 1].word, leads))
        --before;
    const bool no = before == at && at > 0 && tokens[at].text && tokens[at - 1].word == "no";
    if (before > 0 && !tokens[before].opens && !tokens[before - 1].letter && !no &&
        is_one_of(tokens[before - 1].word, kPicks))
        return true;
    constexpr auto wins = std::to_array<View>(
        {"better", "best", "right", "correct", "answer", "fits", "likelier", "true", "preferable"});
    const std::size_t end = std::min(sentence_end(tokens, at), at + 6);
    for (++at; at < end && !tokens[at].letter && tokens[at].word != ","; ++at)
        if (is_one_of(tokens[at].word, wins)) return true;
    return false;
}

// Does tokens[at] deny praise, or put out: not right, makes no sense, cannot be, is out?
bool denies_praise(const Tokens& tokens, std::size_t at, std::size_t end) {
    const View word = tokens[at].word, after = at + 1 < end ? View(tokens[at + 1].word) : View();
    constexpr auto links = std::to_array<View>({"is", "are", "seems", "looks", "sounds", "it's"});
    if ((after == "out" || after == "off") && is_one_of(word, links)) return true;
    if (word == "take") return at + 2 < end && tokens[at + 2].word == "back";
    if (!is_negator(tokens[at]) && !is_one_of(word, kWeak)) return false;
    for (++at; at < end; ++at) {
        if (tokens[at].letter) continue;
        if (is_one_of(tokens[at].word, kPraise)) return true;
        const bool last = at + 1 == end || tokens[at + 1].word == ".";
        if (last && (tokens[at].word == "be" || tokens[at].word == "it")) return true;
    }
    return false;
}

// May a denial in the sentence of a choice stand: not B, (not the bank), not that it costs much?
bool denies_another(const Tokens& tokens, std::size_t at, std::size_t end, char letter) {
    if (denies_praise(tokens, at, end)) return false;
    for (std::size_t near = at + 1; near < std::min(at + 5, end); ++near) {
        if (is_other(tokens[near], letter)) return true;
        if (tokens[near].word == "," || tokens[near].word == ";") break;
    }
    if (at == 0 || at + 1 >= end || !is_word(tokens[at + 1])) return false;
    constexpr auto joins = std::to_array<View>({",", "(", "and", "but", ";", "-"});
    return tokens[at].word == "not" && is_one_of(tokens[at - 1].word, joins);
}

// Where the text of a choice that is not known ends: B) 5 or more. Without a sign before it there
// is none.
std::size_t text_end(const Tokens& tokens, std::size_t at, std::size_t end) {
    if (at >= end || (tokens[at].word != ")" && tokens[at].word != ":")) return at;
    constexpr auto stops = std::to_array<View>({",", ";", "(", "-", "because", "since", "?"});
    std::size_t last = at + 1;
    while (last < end && !is_one_of(tokens[last].word, stops)) ++last;
    const bool brief = last < at + 4;  // A: not true
    return brief || denies_praise(tokens, at + 1, end) || is_blame(tokens[at + 1]) ? at : last;
}

// Is it a word of such a text, and no judgement of it: (A) bank is wrong?
bool is_of_text(const Tokens& tokens, std::size_t at) {
    constexpr auto links = std::to_array<View>({"is", "are", "was", "isn't", "seems", "would"});
    return !is_one_of(tokens[at].word, links) && !is_one_of(tokens[at - 1].word, links);
}

// The rest of the sentence of a choice.
bool is_settled(const Tokens& tokens, std::size_t at, std::size_t end, char letter, bool known) {
    const std::size_t text = known ? at : text_end(tokens, at, end);
    bool reason = false, relative = false, others = false;
    if (at + 2 < tokens.size() && is_word(tokens[at + 1]) && !tokens[at + 1].letter &&
        !is_word(tokens[at]) && tokens[at].word != "," && tokens[at + 2].label &&
        !is_one_of(tokens[at + 1].word, kPicks) && !is_one_of(tokens[at + 1].word, kJoins) &&
        !is_one_of(tokens[at + 1].word, kContrasts) && !is_negator(tokens[at + 1]))
        at += 3;  // (C) plan B
    for (; at < end; ++at) {
        const ChoiceToken& token = tokens[at];
        if (is_other(token, letter)) {
            const bool aside = is_denied(tokens, at) || is_faulted(tokens, at);
            if (!aside && (!reason || is_picked(tokens, at))) return false;
            others = true;
        }
        if (token.letter || (at < text && is_of_text(tokens, at))) continue;
        const View next = at + 1 < end ? View(tokens[at + 1].word) : View();
        if (is_one_of(token.word, kReasons) &&
            !(token.word == "as" &&
              (next == "well" || next == "is" || next == "are" || tokens[at - 1].word == "well"))) {
            reason = true;
            relative = token.word == "which" || token.word == "who";
        }
        if (others || (reason && !relative)) continue;
        if (is_blame(token) || denies_praise(tokens, at, end)) return false;
        if (relative) continue;
        const bool but = token.word == "but" && at + 1 < end && is_negator(tokens[at + 1]);
        if (!but && is_one_of(token.word, kDoubts)) return false;
        if (is_negator(token) && !denies_another(tokens, at, end, letter)) return false;
    }
    return true;
}

// Does a sentence begin with a word that turns away from what was said: No, it is B?
bool turns(const Tokens& tokens, std::size_t at, std::size_t end) {
    constexpr auto fillers = std::to_array<View>({"well", "ah", "oh", "so", "and", "then"});
    while (at < end && (!is_word(tokens[at]) || is_one_of(tokens[at].word, fillers))) ++at;
    const View next = at + 1 < end ? View(tokens[at + 1].word) : View();
    if (next == "second" || next == "reflection") return true;  // on second thought
    if (at >= end || tokens[at].letter || !is_one_of(tokens[at].word, kTurns)) return false;
    if (tokens[at].word == "not") return at + 1 >= end || !tokens[at + 1].letter;
    if (tokens[at].word != "no" || at + 1 >= end) return true;
    constexpr auto again = std::to_array<View>(
        {"it", "it's", "that", "that's", "this", "wait", "i", "sorry", "actually", "is"});
    return !is_word(tokens[at + 1]) || tokens[at + 1].label ||
           is_one_of(tokens[at + 1].word, again);
}

// Does a later sentence begin with another choice and nothing more: (C) cat.
bool lists(const Tokens& tokens, std::size_t at, std::size_t end) {
    const std::size_t first = at;
    while (at < end && !tokens[at].letter) {
        if (is_word(tokens[at])) return false;
        ++at;
    }
    if (at + 1 >= end) return at < end;
    if (tokens[at].text && tokens[at + 1].word == "(") return true;
    constexpr auto stops = std::to_array<View>({".", ",", ";", ":", "!", ")", "]", "?"});
    return (at == first || tokens[at - 1].word == "(") && is_one_of(tokens[at + 1].word, stops);
}

// Is the choice at `at` all that a later sentence comes to: Well, B.  And B.  B, too.
bool ends_with(const Tokens& tokens, std::size_t first, std::size_t at, std::size_t end) {
    constexpr auto tails = std::to_array<View>({"too", "as", "well", "also", "instead", "though"});
    for (std::size_t after = at + 1; after < end; ++after)
        if (is_word(tokens[after]) ? !is_one_of(tokens[after].word, tails)
                                   : tokens[after].word == ")")
            return false;
    return tokens[at].label || at < first + 3;
}

// Does a later sentence take the choice back, or choose another one?
bool takes_back(const Tokens& tokens, std::size_t at, std::size_t end, char letter) {
    if (turns(tokens, at, end)) return true;
    bool others = false, reason = false;
    for (std::size_t first = at; at < end; ++at) {
        const ChoiceToken& token = tokens[at];
        if (is_other(token, letter)) {
            const bool aside = is_denied(tokens, at) || is_faulted(tokens, at);
            const bool item = token.label && at + 2 == end && tokens[at + 1].word == "." &&
                              end < tokens.size() && tokens[end].small;  // bank B. library
            if (!aside && !others && !reason &&
                (item || lists(tokens, first, end) || ends_with(tokens, first, at, end) ||
                 is_picked(tokens, at)))
                return true;
            others = true;
        }
        others = others || is_one_of(token.word, kOthers);
        reason = reason || token.word == "because" || token.word == "since";
        if (others || reason || token.letter) continue;
        const bool ahead = at + 1 < end && (is_other(tokens[at + 1], letter) ||
                                            is_one_of(tokens[at + 1].word, kOthers));
        if (is_blame(token) && !ahead) return true;
        if (denies_praise(tokens, at, end)) return true;
    }
    return false;
}

}  // namespace

bool is_kept(const Tokens& tokens, std::size_t at, char letter, bool known) {
    std::size_t end = at;
    while (end < tokens.size() && !tokens[end].opens) ++end;
    if (!is_settled(tokens, at, end, letter, known)) return false;
    while (end < tokens.size()) {
        at = end;
        end = sentence_end(tokens, at);
        if (takes_back(tokens, at, end, letter)) return false;
        const bool said = std::any_of(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                                      tokens.begin() + static_cast<std::ptrdiff_t>(end),
                                      [](auto& token) { return !token.letter && is_word(token); });
        if (said) break;
    }
    for (; end < tokens.size(); end = sentence_end(tokens, at)) {  // Let me check. No.
        at = end;
        if (at > 0 && tokens[at - 1].word == "?") continue;
        end = sentence_end(tokens, at);
        const auto words = std::count_if(tokens.begin() + static_cast<std::ptrdiff_t>(at),
                                         tokens.begin() + static_cast<std::ptrdiff_t>(end),
                                         [](auto& token) { return is_word(token); });
        if (words < 3 && turns(tokens, at, end)) return false;
    }
    return true;
}

bool is_quiet(const Tokens& tokens, char letter) {
    constexpr auto takes = std::to_array<View>(
        {"not", "cannot", "but", "however", "or", "wait", "actually", "alternatively", "hardly"});
    for (std::size_t at = 0; at < tokens.size(); ++at) {
        const ChoiceToken& token = tokens[at];
        if (is_other(token, letter)) return false;
        if (is_one_of(token.word, takes) || is_blame(token)) return false;
        if (!token.opens) continue;
        if (takes_back(tokens, at, sentence_end(tokens, at), letter)) return false;
    }
    return true;
}

bool is_negative(const Tokens& tokens) {
    if (!tokens.empty() && tokens.back().word == "or") return true;
    return std::ranges::any_of(tokens, [](const ChoiceToken& token) {
        return !token.letter && (is_negator(token) || is_blame(token) || token.word == "but" ||
                                 token.word == "rule" || is_one_of(token.word, kContrasts));
    });
}

bool goes_on(const ChoiceToken& token) {
    return is_one_of(token.word, kContinues) || token.word.ends_with("n't") || token.letter ||
           static_cast<unsigned char>(token.word[0]) >= 0x80;
}

}  // namespace malt
