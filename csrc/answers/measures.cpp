// A number in front, what scales it, and its unit or the words behind it.
#include "answers/measures.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "answers/answers.hpp"
#include "answers/sentences.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

constexpr auto kScales =
    std::to_array<std::pair<View, View>>({{"\u5341", "*10"},     // ten
                                          {"\u767e", "*100"},    // hundred
                                          {"\u5343", "*1000"},   // thousand
                                          {"\u4e07", "*10000"},  // ten thousand
                                          {"\u4ebf", "*100000000"}});

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
    View next = without_lead(tail.substr(std::min(at, tail.size())), " ,$");
    const bool more = begins(next, "and ") || begins(next, "or ") || begins(next, "to ") ||
                      begins(next, "by ") || begins(next, "plus ");
    if (more) next = without_lead(next.substr(next.find(' ')), " $");
    return digit_at(next, 0) || (more && (begins(next, "a half") || begins(next, "half")));
}

}  // namespace

View factor_of(View text) {
    for (const View unit :
         {View("\u5343\u7c73"), View("\u5343\u514b"), View("\u5343\u74e6"), View("\u5343\u5361")})
        if (text.starts_with(unit)) return {};
    for (const auto& [scale, factor] : kScales)
        if (text.starts_with(scale)) return factor;
    return {};
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
