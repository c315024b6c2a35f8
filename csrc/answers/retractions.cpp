// A clause takes an answer back if it says no, or if its subject is the answer or its author and
// it names a fault. A clause that hesitates does so if another number follows.
#include "answers/retractions.hpp"

#include <algorithm>
#include <array>

#include "answers/sentences.hpp"
#include "answers/stance.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

constexpr std::size_t kNear = 1024;  // bytes behind an answer
constexpr View kMarks = " \t\r\n*_\"'`$)]}.,;:!?-";

constexpr auto kJoins = std::to_array<View>(
    {"but", "however", "and", "though", "although", "yet", "so", "oh", "ah", "on reflection"});

constexpr auto kHesitations = std::to_array<View>(
    {"wait", "hmm", "hm", "actually", "sorry", "hold on", "on second thought", "edit", "or rather",
     "let me correct", "let me recalculate", "let me recompute", "let me redo", "let me fix"});

constexpr auto kRetractions = std::to_array<View>(
    {"correction", "oops", "scratch that", "strike that", "ignore that", "never mind",
     "i take that back", "i take it back", "my mistake", "my bad", "\u274c", "\u2717", "\u2718"});

constexpr auto kSubjects = std::to_array<View>(
    {"that", "this", "it", "which", "this answer", "that answer", "the answer", "my answer",
     "this result", "that result", "the result", "this value", "that value", "this number"});

constexpr auto kVerbs = std::to_array<View>(
    {"is", "was", "'s", "\u2019s", "must be", "seems", "looks", "would be", "has to be", "may be"});

constexpr auto kDenials =
    std::to_array<View>({"isn't", "isn\u2019t", "wasn't", "wasn\u2019t", "is not", "was not",
                         "cannot be", "can't be", "can\u2019t be", "could not be", "couldn't be",
                         "does not seem", "doesn't seem", "does not look", "doesn't look"});

constexpr auto kFaults = std::to_array<View>(
    {"a mistake", "an error", "my mistake", "false", "not true", "not the answer"});

constexpr auto kSlips =
    std::to_array<View>({" a mistake", " an error", "miscalculated", "misread", "miscounted",
                         " was wrong", " forgot", "misunderstood"});

// The longest of these words at the front of a text.
template <std::size_t N>
View longest_of(View text, const std::array<View, N>& words) {
    View best;
    for (const View word : words)
        if (word.size() > best.size() && begins(text, word) && !alpha_at(text, word.size()))
            best = word;
    return best;
}

bool names_fault(View text, Stance fault = Stance::kFaults) {
    text = without_lead(text, " ");
    const std::size_t space = text.find(' ');  // wrong to say, wrong if
    const View second = space == npos ? View() : text.substr(space + 1);
    if (begins(second, "to ") || begins(second, "if ")) return false;
    return stance_of(text) == fault ||
           (fault == Stance::kFaults && !word_of(text, kFaults).empty());
}

// Does a clause say of the answer that it is wrong?
bool blames(View clause) {
    if (const View subject = longest_of(clause, kSubjects); !subject.empty()) {
        const View rest = without_lead(clause.substr(subject.size()), " ");
        if (const View no = word_of(rest, kDenials); !no.empty())
            return names_fault(rest.substr(no.size()), Stance::kPraises);
        const View verb = word_of(rest, kVerbs);
        return !verb.empty() && names_fault(rest.substr(verb.size()));
    }
    if (begins(clause, "i ") || begins(clause, "i've "))
        return std::ranges::any_of(kSlips, [&](View slip) { return clause.find(slip) != npos; });
    constexpr auto fronts =
        std::to_array<View>({"wrong", "incorrect", "false", "not", "invalid", "mistaken",
                             "definitely", "clearly", "probably", "obviously", "impossible"});
    return !word_of(clause, fronts).empty() && names_fault(clause);
}

// Where the clause at the front of a sentence ends.
std::size_t clause_end(View text) {
    for (std::size_t at = 1; at < text.size(); ++at) {
        const bool wide_dash =
            text.substr(at).starts_with("\u2013 ") || text.substr(at).starts_with("\u2014");
        const bool spaced = at + 1 < text.size() && View(" \n").find(text[at + 1]) != npos;
        if (wide_dash || (spaced && View(",;:-?!.").find(text[at]) != npos)) return at;
        if (text[at] == '\n' || (text[at] == '(' && text[at - 1] == ' ')) return at;
    }
    return text.size();
}

enum class Claim : unsigned char { kOther, kHesitates, kTakesBack };

Claim claim_of(View clause) {
    bool hesitates = false;
    while (true) {
        clause = without_lead(clause, " ,\u2026");
        const View join = word_of(clause, kJoins), doubt = word_of(clause, kHesitations);
        if (join.empty() && doubt.empty()) break;
        hesitates = hesitates || !doubt.empty();
        clause.remove_prefix(join.empty() ? doubt.size() : join.size());
    }
    if (begins(clause, "no") && !alpha_at(clause, 2)) {
        const View rest = without_lead(clause.substr(2), " *_.!?,");
        if (rest.empty() || !word_of(rest, kHesitations).empty()) return Claim::kTakesBack;
    }
    if (begins_any(clause, kRetractions) || blames(clause)) return Claim::kTakesBack;
    if (hesitates && stance_of(clause) == Stance::kDenies) return Claim::kTakesBack;
    return hesitates ? Claim::kHesitates : Claim::kOther;
}

bool holds(View text, View number) {
    if (number.empty()) return false;
    for (std::size_t at = text.find(number); at != npos; at = text.find(number, at + 1))
        if (!digit_at(text, at + number.size()) && (at == 0 || !is_digit(text[at - 1])))
            return true;
    return false;
}

View unmarked(View text) {
    while (true) {
        text = without_lead(text, kMarks);
        const bool dash = text.starts_with("\u2013") || text.starts_with("\u2014");
        if (!dash && !text.starts_with('(')) return text;
        text.remove_prefix(dash ? 3 : 1);
    }
}

// The part of a sentence that takes the answer back.
std::optional<View> retracting(View sentence, View answer, bool& hesitates) {
    View rest = unmarked(sentence);
    while (!rest.empty()) {
        const View clause = rest.substr(0, clause_end(rest));
        const Claim claim = claim_of(clause);
        if (claim == Claim::kTakesBack) return rest;
        hesitates = hesitates || claim == Claim::kHesitates;
        if (clause.find_first_of("0123456789") != npos) {
            if (hesitates && !holds(without_denial(sentence), answer)) return rest;
            hesitates = false;
            return {};
        }
        rest = unmarked(rest.substr(clause.size()));
    }
    return {};
}

}  // namespace

std::optional<View> retraction(View after, View answer) {
    const View all = after;
    after = after.substr(0, kNear);
    bool hesitates = false;
    for (int sentences = 0; sentences < 2 || hesitates; ++sentences) {
        after = unmarked(after);
        if (after.empty()) return {};
        const View sentence = after.substr(0, sentence_end(after, 0));
        if (const auto found = retracting(sentence, answer, hesitates))
            return View(found->begin(), all.end());
        after.remove_prefix(sentence.size());
    }
    return {};
}

View behind_clause(View text) {
    return text.substr(text.empty() ? 0 : clause_end(text));
}

bool ends_without_answer(View text) {
    text = text.substr(0, text.find_last_not_of(" \t\r\n*_$.!?") + 1);
    View last = unmarked(text.substr(sentence_begin(text, text.size())));
    if (last.size() > kNear) return false;
    constexpr auto surrenders = std::to_array<View>(
        {"i cannot", "i can't", "i can\u2019t", "i don't know", "i don\u2019t know",
         "i do not know", "i am not sure", "i'm not sure"});
    if (begins_any(last, surrenders) || begins_any(unmarked(behind_clause(last)), surrenders))
        return true;
    return last.find_first_of("0123456789") == npos && retraction(last, {}).has_value();
}

}  // namespace malt
