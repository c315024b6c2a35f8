// A number in front of a text, with its scale and unit.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace malt {

// The Chinese power of ten at the front of a text, as a factor; not of 千米, 千克.
[[nodiscard]] std::string_view factor_of(std::string_view text);

// The number that a text begins with: 5 cars passed in the first 15 minutes, 72 km/h, -4°F.
[[nodiscard]] std::optional<std::string> leading_number(std::string_view text);

// Does a text join two quantities: 2 hours and 30 minutes?
[[nodiscard]] bool is_compound(std::string_view text);

// Is a text that begins with a number nothing but it and a compound unit (7 m/s^2), or words?
[[nodiscard]] bool is_measure(std::string_view text);

}  // namespace malt
