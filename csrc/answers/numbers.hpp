// Numbers in sentences, English or Chinese: which of them is said to be the answer.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace malt {

// The number that the last sentence with numbers states: its last one that is neither refused nor
// an aside (in 3 days); exponents of units are none.
[[nodiscard]] std::optional<std::string> last_number(std::string_view text);

// The only number that a sentence states besides its asides. Of a sentence that begins with a
// number only a result: 8 pens cost 8 * 2 = 16.
[[nodiscard]] std::optional<std::string> sole_number(std::string_view sentence);

// Without the number of an item of a list: 2. Add them.
[[nodiscard]] std::string_view without_index(std::string_view text);

// With signs that formulas use: 10 x 2 = $20 becomes 10 * 2 = 20, and 1e-3 becomes 1e-03.
[[nodiscard]] std::string in_plain_signs(std::string_view text);

// The last number of a clause with `and` or `so`, if it stands behind a verb like is.
[[nodiscard]] std::optional<std::string> said_number(std::string_view text);

// The last number, refused or not.
[[nodiscard]] std::optional<std::string> any_number(std::string_view text);

// The only number that a text holds, however often.
[[nodiscard]] std::optional<std::string> only_number(std::string_view text);

}  // namespace malt
