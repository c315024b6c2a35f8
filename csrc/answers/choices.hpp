// The letter that a completion chooses.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "answers/boxes.hpp"
#include "answers/choice_texts.hpp"

namespace malt {

// The letter that opens a text; none if the text names two, or merely begins with a word.
[[nodiscard]] std::optional<std::string> opening_letter(std::string_view region);

// The choice that a text opens with, by its letter, or else by its words (`the library, since`), if
// neither the text nor what comes after its line contradicts, denies or takes back that one.
[[nodiscard]] std::optional<std::string> chosen(std::string_view region, std::string_view after,
                                                const ChoiceTexts& choices);

// The same of a box; the sentence around it must not deny it or box another choice.
[[nodiscard]] std::optional<std::string> boxed_choice(std::string_view text, const Box& box,
                                                      const ChoiceTexts& choices);

// The letters of all choices that stand in a text.
[[nodiscard]] std::string choices_in(std::string_view text, const ChoiceTexts& choices);

// Without a marker: a last line that is a letter or names a choice and nothing else; or a text that
// is all of a letter and what it stands for; or the first line, above reasons that name no other
// choice and take nothing back.
[[nodiscard]] std::optional<std::string> unmarked_choice(std::string_view text,
                                                         const ChoiceTexts& choices);

}  // namespace malt
