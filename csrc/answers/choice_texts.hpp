// The choices that a question lists, and where a text names one by its words.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "answers/choice_tokens.hpp"

namespace malt {

// Texts are compared word by word, ignoring case, articles, emphasis, fonts and dollar signs.
class ChoiceTexts {
  public:
    // Of a question with lines like `A: bank` or `(B) library`, one for each letter from A on; the
    // last such block counts. Without one there are no choices.
    explicit ChoiceTexts(std::string_view question);

    [[nodiscard]] bool empty() const { return texts_.empty(); }

    // Can a letter be that of a choice? Any may, if the choices are not known.
    [[nodiscard]] bool has(char letter) const;

    // The tokens of a text without articles; each name of a choice, letter or words, is one token
    // with its letter. Of `book store` that is not `store`. A capital A before the first word may
    // be a letter if the text is the one that chooses: A library.
    [[nodiscard]] ChoiceTokens tokens(std::string_view text, bool chooses = true) const;

  private:
    struct Match {
        char letter = 0;
        std::size_t length = 0;  // in tokens
    };

    [[nodiscard]] Match longest_at(const ChoiceTokens& tokens, std::size_t at) const;

    std::vector<ChoiceTokens> texts_;
    std::vector<bool> with_article_;  // a kilogram of lead
};

}  // namespace malt
