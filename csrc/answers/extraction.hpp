// Finding the answer in a completion.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "answers/answers.hpp"
#include "answers/choice_texts.hpp"

namespace malt {

constexpr std::size_t kMaxCompletion = std::size_t{1} << 18;  // bytes looked at, from the end

// The answer of a completion: of its reply the last box, else what follows its last marker (`####`,
// `Final Answer:`, `A:`) that opens an answer, else, for each grader:
// number and math: all of it if it is an answer, else its last formula, else its last number;
// choice: a last line that is a lone letter, or a letter with its text; exact: all of it.
// Nothing if there is none, or the grader cannot read it.
// strict: only boxes, markers and an <answer> of one line count, except for the grader exact.
// choices: of the question, for the grader choice, where their texts stand for their letters.
[[nodiscard]] std::optional<std::string> extract_answer(
    Grader grader, std::string_view completion, bool strict = false,
    const ChoiceTexts& choices = ChoiceTexts({}));

}  // namespace malt
