// The tokens of an answer.
#include "answers/latex.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "answers/latex_names.hpp"
#include "answers/sentences.hpp"
#include "answers/units.hpp"

namespace malt {

using namespace latex;

namespace {

bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f';
}

std::size_t utf8_length(char lead) {
    const auto byte = static_cast<unsigned char>(lead);
    return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// `text` with Unicode signs in their LaTeX or ASCII spelling.
std::string ascii(std::string_view text) {
    std::string out;
    out.reserve(text.size() + 16);
    const bool rows = text.find("\\begin") != std::string_view::npos;
    for (std::size_t i = 0; i < text.size();) {
        if (!rows && text.substr(i).starts_with("\\\\") && i + 2 < text.size() &&
            is_alpha(text[i + 2]))
            ++i;  // escaped twice: \\frac
        if (static_cast<unsigned char>(text[i]) < 0x80) {
            out += text[i++];
            continue;
        }
        const std::string_view sign = text.substr(i, utf8_length(text[i]));
        i += sign.size();
        const auto known =
            std::ranges::find(kUnicode, sign, [](auto& entry) { return entry.first; });
        if (known != kUnicode.end()) {
            out += known->second;
        } else if (sign.size() == 3 && sign[0] == '\xef' && sign[1] == '\xbc' &&
                   sign[2] >= '\x81') {
            out += static_cast<char>(sign[2] - '\x80' + ' ');  // full-width ! to _
        } else {
            out += sign;
        }
    }
    return out;
}

class Lexer {
  public:
    explicit Lexer(std::string_view answer) : owned_(ascii(answer)), text_(owned_) {
        int dollars = 0;
        for (auto i = text_.find('$'); i != std::string_view::npos; i = text_.find('$', i + 1))
            dollars += i == 0 || text_[i - 1] != '\\';
        lone_dollar_ = dollars == 1;
    }

    std::vector<Token> run() {
        tokens_.reserve(std::min(text_.size() + 1, std::size_t{64}));
        while (at_ < text_.size()) {
            if (tokens_.size() >= kMaxTokens) return {Token{Kind::kUnknown, false, false, {}}};
            step();
        }
        push(Kind::kEnd);
        return std::move(tokens_);
    }

  private:
    [[nodiscard]] char peek(std::size_t ahead = 0) const {
        return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
    }

    void push(Kind kind, std::string text = {}, bool command = false) {
        tokens_.push_back({kind, spaced_, command, std::move(text)});
        spaced_ = false;
    }

    void step() {
        const char c = peek();
        if (is_space(c) || c == '~') {
            spaced_ = true;
            ++at_;
        } else if (is_digit(c) || (c == '.' && (is_digit(peek(1)) || repeats()))) {
            number();
        } else if (is_alpha(c)) {
            letters(run_of_letters(), /*in_text=*/text_depth_ > 0);
        } else if (c == '\\') {
            command();
        } else if (c == '.' && peek(1) == '.' && peek(2) == '.') {
            at_ += 3;
            push(Kind::kDots);
        } else if (c == '$' && lone_dollar_ &&
                   (is_digit(peek(1)) ||
                    (!tokens_.empty() && tokens_.back().kind == Kind::kNumber))) {
            ++at_;
            push(Kind::kCurrency, "dollar");
        } else if (c == '$' || c == '.' || c == '`' || c == '"') {
            ++at_;
        } else if (c == '\'') {  // f' is another symbol than f
            ++at_;
            if (!tokens_.empty() && tokens_.back().kind == Kind::kLetter) tokens_.back().text += c;
        } else {
            sign();
        }
    }

    std::string_view run_of_letters() {
        const std::size_t begin = at_;
        while (is_alpha(peek())) ++at_;
        return text_.substr(begin, at_ - begin);
    }

    void sign() {
        const std::size_t n = utf8_length(peek());
        const std::string_view sign = text_.substr(at_, n);
        at_ += sign.size();
        const char next = peek();
        if (sign == "<" && next == '=') return ++at_, push(Kind::kLessEqual);
        if (sign == ">" && next == '=') return ++at_, push(Kind::kGreaterEqual);
        if (sign == "-" && next == '>') return ++at_, push(Kind::kTo);
        if (sign == "=" && next == '>') return ++at_, push(Kind::kImplies);
        if (sign == "*" && next == '*') return ++at_, push(Kind::kPower);
        const Entry* known = find(kSigns, sign);
        if (!known) return push(n > 1 ? Kind::kLetter : Kind::kUnknown, std::string(sign));
        if (text_depth_ && sign == "{") ++text_depth_;
        if (text_depth_ && sign == "}" && --text_depth_ == 0) return void(spaced_ = true);
        if (sign == "(" || sign == "[") ++brackets_;
        if ((sign == ")" || sign == "]") && brackets_) --brackets_;
        push(known->second);
    }

    // Length of a thousands separator at `at_`, 0 if there is none: `,` `{,}` `,\!` `\,` or a
    // space.
    [[nodiscard]] std::size_t separator() const {
        const std::string_view rest = text_.substr(at_);
        std::size_t n = 0;
        if (rest.starts_with("{,}")) {
            n = 3;
        } else if (rest.starts_with(",\\!")) {
            n = 3;
            while (n < rest.size() && is_space(rest[n])) ++n;
        } else if (rest.starts_with("\\,") || rest.starts_with("\\ ")) {
            n = 2;
        } else if ((rest.starts_with(",") || rest.starts_with(" ")) && !brackets_) {
            n = 1;
        } else {
            return 0;
        }
        std::size_t digits = 0;
        while (n + digits < rest.size() && is_digit(rest[n + digits])) ++digits;
        return digits == 3 ? n : 0;
    }

    // A point and digits without end: .\overline{6}, .(6)
    [[nodiscard]] bool repeats() const {
        if (peek(1) != '\\' && peek(1) != '(') return false;
        const std::string_view rest = text_.substr(at_);
        return rest.starts_with(".\\overline") || rest.starts_with(".\\bar") ||
               rest.starts_with(".\\dot") || (rest.starts_with(".(") && is_digit(peek(2)));
    }

    void number() {
        std::string digits;
        const auto take = [&] {
            while (is_digit(peek())) digits += text_[at_++];
        };
        take();
        const bool index = !tokens_.empty() && tokens_.back().kind == Kind::kSub;  // \log_5 125
        if (digits.size() <= 3 && !digits.empty() && digits != "0" && !index) {
            while (const std::size_t n = separator()) {
                at_ += n;
                take();
            }
        }
        if (peek() == '.' && (is_digit(peek(1)) || repeats())) {
            digits += text_[at_++];
            take();
        }
        power_of_ten(digits);
        push(Kind::kNumber, std::move(digits));
    }

    // 1e3 and 1.5e-07, as programs print them; 3e-1 may be 3e - 1.
    void power_of_ten(std::string& digits) {
        if (peek() != 'e' && peek() != 'E') return;
        const bool sign = peek(1) == '-' || peek(1) == '+';
        std::size_t n = sign ? 2 : 1;
        int exponent = 0;
        for (; is_digit(peek(n)) && exponent < 100; ++n) exponent = 10 * exponent + peek(n) - '0';
        if (n < (sign ? 4u : 2u) || exponent > 300 || is_digit(peek(n)) || is_alpha(peek(n)))
            return;
        const std::size_t point = std::min(digits.find('.'), digits.size());
        auto places = static_cast<std::ptrdiff_t>(point) + (peek(1) == '-' ? -exponent : exponent);
        if (point < digits.size()) digits.erase(point, 1);
        if (places < 1) {
            digits.insert(0, static_cast<std::size_t>(1 - places), '0');
            places = 1;
        }
        const auto at = static_cast<std::size_t>(places);
        if (digits.size() < at) digits.append(at - digits.size(), '0');
        if (digits.size() > at) digits.insert(at, 1, '.');
        while (digits.size() > 1 && digits[0] == '0' && digits[1] != '.') digits.erase(0, 1);
        at_ += n;
    }

    void letters(std::string_view run, bool in_text) {
        if (run == "pi") return push(Kind::kLetter, "pi");
        if (run == "sqrt") return push(Kind::kSqrt);
        if (run == "infinity" || run == "inf") return push(Kind::kLetter, "infty");
        const Kind before = tokens_.empty() ? Kind::kEnd : tokens_.back().kind;
        const bool after_number = before == Kind::kNumber;
        const bool seconds = run == "sec" && after_number && (in_text || at_ == text_.size());
        if (holds(kFunctions, run) && !seconds) return push(Kind::kFunction, std::string(run));
        std::string lower(run);
        std::ranges::transform(lower, lower.begin(), [](char c) {
            return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c;
        });
        if (lower == "and" || lower == "or") return push(Kind::kComma, lower);
        if (lower == "mod") return push(Kind::kMod);
        if (lower == "degrees" || lower == "degree") return push(Kind::kDegree);
        if (lower == "percent") return push(Kind::kPercent);
        if (lower == "pm" || lower == "am") return push(Kind::kLetter, lower);
        const bool half_day = lower == "p" || lower == "a";
        if (half_day && peek() == '.' && (peek(1) == 'm' || peek(1) == 'M')) {
            at_ += 2;
            return push(Kind::kLetter, lower + "m");
        }
        if (is_word(run, lower, in_text, before)) {
            if (is_unit_symbol(run) || run.size() == 1) lower = run;  // W is no w
            push(Kind::kWord, std::move(lower));
        } else {
            for (const char c : run) push(Kind::kLetter, std::string(1, c));
        }
    }

    // Whether letters are one word, such as a unit, and not a product of symbols.
    [[nodiscard]] bool is_word(std::string_view run, std::string_view lower, bool in_text,
                               Kind before) const {
        if (run.size() > 2) return true;
        const bool after_number = before == Kind::kNumber;
        if (run.size() == 2)
            return in_text || holds(kShortWords, lower) || (after_number && is_unit_symbol(run));
        // m/s and kg m inside \text
        const bool within_unit =
            before == Kind::kWord ||
            ((before == Kind::kCloseGroup || before == Kind::kDegree) && is_unit_letter(run)) ||
            ((before == Kind::kDivide || before == Kind::kTimes) && tokens_.size() > 1 &&
             tokens_[tokens_.size() - 2].kind == Kind::kWord);
        return in_text && (after_number || within_unit);
    }

    void command() {
        ++at_;
        const char c = peek();
        if (!is_alpha(c)) {
            ++at_;
            if (c == '{') return push(Kind::kOpenSet);
            if (c == '}') return push(Kind::kCloseSet);
            if (c == '%') return push(Kind::kPercent);
            if (c == '|') return push(Kind::kBar);
            if (c == '\\') return push(Kind::kRow);
            if (c == '$') return push(Kind::kCurrency, "dollar");
            if (is_digit(c)) return push(Kind::kUnknown);  // a row's \\ that lost one
            if (c == ' ' || c == ',' || c == ';' || c == ':') spaced_ = true;
            return;  // \! \( \) \[ \] and unknown ones
        }
        const std::string_view name = run_of_letters();
        if (name == "begin" || name == "end") return environment(name == "begin");
        if (name == "overline" || name == "bar" || name == "dot")
            return push(Kind::kOver, name == "dot" ? "dot" : "overline");
        if (name == "euro" || name == "gbp" || name == "yen" || name == "cent" || name == "rupee" ||
            name == "peso")
            return push(Kind::kCurrency, std::string(name));
        if (text_.substr(at_).starts_with("{mod}")) {
            at_ += 5;
            return push(Kind::kMod);
        }
        const Kind before = tokens_.empty() ? Kind::kEnd : tokens_.back().kind;
        const bool unit = name == "mathrm" && peek() == '{' && is_alpha(peek(1)) &&
                          (is_alpha(peek(2)) || peek(2) == '/') &&
                          (before == Kind::kNumber || before == Kind::kCloseGroup);
        if (holds(kTexts, name) || unit) {
            while (is_space(peek())) ++at_;
            if (peek() == '{') ++at_, text_depth_ = 1, spaced_ = true;
            return;
        }
        if (holds(kNothing, name)) return;
        if (holds(kRefused, name)) return push(Kind::kUnknown, std::string(name));
        if (holds(kFunctions, name)) return push(Kind::kFunction, std::string(name), true);
        if (const Entry* known = find(kCommands, name)) return push(known->second, {}, true);
        for (const std::string_view function : kFunctions) {  // \cotx
            if (name.size() != function.size() + 1 || !name.starts_with(function)) continue;
            push(Kind::kFunction, std::string(function), true);
            return push(Kind::kLetter, std::string(name.substr(function.size())));
        }
        push(Kind::kLetter, name == "varnothing" ? "emptyset" : std::string(name), true);
    }

    void environment(bool begins) {
        const std::size_t close = text_.find('}', at_);
        if (peek() != '{' || close == std::string_view::npos) return push(Kind::kUnknown);
        const std::string_view name = text_.substr(at_ + 1, close - at_ - 1);
        at_ = close + 1;
        if (name == "array" && begins && peek() == '{') {  // its columns
            const std::size_t end = text_.find('}', at_);
            at_ = end == std::string_view::npos ? text_.size() : end + 1;
        }
        if (name == "cases" || name == "dcases")
            return push(begins ? Kind::kBeginMatrix : Kind::kEndMatrix, "cases");
        if (name == "vmatrix" || name == "Vmatrix") return push(Kind::kUnknown, "determinant");
        if (name.ends_with("matrix") || name == "array") {
            push(begins ? Kind::kBeginMatrix : Kind::kEndMatrix);
        } else {
            push(Kind::kUnknown);
        }
    }

    std::string owned_;
    std::string_view text_;
    std::size_t at_ = 0;
    bool spaced_ = false;
    bool lone_dollar_ = false;  // the only $ is a currency, no delimiter
    int text_depth_ = 0;        // braces open inside \text{...}
    int brackets_ = 0;          // ( and [ that are open: commas separate there
    std::vector<Token> tokens_;
};

}  // namespace

Kind mirrored(Kind sign) {
    using enum Kind;
    constexpr std::array pairs =
        std::to_array<std::pair<Kind, Kind>>({{kLess, kGreater},
                                              {kLessEqual, kGreaterEqual},
                                              {kSubset, kSuperset},
                                              {kSubsetEqual, kSupersetEqual},
                                              {kImplies, kImpliedBy},
                                              {kTo, kFrom}});
    for (const auto& [one, other] : pairs) {
        if (sign == one) return other;
        if (sign == other) return one;
    }
    return sign == kIn || sign == kNotIn ? kUnknown : sign;
}

std::vector<Token> tokens_of(std::string_view answer) {
    return Lexer(answer).run();
}

}  // namespace malt
