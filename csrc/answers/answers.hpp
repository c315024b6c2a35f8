// Comparing an answer with the gold answer.
//
// Never evaluates text as code, takes bounded time, and returns kUnknown rather than guess. The
// conventions are in docs/grading.md.
#pragma once

#include <cstdint>
#include <string_view>

namespace malt {

enum class Verdict : std::uint8_t { kDifferent, kEqual, kUnknown };

enum class Grader : std::uint8_t {
    kNumber,  // a number, in any spelling
    kMath,    // numbers, formulas, sets, intervals, matrices, words; may be unknown
    kChoice,  // a letter
    kExact,   // the same text up to runs of white space
};

constexpr std::size_t kMaxAnswer = 1024;  // bytes; longer ones are compared as strings

[[nodiscard]] Verdict compare_answers(Grader grader, std::string_view gold,
                                      std::string_view answer);

// Can the grader read a gold answer, so that answers can be compared with it?
[[nodiscard]] bool can_read(Grader grader, std::string_view gold);

// ---- helpers shared with extraction.cpp ----

// Without surrounding white space and full stops at the end.
[[nodiscard]] std::string_view trimmed(std::string_view text);

// Without surrounding white space, dollar signs and full stops at the end.
[[nodiscard]] std::string_view bare(std::string_view text);

}  // namespace malt
