// Numbers in sentences, English or Chinese: which of them is said to be the answer.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace malt {

[[nodiscard]] char lower(char c);

// Does `text` begin or end with `word` (lower case), in any case?
[[nodiscard]] bool begins(std::string_view text, std::string_view word);
[[nodiscard]] bool ends(std::string_view text, std::string_view word);

// Length of the Chinese character or full-width sign at the front of a text, else 0.
[[nodiscard]] std::size_t wide(std::string_view text);

// Does a text hold Chinese characters?
[[nodiscard]] bool is_chinese(std::string_view text);

// Where the sentence that holds the byte at `at` begins, and where it ends.
[[nodiscard]] std::size_t sentence_begin(std::string_view text, std::size_t at);
[[nodiscard]] std::size_t sentence_end(std::string_view text, std::size_t at);

// What a text behind a marker does.
enum class Stance : unsigned char {
    kStates,   // an answer
    kDenies,   // not 5, at least 5, 5 is wrong
    kWavers,   // either 5 or 6
    kPraises,  // nothing but itself: correct. as follows:
    kFaults,   // wrong. not right.
};
[[nodiscard]] Stance stance_of(std::string_view text);

// Is what stands between `before` and `after` denied or no more than a bound: not 5, at least 5, 5
// is wrong?
[[nodiscard]] bool is_refused(std::string_view before, std::string_view after);

// The text before what it denies: 18, not 20.
[[nodiscard]] std::string_view without_denial(std::string_view text);

// The last number that is not refused; exponents of units are none.
[[nodiscard]] std::optional<std::string> last_number(std::string_view text);

// The last number, refused or not.
[[nodiscard]] std::optional<std::string> any_number(std::string_view text);

// The only number that a text holds, however often.
[[nodiscard]] std::optional<std::string> only_number(std::string_view text);

// The number that a text begins with: 5 cars passed in the first 15 minutes, 72 km/h, -4°F.
[[nodiscard]] std::optional<std::string> leading_number(std::string_view text);

// Does a text join two quantities: 2 hours and 30 minutes?
[[nodiscard]] bool is_compound(std::string_view text);

// Is a text that begins with a number nothing but it and a compound unit (7 m/s^2), or words?
[[nodiscard]] bool is_measure(std::string_view text);

}  // namespace malt
