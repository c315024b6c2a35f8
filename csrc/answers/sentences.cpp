// Where words and sentences begin and end.
#include "answers/sentences.hpp"

namespace malt {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

char lower(char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool begins(View text, View word) {
    return text.size() >= word.size() &&
           std::ranges::equal(text.substr(0, word.size()), word, {}, lower);
}

bool ends(View text, View word) {
    return text.size() >= word.size() &&
           std::ranges::equal(text.substr(text.size() - word.size()), word, {}, lower);
}

std::size_t wide(View text) {
    if (text.size() < 3) return 0;
    const auto lead = static_cast<unsigned char>(text[0]);
    return (lead >= 0xe3 && lead <= 0xe9) || lead == 0xef ? 3 : 0;
}

bool is_chinese(View text) {
    return std::ranges::any_of(text, [](char c) {
        const auto byte = static_cast<unsigned char>(c);
        return byte >= 0xe3 && byte <= 0xe9;  // U+3000 to U+9FFF
    });
}

std::size_t sentence_begin(View text, std::size_t at) {
    for (; at > 0; --at) {
        if (text[at - 1] == '\n') return at;
        if (at > 1 && text[at - 1] == ' ' && View(".!?").find(text[at - 2]) != npos) return at;
        if (at > 2 && text.substr(at - 3, 3) == "\u3002") return at;
    }
    return 0;
}

std::size_t sentence_end(View text, std::size_t at) {
    for (; at < text.size(); ++at) {
        if (text[at] == '\n') return at;
        const bool stop = View(".!?").find(text[at]) != npos;
        if (stop && at + 1 < text.size() && text[at + 1] == ' ') return at + 1;
        if (text[at] == '\xe3' && text.substr(at).starts_with("\u3002")) return at + 3;
    }
    return text.size();
}

}  // namespace malt
