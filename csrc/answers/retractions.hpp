// What a text says of an answer after it has named it: 5, which is wrong. 5. No, 6.
#pragma once

#include <optional>
#include <string_view>

namespace malt {

// Is there nothing but marks? So it is behind most answers.
[[nodiscard]] inline bool says_nothing(std::string_view after) {
    for (const char c : after) {
        switch (c) {
            case '.':
            case '$':
            case '*':
            case '}':
            case ')':
            case ' ':
            case '\n':
            case '\r':
                continue;
            default:
                return false;
        }
    }
    return true;
}

// Of what follows an answer, the part that takes it back, from there to the end. Looked for in the
// rest of the answer's sentence, in the next sentence, and behind sentences that only hesitate.
[[nodiscard]] std::optional<std::string_view> retraction(std::string_view after,
                                                         std::string_view answer);

// What follows the first clause of a text.
[[nodiscard]] std::string_view behind_clause(std::string_view text);

// Does a text end by taking back what it said, or by giving up: 18? No. I cannot tell in 5 minutes.
[[nodiscard]] bool ends_without_answer(std::string_view text);

}  // namespace malt
