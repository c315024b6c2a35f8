// Boxes, by one walk back over the text.
#include "answers/boxes.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "answers/sentences.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;

// The last backslash before `end`. memrchr reads many bytes at once, and most texts are long.
std::size_t last_backslash(std::string_view text, std::size_t end) {
#ifdef _GNU_SOURCE
    const void* found = memrchr(text.data(), '\\', end);
    return found ? static_cast<std::size_t>(static_cast<const char*>(found) - text.data()) : npos;
#else
    return end ? text.rfind('\\', end - 1) : npos;
#endif
}

// Is there nothing between two boxes but `,`, `and` or `or`, perhaps after one word (a unit)?
bool joins(std::string_view between) {
    if (between.size() > 64) return false;
    std::vector<std::string> words(1);
    bool comma = between.empty();
    for (const char c : between) {
        if (is_digit(c) || c == '=' || c == '+') return false;
        if (c == ',' || c == ';') comma = true;
        if (is_alpha(c))
            words.back() += c;
        else if (!words.back().empty())
            words.emplace_back();
    }
    std::erase_if(words, [](const std::string& word) {
        return word.empty() || word == "quad" || word == "text" || word == "mbox";
    });
    if (words.empty()) return comma;
    return words.size() <= 2 && (words.back() == "and" || words.back() == "or");
}

}  // namespace

std::size_t closing(std::string_view text, std::size_t at) {
    int depth = 0;
    for (; at < text.size(); ++at) {
        if (text[at] == '\\') {
            ++at;
        } else if (text[at] == '{') {
            ++depth;
        } else if (text[at] == '}' && --depth == 0) {
            return at;
        }
    }
    return npos;
}

std::optional<Box> last_box(std::string_view text, std::size_t before) {
    while (before > 0) {
        const std::size_t name = before = last_backslash(text, before);
        if (name == npos) return {};
        const std::string_view rest = text.substr(name);
        std::size_t open = name + (rest.starts_with("\\boxed")  ? 6
                                   : rest.starts_with("\\fbox") ? 5
                                                                : 0);
        const bool longer = open < text.size() && is_alpha(text[open]);
        if (open == name || longer) continue;
        while (open < text.size() && (text[open] == ' ' || text[open] == '\t')) ++open;
        if (const auto brace = text.find_first_not_of(" \t\r\n", open);
            brace != npos && text[brace] == '{')
            open = brace;
        if (open < text.size() && text[open] == '{') {
            const std::size_t close = closing(text, open);
            if (close == npos) return Box{name, text.size(), {}};
            return Box{name, close + 1, text.substr(open + 1, close - open - 1)};
        }
        const std::size_t end = std::min(text.find_first_of(" \t\r\n$", open), text.size());
        return Box{name, end, text.substr(open, end - open)};
    }
    return {};
}

std::string boxed(std::string_view text, Box last) {
    std::string all(last.inside);
    for (int boxes = 1; boxes < 32; ++boxes) {
        const auto before = last_box(text, last.begin);
        if (!before || before->inside.empty() || before->end > last.begin ||
            !joins(text.substr(before->end, last.begin - before->end)))
            break;
        if (before->end == last.begin && before->inside == last.inside) break;  // repeated
        all.insert(0, std::string(before->inside) + ", ");
        last = *before;
    }
    return all;
}

}  // namespace malt
