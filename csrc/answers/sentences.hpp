// Letters, words and sentences of a text, English or Chinese.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

namespace malt {

[[nodiscard]] char lower(char c);

// Does `text` begin or end with `word` (lower case), in any case?
[[nodiscard]] bool begins(std::string_view text, std::string_view word);
[[nodiscard]] bool ends(std::string_view text, std::string_view word);

// Length of the Chinese character or full-width sign at the front of a text, else 0.
[[nodiscard]] std::size_t wide(std::string_view text);

// Without the ticks and emoji around it, nor the emphasis beside them: **18** ✅. Those that doubt
// stay.
[[nodiscard]] std::string_view undecorated(std::string_view text);

// Does a text hold Chinese characters?
[[nodiscard]] bool is_chinese(std::string_view text);

// Where the sentence that holds the byte at `at` begins, and where it ends.
[[nodiscard]] std::size_t sentence_begin(std::string_view text, std::size_t at);
[[nodiscard]] std::size_t sentence_end(std::string_view text, std::size_t at);

// Signs in front of a price, the escaped one before its sign.
inline constexpr auto kCurrencies =
    std::to_array<std::string_view>({"\\$", "$", "\u20ac", "\u00a3", "\u00a5", "\u20b9", "\u20b1"});

inline bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
inline bool is_alpha(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
// Of a word: a letter, a digit, an apostrophe or a byte beyond ASCII.
inline bool is_word(char c) {
    return is_alpha(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80 || c == '\'';
}
inline bool digit_at(std::string_view text, std::size_t at) {
    return at < text.size() && is_digit(text[at]);
}
inline bool alpha_at(std::string_view text, std::size_t at) {
    return at < text.size() && is_alpha(text[at]);
}

template <std::size_t N>
bool begins_any(std::string_view text, const std::array<std::string_view, N>& words) {
    return std::ranges::any_of(words, [&](std::string_view word) { return begins(text, word); });
}

// Does a text begin with one of these words, and not merely with its letters?
template <std::size_t N>
std::string_view word_of(std::string_view text, const std::array<std::string_view, N>& words) {
    for (const std::string_view word : words)
        if (begins(text, word) && !alpha_at(text, word.size())) return word;
    return {};
}

// Is a word one of these, in any case?
template <std::size_t N>
bool is_one_of(std::string_view word, const std::array<std::string_view, N>& words) {
    return std::ranges::any_of(words, [&](std::string_view one) {
        return one.size() == word.size() && begins(word, one);
    });
}

inline std::string_view without_lead(std::string_view text, std::string_view characters) {
    return text.substr(std::min(text.find_first_not_of(characters), text.size()));
}

}  // namespace malt
