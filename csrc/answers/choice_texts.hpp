// The choices that a question lists, and where a text names one by its words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace malt {

// A word in lower case, or another sign.
struct ChoiceToken {
    std::string word;
    std::size_t begin;  // in the text it is of
    bool glued;         // to the token before it
    bool label;         // a lone capital letter
};

// Texts are compared word by word, ignoring case, articles, emphasis, fonts and dollar signs.
class ChoiceTexts {
  public:
    // Of a question with lines like `A: bank` or `(B) library`, one for each letter from A on; the
    // last such block counts. Without one there are no choices.
    explicit ChoiceTexts(std::string_view question);

    [[nodiscard]] bool empty() const { return texts_.empty(); }

    // The letter of the choice that opens a text (`the library, since ...`); none if another one
    // or another letter stands in it, too, or if it is taken back.
    [[nodiscard]] std::optional<std::string> named(std::string_view text) const;

    // The letter of the choice that is all of a line.
    [[nodiscard]] std::optional<std::string> alone(std::string_view line) const;

    // The letters of all choices that stand in a text. Of `book store` that is not `store`.
    [[nodiscard]] std::string standing(std::string_view text) const;

    // Does a text that chooses a letter put the text of another choice beside it: A: library?
    [[nodiscard]] bool contradict(char letter, std::string_view text) const;

  private:
    using Tokens = std::vector<ChoiceToken>;

    struct Match {
        std::uint32_t choices = 0;  // bit i: the choice with letter A + i
        std::size_t length = 0;     // in tokens
    };

    [[nodiscard]] Match longest_at(const Tokens& tokens, std::size_t at) const;
    [[nodiscard]] std::uint32_t all_in(const Tokens& tokens, std::size_t begin,
                                       std::size_t end) const;

    // Is a choice like `not hungry` in it?
    [[nodiscard]] bool denies_in_words(std::string_view text) const;

    // The choices beside a letter in the tokens of a text: A: library.
    [[nodiscard]] std::uint32_t beside(const Tokens& tokens, std::size_t letter,
                                       std::string_view text) const;

    std::vector<Tokens> texts_;
};

}  // namespace malt
