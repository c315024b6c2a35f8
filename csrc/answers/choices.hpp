// The letter that a completion chooses.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace malt {

// The letter that opens a text; none if the text names two, or merely begins with a word.
[[nodiscard]] std::optional<std::string> opening_letter(std::string_view region);

// The first letter that a text names.
[[nodiscard]] std::optional<std::string> first_letter(std::string_view region);

// A last line that is a lone letter, or a text that is all of a letter and what it stands for.
[[nodiscard]] std::optional<std::string> unmarked_letter(std::string_view text);

// The letter of a first line that chooses one, above reasons that name no other letter and take
// nothing back.
[[nodiscard]] std::optional<std::string> leading_letter(std::string_view text);

// ---- helpers shared with extraction.cpp ----

// The last line that is not blank, without white space at its end.
[[nodiscard]] std::string_view last_line(std::string_view text);

}  // namespace malt
