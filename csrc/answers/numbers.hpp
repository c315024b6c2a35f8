// Numbers in sentences, English or Chinese: which of them is said to be the answer.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace malt {

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
