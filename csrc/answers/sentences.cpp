// Where words and sentences begin and end.
#include "answers/sentences.hpp"

namespace malt {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

namespace {

// The length of the sign at the front of a text, if it only decorates: a tick, an emoji.
std::size_t decoration(View text) {
    for (const View sign : {View("\u2705"), View("\u2713"), View("\u2714"), View("\u2611"),
                            View("\u2728"), View("\u2b50"), View("\ufe0f")})
        if (text.starts_with(sign)) return sign.size();
    const bool emoji = text.size() > 3 && text.substr(0, 4) >= "\U0001f300" &&
                       text.substr(0, 4) < "\U0001f610" && !text.starts_with("\U0001f44e");
    return emoji ? 4 : 0;  // of signs and smiles; later faces doubt
}

// Is the stop at `at` that of a currency: Rs. 18?
bool is_rupees(View text, std::size_t at) {
    return at > 1 && digit_at(text, at + 2) && ends(text.substr(0, at), "rs") &&
           (at == 2 || !is_alpha(text[at - 3]));
}

}  // namespace

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

View undecorated(View text) {
    constexpr View marks = " \t*_";
    while (const std::size_t length = decoration(text))
        text = without_lead(text.substr(length), marks);
    for (bool more = true; more;) {
        const View kept = text.substr(0, text.find_last_not_of(marks) + 1);
        more = false;
        for (const std::size_t length : {std::size_t{3}, std::size_t{4}})
            if (kept.size() >= length && decoration(kept.substr(kept.size() - length)) == length)
                text = kept.substr(0, kept.size() - length), more = true;
    }
    return text;
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
        if (at > 1 && text[at - 1] == ' ' && View(".!?").find(text[at - 2]) != npos &&
            !is_rupees(text, at - 2))
            return at;
        if (at > 2 && text.substr(at - 3, 3) == "\u3002") return at;
    }
    return 0;
}

std::size_t sentence_end(View text, std::size_t at) {
    for (; at < text.size(); ++at) {
        if (text[at] == '\n') return at;
        const bool stop = View(".!?").find(text[at]) != npos;
        if (stop && at + 1 < text.size() && text[at + 1] == ' ' && !is_rupees(text, at))
            return at + 1;
        if (text[at] == '\xe3' && text.substr(at).starts_with("\u3002")) return at + 3;
    }
    return text.size();
}

}  // namespace malt
