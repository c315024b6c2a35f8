// Boxes, then markers, then what looks like an answer.
#include "answers/extraction.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "answers/boxes.hpp"
#include "answers/choices.hpp"
#include "answers/formulas.hpp"
#include "answers/latex.hpp"
#include "answers/markers.hpp"
#include "answers/measures.hpp"
#include "answers/numbers.hpp"
#include "answers/retractions.hpp"
#include "answers/sentences.hpp"
#include "answers/stance.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;

// Is a text nothing but a number in digits? Most answers are.
bool is_plain_number(std::string_view text) {
    return !text.empty() && text.size() < 16 && std::ranges::all_of(text, is_digit);
}

// Without the punctuation of Chinese sentences at the end.
std::string_view without_stop(std::string_view text) {
    for (bool more = true; more;) {
        more = false;
        text = trimmed(text);
        for (const std::string_view sign :
             {"\u3002", "\uff01", "\uff0c", "\uff1b", "\u3001", "\uff0e"})
            if (text.ends_with(sign)) text.remove_suffix(sign.size()), more = true;
    }
    return text;
}

std::optional<std::string> answer_in(std::string_view text) {
    text = without_stop(undecorated(text));
    for (const std::string_view lead : {"So", "Thus", "Therefore", "Hence", "Then", "Rs.", "Rs"}) {
        const std::string_view rest = text.substr(text.starts_with(lead) ? lead.size() : 0);
        if (rest.size() < text.size() && !rest.empty() &&
            std::string_view(" ,\n").find(rest[0]) != npos)
            text = rest.substr(std::min(rest.find_first_not_of(" ,\n"), rest.size()));
    }
    text = without_index(text);
    const bool brief = text.size() <= kMaxAnswer;
    const bool prose = !brief || is_chinese(text) || is_prose(text);
    const std::size_t line = text.rfind('\n');
    if (const auto formula = only_formula(text)) {
        const std::string_view after(formula->end(), text.end());
        if (is_refused({}, after)) return {};
        if (auto later = said_number(after.substr(0, sentence_end(after, 0)))) return later;
        if (!is_name(*formula) || after.find_first_of("0123456789") == npos)
            return std::string(*formula);
    }
    if (line != npos)
        if (const auto formula = closing_display(text)) return std::string(last_row(*formula));
    if (brief && is_measure(text))
        if (auto number = leading_number(text)) return number;
    if (!prose && can_read(Grader::kMath, text))
        return stance_of(text) == Stance::kStates ? std::optional(std::string(text)) : std::nullopt;
    if (line != npos)
        if (auto last = answer_in(text.substr(line + 1))) return last;
    if (auto all = formulas_in(text); !all.empty())
        if (auto last = last_said(text, std::move(all))) return last;
    if (auto number = leading_number(text)) return number;
    if (const std::size_t aside = text.find(" ("); aside != npos)  // 7 (not 6)
        if (can_read(Grader::kNumber, text.substr(0, aside)))
            return std::string(text.substr(0, aside));
    if (!prose && text.find('\\') != npos)
        return std::string(text);  // a formula that cannot be parsed
    return is_compound(text) ? std::nullopt : last_number(text);
}

// An answer behind a marker: what stands before its reasons or the next sentence, if that is all of
// one, and not symbols before a number: x+1. I checked it. 5, since $N = 7$. Not m+n, which is 7.
std::optional<std::string> stated(std::string_view region) {
    std::string_view first = region.substr(0, std::min(sentence_end(region, 0), kMaxAnswer));
    for (const std::string_view reason :
         {" because ", " since ", ", as ", " where ", ", which ", ", so ", " for ", " when "})
        first = first.substr(0, first.find(reason));
    if (first.ends_with(',')) first.remove_suffix(1);
    const auto letter = [&](std::size_t i) { return i < first.size() && is_alpha(first[i]); };
    constexpr std::string_view digits = "0123456789";
    const bool symbols =
        first.find_first_of(digits) == npos && region.find_first_of(digits) != npos;
    if (first.size() < region.size() && !symbols && !(letter(0) && letter(1)) && !is_prose(first) &&
        can_read(Grader::kMath, first))
        return answer_in(first);
    return answer_in(region);
}

// Does a text say that there is no one answer: unknown. 5 if x = 2, and 6 otherwise.
bool is_open(std::string_view sentence) {
    constexpr auto open = std::to_array<std::string_view>(
        {"unknown", "not known", "unclear", "undetermined", "indeterminate", "uncertain"});
    return !word_of(sentence, open).empty() || sentence.find("otherwise") != npos;
}

// A number after a marker: 72 clips (48 in April), 72 (48 + 24), 15 people at the table.
std::optional<std::string> number_in(std::string_view region) {
    for (const std::string_view bound : {">", "<", "\u2265", "\u2264", "\\g", "\\l"})
        if (region.starts_with(bound) && !region.starts_with("\\left")) return {};
    while (region.ends_with('!')) region.remove_suffix(1);
    const auto first = region.substr(0, std::min(sentence_end(region, 0), kMaxAnswer));
    if (is_open(first)) return {};
    const std::string plain = in_plain_signs(first);
    if (plain != first && can_read(Grader::kNumber, plain)) return plain;
    const std::size_t second = first.find("; ");  // 18; 20 is wrong
    if (second != npos && stance_of(first.substr(second + 2)) == Stance::kDenies)
        return number_in(first.substr(0, second));
    const std::size_t aside = region.find(" (");
    if (aside != npos && can_read(Grader::kNumber, region.substr(0, aside)))
        return std::string(region.substr(0, aside));
    const bool sentence = !first.empty() && is_alpha(first[0]) && has_words(first) &&
                          first.find_first_of("$\\") == npos;
    if (sentence && any_number(first)) return sole_number(first);
    const auto found = stated(region);
    if (found && can_read(Grader::kNumber, *found)) return found;
    if (auto number = leading_number(region)) return number;
    if (aside != npos) return answer_in(region.substr(0, aside));
    return has_words(first, 1) ? sole_number(first) : found;
}

// What stands in a box. A sentence there is its number, or what follows its words.
std::optional<std::string> box_answer(Grader grader, std::string_view inside) {
    if (is_plain_number(inside)) return std::string(inside);
    constexpr std::string_view space = " \t\r\n";
    inside = inside.substr(0, inside.find_last_not_of(space) + 1);
    inside = undecorated(inside.substr(std::min(inside.find_first_not_of(space), inside.size())));
    if (inside.size() > kMaxAnswer) return std::string(inside);
    if (grader == Grader::kMath && is_pure(inside)) return std::string(inside);
    const Stance stance = stance_of(inside);
    if (stance == Stance::kDenies || stance == Stance::kWavers) return {};
    if (grader == Grader::kNumber && can_read(grader, inside)) return std::string(inside);
    if (grader == Grader::kNumber || is_measure(inside))
        if (auto number = leading_number(inside)) return number;
    const bool formula = inside.find_first_of("&|=+*<>") != npos || inside.find("\\begin") != npos;
    const bool sentence = is_prose(inside) || is_chinese(inside) ||
                          (grader == Grader::kNumber && !formula && has_words(inside));
    if (!sentence) return std::string(inside);
    if (const auto marker = last_marker(inside, grader)) return stated(marker->region);
    if (inside.starts_with("\\text{")) {
        const std::size_t close = closing(inside, 5);
        const std::string_view rest = close == npos ? "" : trimmed(inside.substr(close + 1));
        if (!rest.empty() && rest.find("\\text") == npos && can_read(Grader::kMath, rest) &&
            !is_refused(inside.substr(0, close), {}))
            return std::string(rest);
    }
    if (auto number = formula ? std::nullopt : only_number(inside)) return number;
    return std::string(inside);
}

bool is_one_line(std::string_view text) {
    return trimmed(text).find('\n') == npos;
}

// On one line.
std::string unbroken(std::string text) {
    std::ranges::replace_if(text, [](char c) { return c == '\n' || c == '\r'; }, ' ');
    text.erase(0, std::min(text.find_first_not_of(' '), text.size()));
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
}

// negative 8 is -8
std::string with_sign(std::string answer) {
    for (const std::string_view font : {"", "\\text{"})
        for (const std::string_view sign : {"negative", "minus"}) {
            std::string_view rest = answer;
            if (!rest.starts_with(font)) continue;
            rest.remove_prefix(font.size());
            if (!begins(rest, sign)) continue;
            rest.remove_prefix(sign.size());
            if (!rest.starts_with(' ') && !rest.starts_with('}')) continue;
            const bool closed = !font.empty() && rest.find_first_not_of(' ') == rest.find('}');
            std::string out("-");
            if (!closed) out += font;
            if (closed) rest.remove_prefix(rest.find('}') + 1);
            out += rest.substr(std::min(rest.find_first_not_of(' '), rest.size()));
            return out;
        }
    return answer;
}

std::string one_spaced(std::string_view text) {
    std::string out;
    for (const char c : text) {
        const bool space = std::isspace(static_cast<unsigned char>(c));
        if (!space)
            out += c;
        else if (!out.empty() && out.back() != ' ')
            out += ' ';
    }
    if (out.ends_with(' ')) out.pop_back();
    return out;
}

// ---- each grader ----

// `after`: the text after the region.
std::optional<std::string> marked_answer(Grader grader, std::string_view region,
                                         std::string_view after, const ChoiceTexts& choices) {
    switch (grader) {
        case Grader::kChoice:
            return chosen(region, after, choices);
        case Grader::kExact:
            return one_spaced(region);
        case Grader::kNumber:
            return number_in(without_denial(region));
        default:
            return stated(without_denial(region));
    }
}

// Without a remark at the end: a line that begins with Note, a sentence in brackets.
std::string_view without_remark(std::string_view text) {
    const std::size_t begin = text.rfind('\n') + 1;  // 0 if there is none
    const std::string_view line = text.substr(begin);
    std::string_view before = trimmed(text.substr(0, begin));
    if (text.ends_with(')') && !begins(line, "note")) {
        const std::size_t open = text.rfind('(');
        if (open == npos || open == 0 || text[open - 1] == '\\') return text;
        before = text.substr(0, text.find_last_not_of(" \t\r\n", open - 1) + 1);
        if (!before.ends_with('.') && !text.substr(before.size(), open).starts_with('\n'))
            return text;
        if (!has_words(text.substr(open), 1)) return text;
    } else if (!begins(without_lead(line, "*_ "), "note")) {
        return text;
    }
    return before.find_first_of("0123456789") == npos ? text : before;
}

std::optional<std::string> unmarked_answer(Grader grader, std::string_view text,
                                           const ChoiceTexts& choices) {
    if (grader == Grader::kChoice) return unmarked_choice(text, choices);
    if (grader == Grader::kExact) return one_spaced(text);
    if (ends_without_answer(text)) return {};
    const std::string_view whole = trimmed(text), rest = without_remark(whole);
    if (rest.size() < whole.size()) text = rest;
    auto found = answer_in(rest);
    if (grader == Grader::kNumber && !(found && can_read(grader, *found)) && !is_compound(text))
        if (auto number = last_number(text)) return number;
    return found;
}

// An answer, unless what follows takes it back: 5. No, 6. Then what stands there instead counts, or
// nothing where only marked answers do.
std::optional<std::string> kept(Grader grader, std::optional<std::string> found,
                                std::string_view after, bool marked_only,
                                const ChoiceTexts& choices) {
    if (grader == Grader::kChoice || grader == Grader::kExact || says_nothing(after)) return found;
    const auto instead = retraction(after, found.value_or(""));
    if (!instead) return found;
    if (marked_only || instead->find_first_of("0123456789") == npos) return {};
    return unmarked_answer(grader, *instead, choices);
}

std::optional<std::string> boxed_answer(Grader grader, std::string_view text, const Box& box,
                                        bool marked_only, const ChoiceTexts& choices) {
    if (grader == Grader::kChoice) return boxed_choice(text, box, choices);
    if (grader == Grader::kExact) return one_spaced(box.inside);
    if (is_denied(text.substr(0, box.begin))) return {};
    const std::string_view rest = text.substr(box.end);
    if (says_nothing(rest)) return box_answer(grader, boxed(text, box));
    if (is_refused({}, rest)) return {};
    return kept(grader, box_answer(grader, boxed(text, box)), rest, marked_only, choices);
}

// What is said instead of what is denied: not 5 but 6.
std::string_view corrected(std::string_view region) {
    if (!begins(region, "not ")) return region;
    const std::size_t but = region.substr(0, sentence_end(region, 0)).find(" but ");
    return but == npos ? region : region.substr(but + 5);
}

// What a text denies behind a marker: not 5, at least 5, 5 is wrong.
void add_denied(std::vector<std::string>& denied, Grader grader, std::string_view region,
                const ChoiceTexts& choices) {
    region = region.substr(0, std::min(sentence_end(region, 0), kMaxAnswer));
    if (grader == Grader::kChoice) {
        denied.emplace_back();
        for (const char letter : choices_in(region, choices)) denied.emplace_back(1, letter);
        return;
    }
    const auto all = formulas_in(region);
    denied.push_back(all.empty() ? any_number(region).value_or("")
                                 : std::string(trimmed(all.back().inside)));
}

// What a text does; one that is the text of a choice states that: under the bed, none of these.
Stance stance_for(Grader grader, std::string_view region, const ChoiceTexts& choices) {
    if (grader == Grader::kExact) return Stance::kStates;
    const Stance stance = stance_of(region);
    const bool choice = (stance == Stance::kDenies || stance == Stance::kWavers) &&
                        grader == Grader::kChoice && chosen(region, {}, choices);
    return choice ? Stance::kStates : stance;
}

// What follows a part of a text.
std::string_view behind(std::string_view text, std::string_view part) {
    return text.substr(static_cast<std::size_t>(part.data() + part.size() - text.data()));
}

// The answer behind the last marker that opens one, or else, unless `marked_only`, what reads as
// one.
std::optional<std::string> spoken_answer(Grader grader, std::string_view text, bool marked_only,
                                         const ChoiceTexts& choices) {
    std::vector<std::string> denied;
    std::optional<std::string_view> after;  // the first praise from the end
    while (const auto marker = last_marker(text, grader)) {
        const std::string_view region = corrected(marker->region);
        const std::string_view rest = behind(text, region);
        if (denied.empty() && !marker->denied && grader != Grader::kChoice &&
            is_plain_number(region))
            return kept(grader, std::string(region), rest, marked_only, choices);
        const Stance stance =
            marker->denied ? Stance::kDenies : stance_for(grader, region, choices);
        const bool passes = stance == Stance::kPraises || marker->denied ||
                            (stance == Stance::kDenies && marker->statement);
        if (stance == Stance::kStates) {
            auto found = marked_answer(grader, region, rest, choices);
            const bool taken_back =
                found && std::ranges::any_of(denied, [&](auto& no) {
                    return compare_answers(grader, no, *found) == Verdict::kEqual;
                });
            if (taken_back) return {};
            const std::string_view said(region.begin(), text.end());
            return kept(grader, std::move(found), behind_clause(said), marked_only, choices);
        }
        if (!passes) return {};
        if (stance == Stance::kDenies) add_denied(denied, grader, region, choices);
        if (!after) after = text.substr(marker->begin + 1);
        const std::size_t begin = sentence_begin(text, marker->begin);
        const std::size_t comma = text.substr(begin, marker->begin - begin).find_last_of(",;");
        text = text.substr(0, comma == npos ? begin : begin + comma);
    }
    if (!denied.empty() || marked_only) return {};
    if (after && after->find_first_of("0123456789$\\") != npos)
        if (auto found = unmarked_answer(grader, *after, choices)) return found;
    return unmarked_answer(grader, text, choices);
}

// What a text behind a box says the answer to be instead: \boxed{5}. No, the answer is 6.
std::optional<std::string> restated(Grader grader, std::string_view text,
                                    const ChoiceTexts& choices) {
    const auto marker = last_marker(text, grader);
    if (!marker || marker->denied || !marker->statement) return {};
    if (stance_for(grader, marker->region, choices) != Stance::kStates) return {};
    auto found = marked_answer(grader, marker->region, behind(text, marker->region), choices);
    const bool words = grader == Grader::kMath && found && has_words(*found, 1);  // as above
    return found && !words && can_read(grader, *found) ? found : std::nullopt;
}

}  // namespace

std::optional<std::string> extract_answer(Grader grader, std::string_view completion, bool strict,
                                          const ChoiceTexts& choices) {
    auto [text, tagged] = reply_in(completion);
    if (text.size() > kMaxCompletion) text.remove_prefix(text.size() - kMaxCompletion);
    const auto box = last_box(text, text.size());
    if (box && grader != Grader::kExact)
        if (auto later = restated(grader, text.substr(box->end), choices)) return later;
    const bool marked_only = strict && grader != Grader::kExact && !(tagged && is_one_line(text));
    auto found = box ? boxed_answer(grader, text, *box, marked_only, choices)
                     : spoken_answer(grader, text, marked_only, choices);
    if (!found || trimmed(*found).empty()) return {};
    if (grader != Grader::kChoice && is_plain_number(*found)) return found;
    const bool is_math = grader == Grader::kNumber || grader == Grader::kMath;
    if (is_math && !is_pure(*found)) found = unbroken(with_sign(std::move(*found)));
    if (grader == Grader::kNumber && !can_read(grader, *found)) return {};
    return found;
}

}  // namespace malt
