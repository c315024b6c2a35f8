// Words and signs of a text that chooses, English or Chinese.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "answers/sentences.hpp"

namespace malt {

// A word in lower case, or another sign.
struct ChoiceToken {
    std::string word;
    std::size_t begin;   // in the text it is of
    bool glued;          // to the token before it
    bool label;          // a lone capital letter
    bool opens;          // a sentence or a line
    bool small = false;  // its first letter is not a capital
    char letter = 0;     // the choice that it names by its letter or its words
    bool text = false;   // by its words
};

using ChoiceTokens = std::vector<ChoiceToken>;

constexpr char kManyChoices = '?';  // the letter of words that two choices share

// With articles. The signs of emphasis and of formulas are none, and a Chinese character is a word;
// those that join, deny or judge are the English word for it.
[[nodiscard]] ChoiceTokens choice_words(std::string_view text);

[[nodiscard]] bool is_word(const ChoiceToken& token);

}  // namespace malt
