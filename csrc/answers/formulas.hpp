// The formulas of a text: $...$, \(...\) and \[...\].
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace malt {

// Are there so many words of two letters or more, other than commands?
[[nodiscard]] bool has_words(std::string_view text, int enough = 2);

// Is it a formula on one line, without words, in ASCII, and no number with a unit like m/s?
[[nodiscard]] bool is_pure(std::string_view text);

[[nodiscard]] bool is_prose(std::string_view text);

struct Formula {
    std::string_view inside;
    std::size_t begin, end;  // of the inside, in the text
};

// All of a text that are not prose between two prices.
[[nodiscard]] std::vector<Formula> formulas_in(std::string_view text);

// Is a formula no more than a name: N, ABCD, a_1, \angle ABC, f(x)?
[[nodiscard]] bool is_name(std::string_view formula);

// The last row of an aligned display, behind its last equals sign; another formula as it is.
[[nodiscard]] std::string_view last_row(std::string_view formula);

// Of the formulas and numbers of a text the one said last; no mere name if there is another.
[[nodiscard]] std::optional<std::string> last_said(std::string_view text, std::vector<Formula> all);

// The formula that opens a text, if no other follows: $6$ (six), $$x$$.
[[nodiscard]] std::optional<std::string_view> only_formula(std::string_view text);

}  // namespace malt
