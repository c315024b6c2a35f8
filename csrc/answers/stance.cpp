// Stances by short lists of phrases.
#include "answers/stance.hpp"

#include <algorithm>
#include <array>

#include "answers/sentences.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

constexpr auto kAdverbs = std::to_array<View>(
    {"definitely", "certainly", "probably", "actually", "clearly", "surely",  "likely",
     "most",       "therefore", "then",     "also",     "indeed",  "simply",  "just",
     "exactly",    "strictly",  "in fact",  "slightly", "much",    "far",     "quite",
     "very",       "both",      "really",   "perhaps",  "maybe",   "possibly"});

constexpr auto kDenials = std::to_array<View>({"not",
                                               "never",
                                               "isn't",
                                               "cannot be",
                                               "can't be",
                                               "more than",
                                               "less than",
                                               "fewer than",
                                               "greater than",
                                               "larger than",
                                               "smaller than",
                                               "bigger than",
                                               "higher than",
                                               "lower than",
                                               "at least",
                                               "at most",
                                               "up to",
                                               "no more than",
                                               "no less than",
                                               "no fewer than",
                                               "no greater than",
                                               "no larger than",
                                               "no smaller than",
                                               "over",
                                               "under",
                                               "above",
                                               "anything but",
                                               "other than",
                                               "different from",
                                               "neither",
                                               "a maximum of",
                                               "a minimum of",
                                               "upwards of",
                                               "cannot",
                                               "no fewer",
                                               "no less",
                                               "no bigger than",
                                               "no higher than",
                                               "no lower than",
                                               "none of",
                                               "at minimum",
                                               "at a minimum",
                                               "at maximum",
                                               "at a maximum",
                                               "minimum of",
                                               "maximum of",
                                               "below",
                                               "beyond",
                                               "within",
                                               "exceeding"});

constexpr auto kGuesses = std::to_array<View>(
    {"could be", "might be", "may be", "from", "either", "between", "somewhere", "anywhere"});

constexpr auto kPraise = std::to_array<View>(
    {"correct", "right", "reasonable", "valid", "sensible", "plausible", "accurate", "verified",
     "confirmed", "consistent", "sound", "fine", "clear", "obvious", "realistic", "acceptable",
     "logical", "appropriate", "justified"});

constexpr auto kBlame =
    std::to_array<View>({"wrong", "incorrect", "unreasonable", "invalid", "mistaken", "impossible",
                         "implausible", "inaccurate", "unrealistic"});

constexpr auto kPointers =
    std::to_array<View>({"given below", "shown below", "found below", "as follows", "below",
                         "shown above", "given above", "found above"});

// Before a number that is no answer.
constexpr auto kRefusals = std::to_array<View>(
    {"below",        "beyond",       "within",           "exceeding",    "exceeds",
     "twice",        "thrice",       "double",           "triple",       "half",
     "half of",      "square of",    "cube of",          "root of",      "multiple of",
     "factor of",    "divisor of",   "divisible by",     "half the",     "reciprocal of",
     "not",          "n't",          "n\u2019t",         "never",        "nor",
     "cannot",       "not be",       "n't be",           "n\u2019t be",  "never be",
     "cannot be",    "not equal",    "not equal to",     "n't equal",    "n\u2019t equal",
     "cannot equal", "than",         "than or equal to", "at least",     "at most",
     "up to",        "instead of",   "different from",   "except",       "between",
     "either",       "neither",      "\u4e0d\u662f",     "\u4e0d\u4e3a", "\u4e0d\u7b49\u4e8e",
     "\u81f3\u5c11", "\u6700\u591a", "\u81f3\u591a",     "\u8d85\u8fc7", "\u5927\u4e8e",
     "\u5c0f\u4e8e", "\u5c11\u4e8e", "\u591a\u4e8e",     "\u4e0d\u5230", "\u5206\u4e4b",
     "\u6216"});

// After one.
constexpr auto kReproofs = std::to_array<View>({"is wrong",
                                                "is incorrect",
                                                "is not correct",
                                                "is not right",
                                                "is not the answer",
                                                "is not the correct",
                                                "is not the right",
                                                "isn't correct",
                                                "isn't right",
                                                "isn't the answer",
                                                "is impossible",
                                                "is not possible",
                                                "is invalid",
                                                "is not valid",
                                                "is unreasonable",
                                                "is a mistake",
                                                "is too",
                                                "was wrong",
                                                "was incorrect",
                                                "would be wrong",
                                                "are wrong",
                                                "are incorrect",
                                                "cannot be right",
                                                "cannot be correct",
                                                "can't be right",
                                                "can't be correct"});

// After a bound.
constexpr auto kLimits = std::to_array<View>(
    {"at most", "at least", "or more", "or less", "or fewer", "or higher", "or greater"});

// Is it one of a pair between which nothing is decided: either 5 or 6, 5 or 6?
bool is_alternative(View before) {
    if (ends(before, " or"))
        return before.size() > 3 &&
               (is_digit(before[before.size() - 4]) || before.find("either ") != npos);
    return ends(before, " and") && before.find("between ") != npos;
}

}  // namespace

Stance stance_of(View text) {
    using enum Stance;
    text = text.substr(0, 128);
    for (const View font : {View(""), View("\\text{"), View("\\textbf{"), View("\\mathrm{")})
        if (text.starts_with(font) && !font.empty()) text.remove_prefix(font.size());
    text = without_lead(text, " *_$\"'");
    if (text.empty() || is_digit(text[0])) {
        // 5 is wrong
    } else if (is_alpha(text[0])) {
        while (true) {
            const View adverb = word_of(text, kAdverbs);
            if (adverb.empty()) break;
            text = without_lead(text.substr(adverb.size()), " ,");
        }
        const View denial = word_of(text, kDenials);
        const View guess = word_of(text, kGuesses);
        const View place = without_lead(text.substr(denial.size() + guess.size()), " ");
        constexpr auto articles = std::to_array<View>(
            {"the", "a", "all", "this", "these", "his", "her", "their", "both", "them", "us"});
        const bool placed = !word_of(place, articles).empty();  // over the year
        const bool denied = !denial.empty() && !(placed && denial.find(' ') == npos &&
                                                 View("oubw").find(lower(denial[0])) != npos);
        View rest = text;
        if (begins(rest, "not ")) rest = without_lead(rest.substr(4), " ");
        for (View adverb = word_of(rest, kAdverbs); !adverb.empty();
             adverb = word_of(rest, kAdverbs))
            rest = without_lead(rest.substr(adverb.size()), " ,");
        const View praise = word_of(rest, kPraise), blame = word_of(rest, kBlame);
        if (!praise.empty() || !blame.empty()) {
            constexpr auto joins = std::to_array<View>(
                {"and",  "because", "as",    "since", "but",   "for",   "with", "if",   "given",
                 "so",   "in",      "too",   "that",  "to",    "or",    "by",   "when", "after",
                 "here", "now",     "using", "based", "which", "again", "even"});
            const View after = without_lead(rest.substr(praise.size() + blame.size()), " *_");
            const bool goes_on = !after.empty() && (is_alpha(after[0]) || is_digit(after[0]) ||
                                                    View("($\\").find(after[0]) != npos);
            if (!goes_on || !word_of(after, joins).empty())
                return !blame.empty() || denied ? kFaults : kPraises;
        }
        if (!word_of(rest, kPointers).empty()) return kPraises;
        if (denied) return kDenies;
        if (!guess.empty() && !(placed && begins(guess, "between"))) return kWavers;
    } else if (wide(text)) {
        constexpr auto denials = std::to_array<View>(
            {"\u4e0d", "\u81f3\u5c11", "\u6700\u591a", "\u81f3\u591a", "\u8d85\u8fc7",
             "\u5927\u4e8e", "\u5c0f\u4e8e", "\u5c11\u4e8e", "\u591a\u4e8e"});
        if (begins_any(text, denials)) return kDenies;
    }
    const View clause = text.substr(0, std::min(sentence_end(text, 0), text.find_first_of(",;")));
    std::size_t at = clause.find(' ');
    for (int words = 0; at != npos && words < 2; at = clause.find(' ', at + 1), ++words)
        if (begins_any(clause.substr(at + 1), kReproofs)) return kDenies;
    return kStates;
}

bool is_refused(View before, View after) {
    const std::size_t tail = before.size() > 48 ? before.size() - 48 : 0;
    before = before.substr(std::max(tail, sentence_begin(before, before.size())));
    before = before.substr(0, before.find_last_not_of(" \t$*_(\"'`~{[\\\u2212-") + 1);
    for (const View phrase : kRefusals) {
        if (!ends(before, phrase)) continue;
        const bool word = before.size() == phrase.size() || !is_alpha(phrase[0]) ||
                          phrase.starts_with("n't") || phrase.starts_with("n\u2019t") ||
                          !is_alpha(before[before.size() - phrase.size() - 1]);
        if (word) return true;
    }
    if (is_alternative(before)) return true;
    if (before.size() > 2 && (before.ends_with(" >") || before.ends_with(" <"))) return true;
    after = after.substr(0, 48);
    after = without_lead(after, " $*_)\"'`");
    if (begins(after, "or ") && digit_at(without_lead(after.substr(3), " $"), 0)) return true;
    if (after.starts_with('+') && !digit_at(after, 1) && after.size() < 3) return true;
    if (begins_any(after, kLimits) || begins(after, "\u6216")) return true;
    return begins_any(after, kReproofs) || begins(after, "cannot be") || begins(after, "can't be");
}

bool is_denied(View before) {
    const auto mark = [](char c) {  // faster than a search: this runs before each box
        return c == ' ' || c == '$' || c == '*' || c == '(' || c == '[' || c == '{' || c == '\\';
    };
    while (!before.empty() && mark(before.back())) before.remove_suffix(1);
    const char last = before.empty() ? ' ' : before.back();
    if (last == 'e' && before.ends_with(" be")) before.remove_suffix(3);
    if (last != 't' && last != 'e' && last != 'r') return false;  // as almost always
    return before.ends_with(" never") || before.ends_with("not") || before.ends_with("n't") ||
           before.ends_with("n\u2019t");
}

View without_denial(View text) {
    for (const View phrase : {View(", not "), View("; not "), View(" and not "), View(" but not "),
                              View(" rather than "), View(" instead of "), View(" (not ")})
        text = text.substr(0, text.find(phrase));
    return text;
}

}  // namespace malt
