// Boxes, then markers, then what looks like an answer.
#include "answers/extraction.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "answers/choices.hpp"
#include "answers/latex.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;

// Where the brace that opens at `at` closes; npos if it never does.
std::size_t closing(std::string_view text, std::size_t at) {
    int depth = 0;
    for (; at < text.size(); ++at) {
        if (text[at] == '\\') {
            ++at;
        } else if (text[at] == '{') {
            ++depth;
        } else if (text[at] == '}' && --depth == 0) {
            return at;
        }
    }
    return npos;
}

struct Box {
    std::size_t begin, end;  // of \boxed{...}
    std::string_view inside;
};

// The last box before `before`; without braces it holds a word: \boxed 2. One walk back over the
// text.
std::optional<Box> last_box(std::string_view text, std::size_t before) {
    while (before > 0) {
        const std::size_t name = before = text.rfind('\\', before - 1);
        if (name == npos) return {};
        const std::string_view rest = text.substr(name);
        std::size_t open = name + (rest.starts_with("\\boxed")  ? 6
                                   : rest.starts_with("\\fbox") ? 5
                                                                : 0);
        const bool longer =
            open < text.size() && std::isalpha(static_cast<unsigned char>(text[open]));
        if (open == name || longer) continue;
        while (open < text.size() && (text[open] == ' ' || text[open] == '\t')) ++open;
        if (const auto brace = text.find_first_not_of(" \t\r\n", open);
            brace != npos && text[brace] == '{')
            open = brace;
        if (open < text.size() && text[open] == '{') {
            const std::size_t close = closing(text, open);
            if (close == npos) return Box{name, text.size(), {}};
            return Box{name, close + 1, text.substr(open + 1, close - open - 1)};
        }
        const std::size_t end = std::min(text.find_first_of(" \t\r\n$", open), text.size());
        return Box{name, end, text.substr(open, end - open)};
    }
    return {};
}

// Is there nothing between two boxes but `,`, `and` or `or`, perhaps after one word (a unit)?
bool joins(std::string_view between) {
    if (between.size() > 64) return false;
    std::vector<std::string> words(1);
    bool comma = between.empty();
    for (const char c : between) {
        if (std::isdigit(static_cast<unsigned char>(c)) || c == '=' || c == '+') return false;
        if (c == ',' || c == ';') comma = true;
        if (std::isalpha(static_cast<unsigned char>(c)))
            words.back() += c;
        else if (!words.back().empty())
            words.emplace_back();
    }
    std::erase_if(words, [](const std::string& word) {
        return word.empty() || word == "quad" || word == "text" || word == "mbox";
    });
    if (words.empty()) return comma;
    return words.size() <= 2 && (words.back() == "and" || words.back() == "or");
}

// The last box and those that are joined to it.
std::string boxed(std::string_view text, Box last) {
    std::string all(last.inside);
    for (int boxes = 1; boxes < 32; ++boxes) {
        const auto before = last_box(text, last.begin);
        if (!before || before->inside.empty() || before->end > last.begin ||
            !joins(text.substr(before->end, last.begin - before->end)))
            break;
        if (before->end == last.begin && before->inside == last.inside) break;  // repeated
        all.insert(0, std::string(before->inside) + ", ");
        last = *before;
    }
    return all;
}

bool is_prose(std::string_view text) {
    const auto tokens = tokens_of(text);
    const auto words = std::ranges::count(tokens, Kind::kWord, &Token::kind);
    const bool mixed = words + 1 < std::ssize(tokens);  // the last token is the end
    const bool aside = std::ranges::adjacent_find(tokens, [](const Token& a, const Token& b) {
                           return a.kind == Kind::kComma && b.kind == Kind::kWord;
                       }) != tokens.end();  // 12, as required
    return words > 3 || (words > 1 && mixed && (aside || tokens[0].kind == Kind::kWord));
}

// Where the formula that begins at `begin` ends: at a dollar sign other than \$.
std::size_t dollar(std::string_view text, std::size_t begin) {
    std::size_t end = begin == npos ? npos : text.find('$', begin);
    while (end != npos && text[end - 1] == '\\') end = text.find('$', end + 1);
    return end;
}

// The inside of the last $...$, \(...\) or \[...\] that is not prose between two prices.
std::optional<std::string_view> last_formula(std::string_view text) {
    std::vector<std::string_view> all;
    const auto keep = [&](std::string_view formula) {
        // $5 and then $7: no formula ends with a word and a space
        const std::size_t n = formula.size();
        const bool prices = n > 2 && formula[n - 1] == ' ' &&
                            std::isalpha(static_cast<unsigned char>(formula[n - 2])) &&
                            std::isalpha(static_cast<unsigned char>(formula[n - 3]));
        if (n <= kMaxAnswer && !prices) all.push_back(formula);
    };
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '\\' && at + 1 < text.size()) {
            const char open = text[at + 1];
            if (open == '(' || open == '[') {
                const std::size_t end = text.find(open == '(' ? "\\)" : "\\]", at + 2);
                if (end == npos) break;
                keep(text.substr(at + 2, end - at - 2));
                at = end;
            }
            ++at;
        } else if (text[at] == '$') {
            const std::size_t begin = text.find_first_not_of('$', at);
            const std::size_t end = dollar(text, begin);
            if (end == npos) break;
            keep(text.substr(begin, end - begin));
            at = std::min(text.find_first_not_of('$', end), text.size()) - 1;
        }
    }
    for (int tried = 0; tried < 8 && !all.empty(); ++tried, all.pop_back())
        if (!is_prose(all.back())) return all.back();
    return {};
}

std::optional<std::string_view> last_number(std::string_view text) {
    const auto digit = [&](std::size_t i) {
        return i < text.size() && std::isdigit(static_cast<unsigned char>(text[i]));
    };
    std::size_t end = text.size();
    while (end > 0 && !digit(end - 1)) --end;
    if (end == 0) return {};
    std::size_t begin = end;
    while (begin > 0 && (digit(begin - 1) || ((text[begin - 1] == '.' || text[begin - 1] == ',' ||
                                               text[begin - 1] == '/') &&
                                              begin > 1 && digit(begin - 2))))
        --begin;
    if (begin > 0 && (text[begin - 1] == '-' || text[begin - 1] == '.')) --begin;
    return text.substr(begin, end - begin);
}

// The number of a sentence that begins with its answer: 5 cars passed in the first 15 minutes.
std::optional<std::string_view> leading_number(std::string_view text) {
    const std::size_t end = text.find_first_not_of("-$0123456789.,");
    if (end == npos || end == 0 || text.size() > kMaxAnswer) return {};
    const std::string_view number = text.substr(0, text.find_last_not_of(" ,.", end - 1) + 1);
    std::size_t next = end + (text[end] == '%');
    next = text.find_first_not_of(' ', next);
    const bool word = next != npos && next > end && next + 1 < text.size() &&
                      std::isalpha(static_cast<unsigned char>(text[next])) &&
                      std::isalpha(static_cast<unsigned char>(text[next + 1]));
    return word && number.find_first_of("0123456789") != npos ? std::optional(number)
                                                              : std::nullopt;
}

char lower(char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

// Removes `word` from the end of `text`, in any case; false if it is not there.
bool cut(std::string_view& text, std::string_view word) {
    if (text.size() < word.size()) return false;
    if (!std::ranges::equal(text.substr(text.size() - word.size()), word, {}, lower)) return false;
    text.remove_suffix(word.size());
    return true;
}

void cut_all(std::string_view& text, std::string_view characters) {
    text = text.substr(0, text.find_last_not_of(characters) + 1);
}

// Does a colon after `before` open an answer? Final Answer:  **Answer is**:  A: on a new line
bool is_marker(std::string_view before) {
    cut_all(before, " *_");
    std::string_view line = before;
    if (cut(line, "a") && before.back() == 'A') {
        cut_all(line, " *_");
        if (line.empty() || line.ends_with('\n')) return true;
    }
    if (cut(before, " is")) cut_all(before, " ");
    return cut(before, "answer");
}

// #### may also open a heading. It opens a mathematical answer on the last line, or before a number
// or a formula.
bool opens_answer(std::string_view after, Grader grader, bool on_last_line) {
    if (on_last_line || grader == Grader::kChoice || grader == Grader::kExact) return true;
    const std::string_view near = after.substr(0, 16);
    const std::size_t begin = std::min(near.find_first_not_of(" -+$\\(*."), near.size());
    const std::string_view lead = near.substr(0, begin), rest = after.substr(begin);
    const bool digit = !rest.empty() && std::isdigit(static_cast<unsigned char>(rest[0]));
    return begin <= 12 && (digit || rest.starts_with("\u2212") ||
                           lead.find_first_of("\\$") != std::string_view::npos);
}

// "the answer is C": does an `s` between these end `answer is`?
bool is_statement(std::string_view before, std::string_view after, Grader grader) {
    if (!after.starts_with(' ')) return false;
    if (grader == Grader::kChoice && (cut(before, "option i") || cut(before, "choice i")))
        return true;
    return cut(before, "answer i") && grader != Grader::kExact;
}

// The text after the last marker, to the end of its line. One walk back over the text.
std::optional<std::string_view> after_marker(std::string_view text, Grader grader) {
    std::size_t at = text.size();
    const std::string_view line = last_line(text);
    while (at > 0) {
        at = text.find_last_of(":#s", at - 1);
        if (at == npos) return {};
        const std::string_view before = text.substr(0, at), after = text.substr(at + 1);
        const bool found =
            text[at] == ':' ? is_marker(before)
            : text[at] == '#'
                ? before.ends_with("###") && opens_answer(after, grader, &text[at] >= line.data())
                : is_statement(before, after, grader);
        if (!found) continue;
        std::string_view rest = trimmed(after);
        while (!rest.empty() && (rest.front() == '*' || rest.front() == '_' || rest.front() == ' '))
            rest.remove_prefix(1);
        return trimmed(rest.substr(0, rest.find('\n')));
    }
    return {};
}

// The formula that opens a text, if no other follows: $6$ (six), $$x$$.
std::optional<std::string_view> only_formula(std::string_view text) {
    if (!text.starts_with('$')) return {};
    const std::size_t begin = text.find_first_not_of('$'), end = dollar(text, begin);
    if (end == npos || text.find('$', text.find_first_not_of('$', end)) != npos) return {};
    const std::string_view formula = trimmed(text.substr(begin, end - begin));
    return formula.empty() || formula.size() > kMaxAnswer ? std::nullopt : std::optional(formula);
}

std::optional<std::string> answer_in(std::string_view text) {
    text = trimmed(text.substr(0, text.find("<|")));  // the chat template's end of turn
    for (const std::string_view lead : {"So", "Thus", "Therefore", "Hence", "Then"}) {
        const std::string_view rest = text.substr(text.starts_with(lead) ? lead.size() : 0);
        if (rest.size() < text.size() && (rest.starts_with(' ') || rest.starts_with(',')))
            text = rest.substr(std::min(rest.find_first_not_of(" ,"), rest.size()));
    }
    const bool brief = text.size() <= kMaxAnswer, prose = !brief || is_prose(text);
    if (const auto formula = only_formula(text)) return std::string(*formula);
    if (!prose && can_read(Grader::kMath, text)) return std::string(text);
    if (const std::size_t line = text.rfind('\n'); line != npos)
        if (const auto last = answer_in(text.substr(line + 1))) return last;
    if (const auto formula = last_formula(text)) {
        const auto end = static_cast<std::size_t>(formula->data() - text.data()) + formula->size();
        const bool display = text.substr(end).starts_with("$$ ");
        const std::size_t sentence = display ? end : text.find(". ", end);  // may hold a number
        const auto later = sentence == npos ? std::nullopt : last_number(text.substr(sentence));
        return std::string(later ? *later : trimmed(*formula));
    }
    if (const auto number = leading_number(text)) return std::string(*number);
    if (const std::size_t aside = text.find(" ("); aside != npos)  // 7 (not 6)
        if (can_read(Grader::kNumber, text.substr(0, aside)))
            return std::string(text.substr(0, aside));
    if (!prose && text.find('\\') != npos)
        return std::string(text);  // a formula that cannot be parsed
    if (const auto number = last_number(text)) return std::string(*number);
    return {};
}

// A number after a marker: 72 clips (48 in April), 72 (48 + 24). A bound is no number.
std::optional<std::string> number_in(std::string_view region) {
    for (const std::string_view bound :
         {"between ", "not ", "more than ", "less than ", "at least ", "at most ", "> ", "< "})
        if (region.starts_with(bound)) return {};
    const auto found = answer_in(region);
    const std::size_t aside = region.find(" (");
    if (aside == npos || (found && can_read(Grader::kNumber, *found))) return found;
    return answer_in(region.substr(0, aside));
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

std::optional<std::string> marked_answer(Grader grader, std::string_view region, bool in_box) {
    switch (grader) {
        case Grader::kChoice:
            return opening_letter(region);
        case Grader::kExact:
            return one_spaced(region);
        case Grader::kNumber:
            return in_box ? std::string(region) : number_in(region);
        default:
            return in_box ? std::string(region) : answer_in(region);
    }
}

std::optional<std::string> unmarked_answer(Grader grader, std::string_view text) {
    if (grader == Grader::kChoice) return unmarked_letter(text);
    if (grader == Grader::kExact) return one_spaced(text);
    auto found = answer_in(trimmed(text));
    if (grader == Grader::kNumber && !(found && can_read(grader, *found)))
        if (const auto number = last_number(text)) return std::string(*number);
    return found;
}

}  // namespace

std::optional<std::string> extract_answer(Grader grader, std::string_view completion) {
    if (completion.size() > kMaxCompletion)
        completion.remove_prefix(completion.size() - kMaxCompletion);
    std::optional<std::string> found;
    if (const auto box = last_box(completion, completion.size())) {
        const bool alone = grader == Grader::kChoice || grader == Grader::kExact;
        found = marked_answer(grader, alone ? box->inside : boxed(completion, *box), true);
    } else if (const auto marked = after_marker(completion, grader)) {
        found = marked_answer(grader, *marked, false);
    } else {
        found = unmarked_answer(grader, completion);
    }
    const bool none = !found || trimmed(*found).empty();
    if (none || (grader == Grader::kNumber && !can_read(grader, *found))) return {};
    return found;
}

}  // namespace malt
