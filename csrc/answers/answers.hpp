// Is an answer the gold one?
//
// Never evaluates text as code, is bounded in time, and says `unknown` rather than guess. The
// conventions are those of docs/grading.md.
#pragma once

#include <cstdint>
#include <string_view>

namespace malt {

enum class Verdict : std::uint8_t { kDifferent, kEqual, kUnknown };

enum class Grader : std::uint8_t {
    kNumber,  // a number, in any spelling
    kMath,    // numbers, formulas, sets, intervals, matrices, words; alone may be unknown
    kChoice,  // a letter
    kExact,   // the same text, runs of white space being one
};

constexpr std::size_t kMaxAnswer = 1024;  // bytes; longer ones are compared as strings

[[nodiscard]] Verdict compare_answers(Grader grader, std::string_view gold,
                                      std::string_view answer);

// Is a gold answer one that others can be compared with?
[[nodiscard]] bool can_read(Grader grader, std::string_view gold);

// ---- what finding answers needs too ----

// Without white space around it and full stops behind it.
[[nodiscard]] std::string_view trimmed(std::string_view text);

// Without white space, a full stop and dollar signs around it.
[[nodiscard]] std::string_view bare(std::string_view text);

}  // namespace malt
