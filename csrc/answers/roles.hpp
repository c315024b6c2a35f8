// What a number or a formula is to its sentence.
#pragma once

#include <string_view>

namespace malt {

enum class Role : unsigned char {
    kResult,   // behind an equals sign: 3 * 4 = 12
    kSaid,     // behind a verb like is: the total is 12
    kPlain,    // she has sold 12
    kAside,    // behind a preposition: in 3 days, at x = 2
    kClaused,  // in a subordinate clause or a part: when y = 2, because she sold 4, 5 out of 12, (4
               // each)
};

// The role of what follows `before`, a part of its sentence.
[[nodiscard]] Role role_of(std::string_view before);

// Is what follows `before` the subject of its sentence: The 4 friends sit in 24 ways?
[[nodiscard]] bool is_subject(std::string_view before);

// Is what follows `before` given rather than found: in the first 15 minutes, of the 12?
[[nodiscard]] bool is_definite(std::string_view before);

// Does a text, behind a number, name no more than what is counted before its first preposition:
// years old in 5 years? Not: workers finish in 5 days.
[[nodiscard]] bool is_phrase(std::string_view text);

// What stands between two numbers of a sentence makes of the second one.
enum class Link : unsigned char {
    kNone,     // nothing: 3 boxes hold 18
    kRemark,   // a remark on the first: the cost is $18, leaving $2; 18 more than Ann's 20
    kUnclear,  // one of two that may be meant: 18 more to buy 3; 6 are red, leaving 18
};

// Of two numbers, by the text of their sentence before, between and behind them.
[[nodiscard]] Link link_between(std::string_view before, std::string_view between,
                                std::string_view after);

// Does a number point to a part of a text: problem 5, step 3?
[[nodiscard]] bool is_reference(std::string_view before);

// Is the number between these asked for: could it be 18?
[[nodiscard]] bool is_asked(std::string_view after);

}  // namespace malt
