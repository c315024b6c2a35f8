// Is a mathematical answer the gold one? Where does it stand in a completion?
//
// Never evaluates text as code, is bounded in time, and says `unknown` rather than guess. The
// conventions are those of docs/grading.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace malt {

enum class Verdict : std::uint8_t { kDifferent, kEqual, kUnknown };

constexpr std::size_t kMaxCompletion = std::size_t{1} << 18;  // bytes looked at, from the end
constexpr std::size_t kMaxAnswer = 1024;  // bytes; longer ones are compared as strings

[[nodiscard]] Verdict compare_answers(std::string_view gold, std::string_view answer);

// Can the grammar of answers read it whole?
[[nodiscard]] bool is_answer(std::string_view text);

// The answer of a completion: its last box, else what follows its last marker (`####`,
// `Final Answer:`, `A:`), else the whole of it if it is an answer, else its last formula, else its
// last number.
[[nodiscard]] std::optional<std::string> math_answer(std::string_view completion);

}  // namespace malt
