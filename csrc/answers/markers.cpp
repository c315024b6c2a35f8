// Signs that open an answer, found from the end of a text.
#include "answers/markers.hpp"

#include <algorithm>
#include <array>

#include "answers/choices.hpp"
#include "answers/sentences.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

// Removes `word` from the end of `text`, in any case; false if it is not there.
bool cut(View& text, View word) {
    if (!ends(text, word)) return false;
    text.remove_suffix(word.size());
    return true;
}

void cut_all(View& text, View characters) {
    text = text.substr(0, text.find_last_not_of(characters) + 1);
}

// Is a Chinese text like "the answer", "hence choose" at the end of `before`?
bool is_chinese_marker(View before) {
    for (const View word : {View("\u5e94\u8be5"), View("\u5e94"), View("\u8be5"), View("\u5c31")})
        if (cut(before, word)) break;  // 应该 应 该 就
    cut_all(before, " *_");
    for (const View word :
         {View("\u7b54\u6848"), View("\u7b54\u6848\u9009\u9879"), View("\u6b63\u786e\u9009\u9879"),
          View("\u6545\u9009"), View("\u5e94\u9009")})  // 答案 答案选项 正确选项 故选 应选
        if (before.ends_with(word)) return true;
    return false;
}

// Without the tags around it: 45 </answer>.
View without_tags(View text) {
    const auto tag = [&](std::size_t at) {  // its length
        std::size_t end = at + 1;
        if (end < text.size() && text[end] == '/') ++end;
        const std::size_t name = end;
        while (end < text.size() && end < at + 24 && (is_alpha(text[end]) || text[end] == '_'))
            ++end;
        return end > name && end < text.size() && text[end] == '>' ? end + 1 - at : 0;
    };
    while (text.starts_with('<')) {
        const std::size_t length = tag(0);
        if (length == 0) break;
        text.remove_prefix(length);
        text.remove_prefix(std::min(text.find_first_not_of(" *_"), text.size()));
    }
    for (std::size_t at = text.find('<'); at != npos; at = text.find('<', at + 1))
        if (tag(at)) return text.substr(0, at);
    return text;
}

// What a marker opens: a display formula, or the rest of its line, or else the next line.
View opened(View after, Grader grader) {
    after.remove_prefix(std::min(after.find_first_not_of(" \t\r\n\v\f*_"), after.size()));
    if (const auto formula = opening_display(after)) return *formula;
    const View line = after.substr(0, after.find('\n'));
    return trimmed(grader == Grader::kExact ? line : undecorated(without_tags(line)));
}

// Does a text end with `answer`, or with what it answers: the answer to this question?
bool names_answer(View before) {
    constexpr auto asked = std::to_array<View>({"this", "the", "that", "your", "our", "my", "given",
                                                "above", "original", "question", "questions",
                                                "problem", "puzzle", "riddle", "exercise"});
    for (int words = 0; words < 5; ++words) {
        cut_all(before, "*_ ");
        if (cut(before, words == 0 ? "answer" : " to") || (words > 0 && cut(before, " for")))
            return words == 0 || (cut_all(before, "*_ "), ends(before, "answer"));
        const View near = before.substr(before.size() - std::min<std::size_t>(before.size(), 16));
        const View word = near.substr(near.find_last_of(" \n") + 1);
        if (!is_one_of(word, asked)) return false;
        before.remove_suffix(word.size());
    }
    return false;
}

// Does a colon after `before` open an answer? Final Answer:  **Answer is**:  A: on a new line
bool is_marker(View before, View after, Grader grader) {
    cut_all(before, " *_");
    View line = before;
    if (cut(line, "a") && before.back() == 'A') {
        cut_all(line, " *_");
        if (line.empty() || line.ends_with('\n'))  // A: C, but not A: library
            return grader != Grader::kChoice || opening_letter(opened(after, grader));
    }
    if (is_chinese_marker(before)) return true;
    if (cut(before, "\u662f") || cut(before, "\u4e3a")) return is_chinese_marker(before);  // 是 为
    if (cut(before, " is")) cut_all(before, " ");
    if (grader == Grader::kChoice &&
        (cut(before, "option") || cut(before, "choice") || cut(before, "letter")))
        return true;
    return names_answer(before);
}

// Does a number or a formula open a text?
bool opens_value(View after) {
    const View near = after.substr(0, 16);
    const std::size_t begin = std::min(near.find_first_not_of(" -+$\\(*."), near.size());
    const View lead = near.substr(0, begin), rest = after.substr(begin);
    const bool digit = !rest.empty() && is_digit(rest[0]);
    return begin <= 12 &&
           (digit || rest.starts_with("\u2212") || lead.find_first_of("\\$") != npos);
}

// #### may also open a heading. It opens a mathematical answer on the last line, or before a number
// or a formula.
bool opens_answer(View after, Grader grader) {
    if (grader == Grader::kChoice || grader == Grader::kExact || opens_value(after)) return true;
    return after.size() < 4 * kMaxAnswer && trimmed(after).find('\n') == npos;
}

// "the answer is C": does an `s` or an `e` between these end `answer is`, `answer remains`, `answer
// must be`?
bool is_statement(View before, char sign, View after, Grader grader) {
    if (grader == Grader::kExact || after.empty()) return false;
    const bool stays = sign == 's' && (cut(before, " remain") || cut(before, " stay"));
    if (!stays && !cut(before, sign == 's' ? " i" : " b")) return false;
    if (stays && (begins(after, " the same") || begins(after, " unchanged"))) return false;
    if (View(" \t\r\n*").find(after[0]) == npos) return false;
    if (sign == 'e') {
        const bool modal = cut(before, " must") || cut(before, " should") ||
                           cut(before, " would") || cut(before, " will") || cut(before, " has to");
        if (!modal || (grader != Grader::kChoice && !opens_value(after))) return false;
    }
    cut_all(before, "*_ ");
    if (grader == Grader::kChoice && (cut(before, "option") || cut(before, "choice") ||
                                      cut(before, "letter") || cut(before, "most likely")))
        return true;
    return names_answer(before);
}

// How the clause before a marker takes what follows.
enum class Lead : std::uint8_t { kStates, kDenies, kSupposes };

// 错误的答案是, 我不认为答案是, 如果答案是
Lead chinese_lead(View clause) {
    for (const View word : {View("\u5982\u679c"), View("\u5047\u5982"), View("\u82e5")})
        if (clause.find(word) != npos) return Lead::kSupposes;
    const bool no = clause.find("\u4e0d") != npos || clause.find("\u9519") != npos;  // 不 错
    return no ? Lead::kDenies : Lead::kStates;
}

// A wrong answer is; I do not think, I doubt, it is unlikely that the answer is; if the answer is.
Lead lead_of(View before) {
    constexpr auto breaks = std::to_array<View>({"so", "then", "thus", "hence", "therefore", "and",
                                                 "but", "since", "because", "as", "where"});
    constexpr auto faults =
        std::to_array<View>({"wrong", "incorrect", "false", "worst", "mistaken", "unlikely",
                             "untrue", "impossible", "nobody", "least"});
    constexpr auto supposes = std::to_array<View>(
        {"if", "whether", "suppose", "supposing", "assume", "assuming", "unless", "imagine"});
    constexpr auto opinions = std::to_array<View>({"think", "believe", "say", "agree", "claim",
                                                   "true", "right", "correct", "certain", "sure",
                                                   "clear", "likely", "know", "mean", "that"});
    constexpr auto without = std::to_array<View>({"no", "without", "any", "a"});
    View clause = before.substr(before.size() - std::min<std::size_t>(before.size(), 96));
    clause = clause.substr(clause.find_last_of(".,;:!?\n") + 1);
    if (is_chinese(clause)) return chinese_lead(clause);
    View next;
    for (int words = 0; words < 12; ++words) {
        cut_all(clause, " *_\"'`");
        const View word = clause.substr(clause.find_last_of(" *_\"`") + 1);
        if (begins(next, "doubt")) return is_one_of(word, without) ? Lead::kStates : Lead::kDenies;
        if (word.empty() || is_one_of(word, breaks)) break;
        if (is_one_of(word, supposes)) return Lead::kSupposes;
        if (is_one_of(word, faults) && !begins(next, "the")) return Lead::kDenies;
        const bool negates = ends(word, "not") || ends(word, "n't") || begins(word, "never");
        if (negates && is_one_of(next, opinions)) return Lead::kDenies;
        next = word;
        clause.remove_suffix(word.size());
    }
    return Lead::kStates;
}

// 答案是 and 答案为, of which `last` is the last byte at the end of `text`.
bool is_chinese_statement(View text) {
    return (cut(text, "\u662f") || cut(text, "\u4e3a")) && is_chinese_marker(text);
}

}  // namespace

// Does a token that ends a turn stand at the front of a text: <|im_end|>, </s>?
bool ends_turn(View text) {
    for (const View token : {View("</s>"), View("<eos>"), View("<end_of_turn>")})
        if (text.starts_with(token)) return true;
    if (!text.starts_with("<|") && !text.starts_with("<\uff5c")) return false;
    std::size_t letters = 0;
    const View name = text.substr(text[1] == '|' ? 2 : 4, 32);
    while (letters < name.size() &&
           (is_alpha(name[letters]) || is_digit(name[letters]) || name[letters] == '_' ||
            static_cast<unsigned char>(name[letters]) == 0xe2 ||
            static_cast<unsigned char>(name[letters]) == 0x96 ||
            static_cast<unsigned char>(name[letters]) == 0x81))
        ++letters;
    const View close = name.substr(letters);
    return letters > 2 && (close.starts_with("|>") || close.starts_with("\uff5c>"));
}

Reply reply_in(View text) {
    constexpr View answer = "<answer>";
    bool thinks = false, opened = false;  // whether <answer> opened what is tagged
    std::size_t begin = 0, open = npos;
    std::optional<View> tagged;
    for (std::size_t at = text.find('<'); at != npos; at = text.find('<', at + 1)) {
        const View tag = text.substr(at, 12);
        if (tag.size() < 3) continue;
        if (View("/taTA").find(tag[1]) == npos || tag[2] == 's') {
            if (!ends_turn(text.substr(at, 40))) continue;
            if (text.substr(begin, at - begin).find_first_not_of(" \t\r\n") == npos) continue;
            text = text.substr(0, at);
            break;
        }
        if (begins(tag, "<think>") || begins(tag, "<thinking>")) {
            thinks = true;
        } else if (begins(tag, "</think>") || begins(tag, "</thinking>")) {
            thinks = false;
            begin = at + tag.find('>') + 1;
            open = npos, tagged.reset(), opened = false;
        } else if (begins(tag, answer)) {
            open = at + answer.size();
        } else if (begins(tag, "</answer>")) {
            const std::size_t from = open == npos ? begin : open;
            if (open != npos || !tagged) tagged = text.substr(from, at - from);
            opened = opened || open != npos;
            open = npos;
        }
    }
    if (thinks) return {};
    if (open != npos) return {text.substr(open), true};
    return {tagged ? *tagged : text.substr(begin), opened};
}

std::optional<Marker> last_marker(View text, Grader grader) {
    constexpr auto signs = [] {  // bytes that end a marker; the last ones are of ： 是 为
        std::array<bool, 256> out{};
        for (const char c : {':', '#', 's', 'e'}) out[static_cast<unsigned char>(c)] = true;
        for (const std::size_t byte : {0x9a, 0xaf, 0xba}) out[byte] = true;
        return out;
    }();
    for (std::size_t at = text.size(); at-- > 0;) {
        if (!signs[static_cast<unsigned char>(text[at])]) continue;
        View before = text.substr(0, at);
        const View after = text.substr(at + 1);
        bool found = false, statement = false;
        switch (text[at]) {
            case ':':
                found = is_marker(before, after, grader);
                break;
            case '#':
                found = before.ends_with("###") && opens_answer(after, grader);
                break;
            case 's':
            case 'e':
                found = statement = is_statement(before, text[at], after, grader);
                break;
            default:
                before = text.substr(0, at + 1);
                statement = is_chinese_statement(before);
                found = statement || (cut(before, "\uff1a") && is_marker(before, after, grader));
        }
        if (!found) continue;
        const bool named = grader != Grader::kExact && text[at] != '#';
        const Lead lead = named ? lead_of(text.substr(0, at)) : Lead::kStates;
        if (lead != Lead::kSupposes)
            return Marker{at, opened(after, grader), statement, lead == Lead::kDenies};
    }
    return {};
}

std::optional<View> opening_display(View text) {
    for (const auto& [open, close] : {std::pair<View, View>{"\\[", "\\]"}, {"$$", "$$"}}) {
        if (!text.starts_with(open)) continue;
        const View near = text.substr(0, 4 * kMaxAnswer);
        const std::size_t end = near.find(close, open.size());
        const View inside = near.substr(open.size(), end - open.size());
        if (end != npos && inside.find('\n') != npos) return trimmed(inside);
    }
    return {};
}

std::optional<View> closing_display(View text) {
    constexpr auto displays =
        std::to_array<std::pair<View, View>>({{"\\[", "\\]"},
                                              {"$$", "$$"},
                                              {"\\begin{align*}", "\\end{align*}"},
                                              {"\\begin{align}", "\\end{align}"},
                                              {"\\begin{equation}", "\\end{equation}"},
                                              {"\\begin{equation*}", "\\end{equation*}"}});
    for (const auto& [open, close] : displays) {
        if (!text.ends_with(close) || text.size() < open.size() + close.size()) continue;
        const std::size_t low = text.size() > 4 * kMaxAnswer ? text.size() - 4 * kMaxAnswer : 0;
        const View near = text.substr(low, text.size() - low - close.size());
        const std::size_t begin = near.rfind(open);
        if (begin == npos) continue;
        const View inside = trimmed(near.substr(begin + open.size()));
        if (!inside.empty()) return inside;
    }
    return {};
}

}  // namespace malt
