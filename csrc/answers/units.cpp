// Names of units, and whether two units contradict.
#include "answers/units.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace malt {
namespace {

// Spellings of a unit: the first is its name. Words are in the singular.
constexpr std::array kUnits = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"mm", "millimeter millimetre"},
    {"cm", "centimeter centimetre"},
    {"dm", "decimeter decimetre"},
    {"m", "meter metre"},
    {"km", "kilometer kilometre kms"},
    {"in", "inch inche"},
    {"ft", "foot feet"},
    {"yd", "yard"},
    {"mi", "mile"},
    {"mg", "milligram"},
    {"g", "gram gm"},
    {"kg", "kilogram kilo kgs"},
    {"oz", "ounce"},
    {"lb", "pound lbs"},
    {"ton", "tonne"},
    {"ms", "millisecond"},
    {"s", "second sec"},
    {"min", "minute"},
    {"h", "hour hr"},
    {"day", "d"},
    {"week", "wk"},
    {"month", "mo"},
    {"year", "yr"},
    {"decade", ""},
    {"century", "centurie"},
    {"mL", "ml milliliter millilitre"},
    {"L", "l liter litre"},
    {"gal", "gallon"},
    {"cup", ""},
    {"pint", ""},
    {"quart", ""},
    {"tbsp", "tablespoon"},
    {"tsp", "teaspoon"},
    {"acre", ""},
    {"ha", "hectare"},
    {"dollar", "usd buck"},
    {"cent", "penny pennie"},
    {"nickel", ""},
    {"dime", ""},
    {"quarter", ""},
    {"euro", "eur"},
    {"gbp", ""},
    {"yen", "jpy"},
    {"rupee", "inr"},
    {"peso", "php"},
    {"yuan", ""},
    {"percent", ""},
    {"degree", "deg"},
    {"celsius", ""},
    {"fahrenheit", ""},
    {"K", "kelvin"},
    {"C", "coulomb"},
    {"radian", "rad"},
    {"Hz", "hertz hz"},
    {"kHz", "kilohertz"},
    {"N", "newton"},
    {"kN", ""},
    {"J", "joule"},
    {"kJ", "kilojoule"},
    {"W", "watt"},
    {"kW", "kilowatt"},
    {"V", "volt"},
    {"kV", ""},
    {"A", "amp ampere"},
    {"Pa", "pascal"},
    {"mol", "mole"},
    {"dB", "decibel"},
    {"bit", ""},
    {"byte", ""},
});

// Symbols that are units only behind a number, capitals as they are written.
constexpr std::array kSymbols = std::to_array<std::string_view>(
    {"dm", "mg", "yd", "mL", "in", "Hz", "kW", "kJ", "kN", "kV", "dB"});

constexpr std::array kIgnored = std::to_array<std::string_view>(
    {"unit",      "of",    "the",       "a",    "an",   "in",   "each", "every", "is",
     "are",       "total", "and",       "long", "old",  "away", "left", "ago",   "approximately",
     "about",     "at",    "for",       "all",  "away", "tall", "high", "deep",  "wide",
     "remaining", "more",  "altogether"});

template <std::size_t N>
bool holds(const std::array<std::string_view, N>& words, std::string_view word) {
    return std::ranges::find(words, word) != words.end();
}

bool lists(std::string_view words, std::string_view word) {
    for (std::size_t at = words.find(word); at != std::string_view::npos;
         at = words.find(word, at + 1)) {
        const bool begins = at == 0 || words[at - 1] == ' ';
        const std::size_t end = at + word.size();
        if (begins && (end == words.size() || words[end] == ' ')) return true;
    }
    return false;
}

// The name of a known unit; empty for other words.
std::string_view name_of(std::string_view word) {
    for (const auto& [name, spellings] : kUnits)
        if (name == word || lists(spellings, word)) return name;
    return {};
}

std::string_view singular(std::string_view word) {
    if (word.size() > 3 && word.ends_with('s') && !word.ends_with("ss")) word.remove_suffix(1);
    return word;
}

}  // namespace

void Unit::add(std::string_view word, int power) {
    if (word == "per") return divide();
    if (word == "square" || word == "sq" || word == "squared" || word == "cubic" || word == "cu") {
        next_ = word.starts_with("cu") ? 3 : 2;
        return;
    }
    if (word == "mph") {
        add("mi");
        divide();
        return add("h");
    }
    if (word == "kph" || word == "kmph") {
        add("km");
        divide();
        return add("h");
    }
    std::string_view name = name_of(word);
    if (name.empty()) name = name_of(singular(word));
    const std::string small(1, static_cast<char>(word[0] | 0x20));
    if (name.empty() && word.size() == 1) name = name_of(small);
    const int exponent = std::exchange(next_, 1) * power;
    if (!name.empty()) {
        powers_[std::string(name)] += std::exchange(below_, false) ? -exponent : exponent;
    } else if (!holds(kIgnored, singular(word))) {
        nouns_.append(" ").append(singular(word));
    }
}

std::string Unit::text() const {
    std::string out;
    for (const auto& [name, power] : powers_)
        if (power) out.append(name).append("^").append(std::to_string(power)).append(" ");
    return nouns_.empty() ? out : out.append("#").append(nouns_);
}

bool is_unit_symbol(std::string_view letters) {
    return holds(kSymbols, letters);
}

bool is_unit_letter(std::string_view letter) {
    return letter.size() == 1 &&
           std::string_view("mgshLVWNJ").find(letter) != std::string_view::npos;
}

bool is_known_unit(std::string_view text) {
    return !text.empty() && text[0] != '#';
}

bool contradict(std::string_view a, std::string_view b) {
    const std::string_view known_a = a.substr(0, a.find('#')), known_b = b.substr(0, b.find('#'));
    if (!known_a.empty() && !known_b.empty()) {
        const auto temperature = [](std::string_view x) {
            return x == "celsius^1 " || x == "fahrenheit^1 ";
        };
        if (known_a == "degree^1 " && temperature(known_b)) return false;
        if (known_b == "degree^1 " && temperature(known_a)) return false;
        const auto pounds = [](std::string_view x) { return x == "gbp^1 " || x == "lb^1 "; };
        return known_a != known_b && !(pounds(known_a) && pounds(known_b));
    }
    const bool other = known_a.size() != known_b.size();  // 5 cm, 5 sticks
    const std::string_view nouns_a = a.substr(known_a.size()), nouns_b = b.substr(known_b.size());
    if (other && (known_a.empty() ? !nouns_a.empty() : !nouns_b.empty())) return true;
    if (nouns_a.empty() || nouns_b.empty()) return false;
    for (std::size_t at = nouns_a.find(' '); at != std::string_view::npos;) {
        const std::size_t end = nouns_a.find(' ', at + 1);
        if (lists(nouns_b.substr(2), nouns_a.substr(at + 1, end - at - 1))) return false;
        at = end;
    }
    return true;
}

}  // namespace malt
