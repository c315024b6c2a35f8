// What a text says of an answer: states it, denies it, wavers, or judges it.
#pragma once

#include <string_view>

namespace malt {

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

// Does a text end with `not`, or a word like it?
[[nodiscard]] bool is_denied(std::string_view before);

// The text before what it denies: 18, not 20.
[[nodiscard]] std::string_view without_denial(std::string_view text);

}  // namespace malt
