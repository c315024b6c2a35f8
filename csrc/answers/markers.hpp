// Where a completion says that its answer follows: tags, `####`, `Final Answer:`, `answer is`.
#pragma once

#include <optional>
#include <string_view>

#include "answers/answers.hpp"

namespace malt {

struct Reply {
    std::string_view text;
    bool tagged;  // it stands in an <answer>
};

// What is said in reply: after the last </think>, inside the last <answer>, before the token that
// ends the turn. Nothing of a thought that does not end.
[[nodiscard]] Reply reply_in(std::string_view completion);

struct Marker {
    std::size_t begin;        // of the sign that ends it
    std::string_view region;  // what it opens: a line, or a display formula
    bool statement;           // `answer is`, not `Answer:`
    bool denied;              // a wrong answer is, I doubt that the answer is
};

// The last marker of a text, other than of a supposition: if the answer is. One walk back over it.
[[nodiscard]] std::optional<Marker> last_marker(std::string_view text, Grader grader);

// The inside of a display formula, on several lines, that a text begins or ends with.
[[nodiscard]] std::optional<std::string_view> opening_display(std::string_view text);
[[nodiscard]] std::optional<std::string_view> closing_display(std::string_view text);

}  // namespace malt
