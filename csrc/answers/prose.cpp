// Words around numbers, by short lists of phrases.
#include "answers/prose.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "answers/answers.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_alpha(char c) {
    return std::isalpha(static_cast<unsigned char>(c)) != 0;
}
bool digit_at(View text, std::size_t at) {
    return at < text.size() && is_digit(text[at]);
}
bool alpha_at(View text, std::size_t at) {
    return at < text.size() && is_alpha(text[at]);
}

template <std::size_t N>
bool begins_any(View text, const std::array<View, N>& words) {
    return std::ranges::any_of(words, [&](View word) { return begins(text, word); });
}

// Does a text begin with one of these words, and not merely with its letters?
template <std::size_t N>
View word_of(View text, const std::array<View, N>& words) {
    for (const View word : words)
        if (begins(text, word) && !alpha_at(text, word.size())) return word;
    return {};
}

View without_lead(View text, View characters) {
    return text.substr(std::min(text.find_first_not_of(characters), text.size()));
}

// ---- phrases ----

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
                                               "maximum of"});

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
    {"not",          "n't",          "n\u2019t",         "never",        "nor",
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

// ---- numbers ----

struct Span {
    std::size_t begin, end;
};

// Is the number that begins at `begin` an index, or the exponent of a name or a group: m^2, s^{-2},
// or m2?
bool is_exponent(View text, std::size_t begin) {
    std::size_t at = begin;
    while (at > 0 && (text[at - 1] == '{' || text[at - 1] == '-' || text[at - 1] == '(')) --at;
    if (at > 1 && text[at - 1] == '_') return true;
    if (at > 1 && text[at - 1] == '^') return !is_digit(text[at - 2]);
    if (at != begin || at == 0 || !is_alpha(text[at - 1])) return false;
    while (at > 0 && is_alpha(text[at - 1])) --at;  // 48 m2, of short units only
    constexpr auto units = std::to_array<View>({"m", "cm", "mm", "km", "ft", "in", "yd", "mi"});
    return std::ranges::find(units, text.substr(at, begin - at)) != units.end();
}

// The number that ends before `end`: 1,200.50, 7/20, 3:1, 2^5.
std::optional<Span> number_before(View text, std::size_t end) {
    while (end > 0) {
        while (end > 0 && !is_digit(text[end - 1])) --end;
        if (end == 0) return {};
        std::size_t begin = end;
        while (begin > 0 &&
               (is_digit(text[begin - 1]) || (View(".,/:^").find(text[begin - 1]) != npos &&
                                              begin > 1 && is_digit(text[begin - 2]))))
            --begin;
        if (!is_exponent(text, begin)) return Span{begin, end};
        end = begin;
    }
    return {};
}

// The length of a minus sign at the end of a text: - \u2212, or an en dash behind a space.
std::size_t minus(View before) {
    if (before.ends_with('-')) return 1;
    if (before.ends_with("\u2212") || before.ends_with(" \u2013")) return 3;
    return 0;
}

constexpr auto kScales =
    std::to_array<std::pair<View, View>>({{"\u5341", "*10"},     // ten
                                          {"\u767e", "*100"},    // hundred
                                          {"\u5343", "*1000"},   // thousand
                                          {"\u4e07", "*10000"},  // ten thousand
                                          {"\u4ebf", "*100000000"}});

// The Chinese power of ten at the front of a text, as a factor; not of 千米, 千克.
View factor_of(View text) {
    for (const View unit :
         {View("\u5343\u7c73"), View("\u5343\u514b"), View("\u5343\u74e6"), View("\u5343\u5361")})
        if (text.starts_with(unit)) return {};
    for (const auto& [scale, factor] : kScales)
        if (text.starts_with(scale)) return factor;
    return {};
}

// The number in its spelling, with its sign, and with the Chinese power of ten behind it.
std::string spelt(View text, Span number) {
    std::string out;
    View before = text.substr(0, number.begin);
    const bool point = before.ends_with('.');
    if (point) before.remove_suffix(1);
    if (minus(before) || ends(before, "negative ") || ends(before, "minus ") ||
        before.ends_with("\u8d1f"))
        out += '-';
    if (point) out += '.';
    out += text.substr(number.begin, number.end - number.begin);
    out += factor_of(text.substr(number.end));
    return out;
}

// Is it one of a pair between which nothing is decided: either 5 or 6, 5 or 6?
bool is_alternative(View before) {
    if (ends(before, " or"))
        return before.size() > 3 &&
               (is_digit(before[before.size() - 4]) || before.find("either ") != npos);
    return ends(before, " and") && before.find("between ") != npos;
}

// The formula without dollar signs that a last number belongs to: \frac{3}{4}, x^2+1.
std::optional<std::string> formula_around(View text, Span number) {
    constexpr std::size_t window = 64;
    const std::size_t low = number.begin > window ? number.begin - window : 0;
    const std::size_t space = text.find_last_of(" \t\r\n$", number.begin);
    const std::size_t begin = space == npos || space < low ? low : space + 1;
    const std::size_t stop =
        text.substr(0, number.end + window).find_first_of(" \t\r\n$", number.end);
    View run = text.substr(begin, std::min(stop, text.size()) - begin);
    run = run.substr(0, run.find_last_not_of(",;.:!?") + 1);
    const bool last = begin + run.size() == number.end;  // x^2+1
    if (run.substr(0, number.begin - begin).find_first_of(last ? "\\^+*" : "\\") == npos) return {};
    if (run.size() > window || !can_read(Grader::kMath, run)) return {};
    return std::string(run);
}

constexpr auto kOperations = std::to_array<View>(
    {"less than", "more than", "fewer than", "out of",    "and",     "or",
     "pi",        "sqrt",      "times",      "plus",      "minus",   "mod",
     "base",      "choose",    "log",        "ln",        "sin",     "cos",
     "tan",       "squared",   "cubed",      "factorial", "divided", "multiplied",
     "over",      "am",        "pm",         "is",        "cannot",  "can't",
     "isn't",     "was",       "would",      "at least",  "at most", "are"});

constexpr auto kMultiples =
    std::to_array<View>({"hundred", "thousand", "million", "billion", "trillion", "dozen"});

// The length of a compound unit at the front of a text, km/h, m/s^2, kg*m; of another 0.
std::size_t compound_unit(View text) {
    std::size_t at = 0;
    bool compound = false;
    while (at < text.size()) {
        if (is_alpha(text[at])) {
            ++at;
        } else if (text.substr(at).starts_with("\u00b2") || text.substr(at).starts_with("\u00b3")) {
            at += 2, compound = true;
        } else if (at > 0 && text[at] == '^') {
            at += 1, compound = true;
            const bool group = at < text.size() && text[at] == '{';
            if (group) ++at;
            if (at < text.size() && text[at] == '-') ++at;
            while (digit_at(text, at)) ++at;
            if (group && at < text.size() && text[at] == '}') ++at;
        } else if (at > 0 && text[at] == '/' && alpha_at(text, at + 1)) {
            ++at, compound = true;
        } else {
            break;
        }
    }
    const bool whole = at == text.size() || View(" .,;!?)}").find(text[at]) != npos;
    return compound && whole ? at : 0;
}

// Units that are read as such even where a formula could stand.
bool has_known_units(View unit) {
    constexpr auto known = std::to_array<View>(
        {"m",      "s",       "h",      "g",       "cm",     "mm",    "km",     "hr",     "kg",
         "mg",     "ft",      "in",     "yd",      "mi",     "min",   "sec",    "hour",   "hours",
         "second", "seconds", "minute", "minutes", "mile",   "miles", "meter",  "meters", "metre",
         "metres", "feet",    "foot",   "inch",    "inches", "day",   "week",   "month",  "year",
         "lb",     "oz",      "L",      "mL",      "ml",     "gal",   "gallon", "person", "liter",
         "N",      "J",       "mol",    "units",   "unit",   "cents", "dollars"});
    while (!unit.empty()) {
        std::size_t n = 0;
        while (alpha_at(unit, n)) ++n;
        if (std::ranges::find(known, unit.substr(0, n)) == known.end()) return false;
        while (n < unit.size() && !is_alpha(unit[n])) ++n;
        unit.remove_prefix(n);
    }
    return true;
}

// The degrees' letter behind a number: °F, ^\circ C, ℃.
bool is_temperature(View text) {
    if (text.starts_with("\u2103") || text.starts_with("\u2109")) return true;
    for (const View sign : {View("\u00b0"), View("^\\circ"), View("^{\\circ}"), View("\\degree")}) {
        if (!text.starts_with(sign)) continue;
        text = without_lead(text.substr(sign.size()), " {");
        for (const View font : {View("\\text{"), View("\\mathrm{")})
            if (text.starts_with(font)) text.remove_prefix(font.size());
        text = without_lead(text, " ");
        return (text.starts_with('F') || text.starts_with('C')) && !alpha_at(text, 1);
    }
    return false;
}

struct Lead {
    std::string number;
    View tail;  // begins behind the number, with its white space
};

// The number at the front of a text, with what scales it: -$1,200.50, 3/4, 18 thousand.
std::optional<Lead> number_first(View text) {
    View rest = text;
    std::string out;
    for (const View sign :
         {View("-"), View("\u2212"), View("negative "), View("minus "), View("\u8d1f")})
        if (begins(rest, sign)) {
            out += '-';
            rest.remove_prefix(sign.size());
            break;
        }
    for (const View currency : {View("\\$"), View("$"), View("\u20ac"), View("\u00a3")})
        if (rest.starts_with(currency)) {
            rest.remove_prefix(currency.size());
            break;
        }
    if (rest.starts_with('-') && out.empty()) out += '-', rest.remove_prefix(1);
    std::size_t n = 0;
    bool slash = false;
    while (digit_at(rest, n) || (n < rest.size() && View(".,/").find(rest[n]) != npos &&
                                 digit_at(rest, n + 1) && (rest[n] != '/' || (n > 0 && !slash)))) {
        slash = slash || rest[n] == '/';
        ++n;
    }
    if (n == 0) return {};
    out += rest.substr(0, n);
    rest.remove_prefix(n);
    const View word = word_of(without_lead(rest, " "), kMultiples);
    if (!word.empty()) {
        out += ' ';
        out += word;
        rest = without_lead(rest, " ").substr(word.size());
    }
    out += factor_of(rest);
    return Lead{std::move(out), rest};
}

// Does a sum end otherwise than it begins: 5 apples plus 6 pears is 11 fruits?
bool has_result(View tail) {
    tail = tail.substr(0, sentence_end(tail, 0));
    for (const View verb : {View(" is "), View(" are "), View(" equals "), View(" makes "),
                            View(" gives "), View(" make "), View("= "), View("=")})
        if (const std::size_t at = tail.find(verb); at != npos)
            if (digit_at(without_lead(tail.substr(at + verb.size()), "$-<"), 0)) return true;
    return false;
}

// Does a second quantity complete the first: 2 hours and 30 minutes, 5 feet 3 inches?
bool is_continued(View tail) {
    std::size_t at = tail.find_first_not_of(' ');
    while (alpha_at(tail, at)) ++at;
    View next = without_lead(tail.substr(std::min(at, tail.size())), " ,");
    const bool more = begins(next, "and ") || begins(next, "or ") || begins(next, "to ");
    if (more) next = without_lead(next.substr(next.find(' ')), " $");
    return digit_at(next, 0) || (more && (begins(next, "a half") || begins(next, "half")));
}

}  // namespace

// ---- letters and sentences ----

char lower(char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

bool begins(View text, View word) {
    return text.size() >= word.size() &&
           std::ranges::equal(text.substr(0, word.size()), word, {}, lower);
}

bool ends(View text, View word) {
    return text.size() >= word.size() &&
           std::ranges::equal(text.substr(text.size() - word.size()), word, {}, lower);
}

std::size_t wide(View text) {
    if (text.size() < 3) return 0;
    const auto lead = static_cast<unsigned char>(text[0]);
    return (lead >= 0xe3 && lead <= 0xe9) || lead == 0xef ? 3 : 0;
}

bool is_chinese(View text) {
    return std::ranges::any_of(text, [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte >= 0xe3 && byte <= 0xe9;  // U+3000 to U+9FFF
    });
}

std::size_t sentence_begin(View text, std::size_t at) {
    for (; at > 0; --at) {
        if (text[at - 1] == '\n') return at;
        if (at > 1 && text[at - 1] == ' ' && View(".!?").find(text[at - 2]) != npos) return at;
        if (at > 2 && text.substr(at - 3, 3) == "\u3002") return at;
    }
    return 0;
}

std::size_t sentence_end(View text, std::size_t at) {
    for (; at < text.size(); ++at) {
        if (text[at] == '\n') return at;
        const bool stop = View(".!?").find(text[at]) != npos;
        if (stop && at + 1 < text.size() && text[at + 1] == ' ') return at + 1;
        if (text[at] == '\xe3' && text.substr(at).starts_with("\u3002")) return at + 3;
    }
    return text.size();
}

// ---- what is said of a number ----

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
        const bool denied = !word_of(text, kDenials).empty();
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
        if (!word_of(text, kGuesses).empty()) return kWavers;
    } else if (wide(text)) {
        constexpr auto denials = std::to_array<View>(
            {"\u4e0d", "\u81f3\u5c11", "\u6700\u591a", "\u81f3\u591a", "\u8d85\u8fc7",
             "\u5927\u4e8e", "\u5c0f\u4e8e", "\u5c11\u4e8e", "\u591a\u4e8e"});
        if (begins_any(text, denials)) return kDenies;
    }
    const View clause = text.substr(0, std::min(sentence_end(text, 0), text.find(',')));
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

View without_denial(View text) {
    for (const View phrase : {View(", not "), View("; not "), View(" and not "), View(" but not "),
                              View(" rather than "), View(" instead of "), View(" (not ")})
        text = text.substr(0, text.find(phrase));
    return text;
}

// ---- numbers ----

std::optional<std::string> last_number(View text) {
    std::vector<std::string> refused;
    std::size_t end = text.size();
    for (int tried = 0; tried < 8; ++tried) {
        const auto found = number_before(text, end);
        if (!found) return {};
        end = found->begin;
        std::string number = spelt(text, *found);
        if (is_refused(text.substr(0, found->begin), text.substr(found->end))) {
            refused.push_back(std::move(number));
            continue;
        }
        if (std::ranges::find(refused, number) != refused.end()) return {};
        if (auto formula = formula_around(text, *found)) return formula;
        return number;
    }
    return {};
}

std::optional<std::string> any_number(View text) {
    const auto found = number_before(text, text.size());
    return found ? std::optional(spelt(text, *found)) : std::nullopt;
}

std::optional<std::string> only_number(View text) {
    std::optional<std::string> only;
    if (const auto last = number_before(text, text.size()))
        if (auto formula = formula_around(text, *last)) return formula;
    for (auto found = number_before(text, text.size()); found;
         found = number_before(text, found->begin)) {
        if (is_refused(text.substr(0, found->begin), text.substr(found->end))) return {};
        std::string number = spelt(text, *found);
        if (only && *only != number) return {};
        only = std::move(number);
    }
    return only;
}

std::optional<std::string> leading_number(View text) {
    if (text.size() > kMaxAnswer) return {};
    auto lead = number_first(text);
    if (!lead) return {};
    View tail = lead->tail;
    if (is_temperature(without_lead(tail, " "))) return std::move(lead->number);
    if (tail.starts_with('%')) tail.remove_prefix(1);
    View word = without_lead(tail, " ~");
    while (word.starts_with("\\,") || word.starts_with("\\ ") || word.starts_with("\\;"))
        word = without_lead(word.substr(2), " ");
    if (word.starts_with("\\frac{") && word.find_first_of("0123456789") == npos)
        return std::move(lead->number);  // 60 \frac{km}{h}
    for (const View font : {View("\\text{"), View("\\mathrm{")})
        if (word.starts_with(font)) word = without_lead(word.substr(font.size()), " ");
    if (begins(word, "\u6216") || begins(word, "\u5230") || begins(word, "\u81f3")) return {};
    if (wide(word)) return std::move(lead->number);
    if (is_continued(tail) || has_result(tail) || !word_of(word, kOperations).empty()) return {};
    if (compound_unit(word)) return std::move(lead->number);
    const bool apart = word.size() < lead->tail.size();
    if (apart && alpha_at(word, 0) && alpha_at(word, 1)) return std::move(lead->number);
    return {};
}

bool is_compound(View text) {
    const auto lead = text.size() > 64 ? std::nullopt : number_first(text);
    return lead && is_continued(lead->tail) && !has_result(lead->tail) &&
           sentence_end(text, 0) == text.size();
}

bool is_measure(View text) {
    const auto lead = text.size() > kMaxAnswer ? std::nullopt : number_first(text);
    if (!lead) return false;
    const View tail = without_lead(lead->tail, " ");
    if (is_temperature(tail) || wide(tail)) return true;
    if (tail.size() == lead->tail.size()) return false;
    if (const std::size_t unit = compound_unit(tail)) return has_known_units(tail.substr(0, unit));
    int words = 0;  // of two letters or more
    for (std::size_t at = 0; at < tail.size();) {
        if (View("=+*^_\\()<>[]{}|").find(tail[at]) != npos) return false;
        std::size_t n = 0;
        while (alpha_at(tail, at + n)) ++n;
        words += n > 1;
        at += std::max<std::size_t>(n, 1);
    }
    return words >= 3;
}

}  // namespace malt
