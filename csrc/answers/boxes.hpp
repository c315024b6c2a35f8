// \boxed{...} and \fbox{...} in a completion.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace malt {

struct Box {
    std::size_t begin, end;  // of \boxed{...}
    std::string_view inside;
};

// Where the brace that opens at `at` closes; npos if it never does.
[[nodiscard]] std::size_t closing(std::string_view text, std::size_t at);

// The last box before `before`; without braces it holds a word: \boxed 2.
[[nodiscard]] std::optional<Box> last_box(std::string_view text, std::size_t before);

// The last box and those that are joined to it.
[[nodiscard]] std::string boxed(std::string_view text, Box last);

}  // namespace malt
