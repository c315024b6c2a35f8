// What a number or a formula is to its sentence.
#pragma once

#include <string_view>

namespace malt {

enum class Role : unsigned char {
    kResult,   // behind an equals sign: 3 * 4 = 12
    kSaid,     // behind a verb like is: the total is 12
    kPlain,    // she has sold 12
    kAside,    // behind a preposition: in 3 days, at x = 2
    kClaused,  // in a subordinate clause or a part: when y = 2, because she sold 4, 5 out of 12
};

// The role of what follows `before`, a part of its sentence.
[[nodiscard]] Role role_of(std::string_view before);

// Is what follows `before` the subject of its sentence: The 4 friends sit in 24 ways?
[[nodiscard]] bool is_subject(std::string_view before);

// Does a number point to a part of a text: problem 5, step 3?
[[nodiscard]] bool is_reference(std::string_view before);

// Is the number between these asked for: could it be 18?
[[nodiscard]] bool is_asked(std::string_view after);

}  // namespace malt
