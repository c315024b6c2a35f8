// Texts cut into words and signs.
#include "answers/choice_tokens.hpp"

#include <cctype>
#include <optional>

#include "answers/sentences.hpp"

namespace malt {
namespace {

constexpr auto npos = std::string_view::npos;
using View = std::string_view;

// Signs in UTF-8 with a plain equivalent; "" for those that count no more than emphasis.
constexpr auto kSigns = std::to_array<std::pair<View, View>>({{"\u3002", "."},
                                                              {"\u3001", ","},
                                                              {"\u2013", "-"},
                                                              {"\u2014", "-"},
                                                              {"\u2212", "-"},
                                                              {"\u2019", "'"},
                                                              {"\u201c", ""},
                                                              {"\u201d", ""},
                                                              {"\u300a", ""},
                                                              {"\u300b", ""},
                                                              {"\u300c", ""},
                                                              {"\u300d", ""},
                                                              {"\u3010", "["},
                                                              {"\u3011", "]"},
                                                              {"\u2705", ""},
                                                              {"\u2713", ""},
                                                              {"\u2714", ""}});

// Chinese characters, and signs, that say what the English word does.
constexpr auto kMeanings = std::to_array<std::pair<View, View>>(
    {{"\u6216", "or"},       // 或
     {"\u8fd8", "or"},       // 还
     {"\u548c", "and"},      // 和
     {"\u4e0e", "and"},      // 与
     {"\u53ca", "and"},      // 及
     {"\u4e5f", "also"},     // 也
     {"\u4e0d", "not"},      // 不
     {"\u975e", "not"},      // 非
     {"\u9519", "wrong"},    // 错
     {"\u5bf9", "right"},    // 对
     {"\u6b63", "right"},    // 正
     {"\u9664", "except"},   // 除
     {"\u5916", "except"},   // 外
     {"\u4f46", "but"},      // 但
     {"\u800c", "but"},      // 而
     {"\u662f", "is"},       // 是
     {"\u56e0", "because"},  // 因
     {"\u5417", "?"},        // 吗
     {"\u274c", "wrong"},   {"\u2717", "wrong"}, {"\u2718", "wrong"}});

struct Piece {
    std::string word;
    std::size_t length;  // in the text
    bool whole;          // no part of a longer word
};

// A sign beyond ASCII at the front of a text that stands for something else.
std::optional<Piece> sign_at(View text) {
    if (static_cast<unsigned char>(text[0]) < 0xe2 || text.size() < 3) return {};
    const auto third = static_cast<unsigned char>(text[2]);
    if (text.starts_with("\xef\xbc") && third > 0x80)  // full-width
        return Piece{std::string(1, static_cast<char>(third - 0x60)), 3, false};
    if (text.starts_with("\xef\xbd") && third < 0x9f)
        return Piece{std::string(1, static_cast<char>(third - 0x20)), 3, false};
    for (const auto& [sign, plain] : kSigns)
        if (text.starts_with(sign)) return Piece{std::string(plain), 3, false};
    for (const auto& [sign, word] : kMeanings)
        if (text.starts_with(sign)) return Piece{std::string(word), 3, true};
    if (wide(text)) return Piece{std::string(text.substr(0, 3)), 3, true};
    return {};
}

// The length of a command that only sets a font and opens its group; 0 for other texts.
std::size_t font_at(View text) {
    for (const View font :
         {View("\\text{"), View("\\textbf{"), View("\\textit{"), View("\\textrm{"),
          View("\\mathrm{"), View("\\mathbf{"), View("\\emph{"), View("\\mbox{"), View("\\boxed{")})
        if (text.starts_with(font)) return font.size();
    return 0;
}

// The length of markup at the front of a text that is no more than space.
std::size_t blank_at(View text) {
    if (std::isspace(static_cast<unsigned char>(text[0])) || text[0] == '_' || text[0] == '~')
        return 1;
    for (const View space : {View("\u00a0"), View("\u202f"), View("\u3000"), View("\u2009")})
        if (text.starts_with(space)) return space.size();
    const bool command = text[0] == '\\' && text.size() > 1;
    return command && View("()[] ,;:!").find(text[1]) != npos ? 2 : 0;
}

// Collects the tokens of a text.
class Speller {
  public:
    void add(View piece, std::size_t begin, bool word) {
        const bool quoted = word && run_ && glued_ && out.back().word == "'";  // 'B'
        if (quoted) {
            glued_ = out.back().glued, broken_ = out.back().opens;
            out.pop_back();
        } else if (word && run_ && glued_) {
            for (const char c : piece) out.back().word += lower(c);
            out.back().label = false;
            return;
        }
        const bool letter = piece.size() == 1 && piece[0] >= 'A' && piece[0] <= 'Z';
        std::string small(piece);
        std::ranges::transform(small, small.begin(), lower);
        out.push_back({std::move(small), begin, glued_, letter, broken_ || (stopped_ && !glued_),
                       piece[0] >= 'a' && piece[0] <= 'z'});
        broken_ = false;
        stopped_ = View(".!?").find(piece[0]) != npos;
        run_ = word, glued_ = true;
    }
    void add_whole(View word, std::size_t begin) {
        run_ = false;
        add(word, begin, false);
    }
    void space() { glued_ = false; }
    void end_sentence() { broken_ = true; }

    ChoiceTokens out;

  private:
    bool glued_ = false, run_ = false, stopped_ = false, broken_ = true;
};

void strip_quotes(ChoiceTokens& tokens) {
    for (ChoiceToken& token : tokens) {  // 'library'
        if (token.word.size() < 2 || token.word.back() != '\'') continue;
        token.word.pop_back();
        token.label = token.word.size() == 1 && is_alpha(token.word[0]) && !token.small;
    }
}

}  // namespace

bool is_word(const ChoiceToken& token) {
    return token.letter != 0 || is_word(token.word[0]);
}

ChoiceTokens choice_words(View text) {
    Speller said;
    std::vector<bool> fonts;  // of the open braces: whether they are of a font
    for (std::size_t i = 0; i < text.size();) {
        const View rest = text.substr(i);
        std::size_t length = 1;
        if (const std::size_t blank = blank_at(rest)) {
            length = blank, said.space();
            if (rest[0] == '\n') said.end_sentence();
        } else if (const std::size_t font = font_at(rest)) {
            length = font, fonts.push_back(true);
        } else if (const auto piece = sign_at(rest)) {
            length = piece->length;
            if (piece->whole)
                said.add_whole(piece->word, i);
            else if (!piece->word.empty())
                said.add(piece->word, i, is_word(piece->word[0]));
            if (rest.starts_with("\u3002") || rest.starts_with("\uff01") ||
                rest.starts_with("\uff1f"))
                said.end_sentence();
        } else if (rest[0] == '}' && !fonts.empty() && fonts.back()) {
            fonts.pop_back();
        } else if (is_word(rest[0])) {
            said.add(rest.substr(0, 1), i, true);
        } else if (View("*`\"$").find(rest[0]) == npos) {
            if (rest[0] == '{') fonts.push_back(false);
            if (rest[0] == '}' && !fonts.empty()) fonts.pop_back();
            said.add(rest.substr(0, 1), i, false);
        }
        i += length;
    }
    strip_quotes(said.out);
    return std::move(said.out);
}

}  // namespace malt
