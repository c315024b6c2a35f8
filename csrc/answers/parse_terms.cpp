// Sums, products, powers, and quantities with their units.
#include <array>
#include <optional>
#include <string>
#include <utility>

#include "answers/parser.hpp"
#include "answers/units.hpp"
#include "answers/values.hpp"

namespace malt {
namespace {

// 3 million is 3000000.
std::optional<std::string_view> scale_of(std::string_view word) {
    constexpr std::array scales = std::to_array<std::pair<std::string_view, std::string_view>>(
        {{"ten", "10"},
         {"dozen", "12"},
         {"hundred", "100"},
         {"thousand", "1000"},
         {"million", "1000000"},
         {"billion", "1000000000"},
         {"trillion", "1000000000000"}});
    if (word.ends_with('s')) word.remove_suffix(1);
    const auto found =
        std::ranges::find(scales, word, [](const auto& scale) { return scale.first; });
    return found == scales.end() ? std::nullopt : std::optional(found->second);
}

// Words that change the number before them, or retract it: not dropped as units are.
bool is_no_unit(std::string_view word) {
    constexpr std::array words = std::to_array<std::string_view>(
        {"pair",   "half",      "halves", "third",     "quarters",    "fourth",      "fifth",
         "sixths", "eighths",   "tenth",  "hundredth", "thousandth",  "millionths",  "squared",
         "cubed",  "factorial", "not",    "wrong",     "incorrect",   "most",        "least",
         "more",   "less",      "fewer",  "remainder", "double",      "triple",      "couple",
         "score",  "gross",     "lakh",   "crore",     "quadrillion", "quintillion", "thousandfold",
         "or",     "below",     "above",  "maximum",   "minimum",     "divided",     "plus",
         "minus",  "multiplied"});
    const std::string_view one = word.ends_with('s') ? word.substr(0, word.size() - 1) : word;
    return std::ranges::find(words, word) != words.end() ||
           std::ranges::find(words, one) != words.end();
}

// Words that end a quantity.
bool joins(std::string_view word) {
    constexpr std::array words = std::to_array<std::string_view>(
        {"by", "to", "if", "for", "when", "where", "otherwise", "else"});
    return std::ranges::find(words, word) != words.end();
}

bool is_unit_word(const Token& token) {
    return token.kind == Kind::kWord && !is_no_unit(token.text) && !joins(token.text) &&
           !scale_of(token.text);
}

}  // namespace

Node Parser::sum() {
    if (++depth_ > kMaxDepth) return fail();
    Node left = -1;
    while (!failed_) {
        const Kind sign = kind();
        const bool signed_ = sign == Kind::kPlus || sign == Kind::kMinus ||
                             sign == Kind::kPlusMinus || sign == Kind::kMinusPlus;
        if (signed_) {
            ++at_;
        } else if (left >= 0) {
            break;
        }
        Node next = term();
        if (sign == Kind::kMinus && left >= 0 && op(next) == Op::kSet) {  // R - {3}
            left = make(Op::kWithout, {left, next});
            continue;
        }
        if (sign == Kind::kMinus || sign == Kind::kMinusPlus) next = make(Op::kNegate, {next});
        if (sign == Kind::kPlusMinus || sign == Kind::kMinusPlus) {
            left = left < 0 ? make(Op::kSigns, {next}) : make(Op::kSigns, {left, next});
        } else {
            left = left < 0 ? next : make(Op::kAdd, {left, next});
        }
    }
    --depth_;
    return left < 0 ? fail() : left;
}

// Between 3h and 15m?
bool Parser::after_letter_unit() const {
    const bool letter = at_ > 1 && tokens_[at_ - 1].kind == Kind::kLetter &&
                        tokens_[at_ - 2].kind == Kind::kNumber &&
                        is_unit_letter(tokens_[at_ - 1].text);
    return letter && kind() == Kind::kNumber &&
           (is_unit_word(token(1)) || (kind(1) == Kind::kLetter && is_unit_letter(token(1).text)));
}

bool Parser::begins_factor() const {
    switch (kind()) {
        case Kind::kNumber:  // 2 3 is not a product
            return !after_letter_unit() && tokens_[at_ - 1].kind != Kind::kNumber &&
                   tokens_[at_ - 1].kind != Kind::kWord &&
                   tokens_[at_ - 1].kind != Kind::kCloseGroup;
        case Kind::kOpen:
            return kind(1) != Kind::kMod;
        case Kind::kLetter:
        case Kind::kFunction:
        case Kind::kFrac:
        case Kind::kBinom:
        case Kind::kSqrt:
        case Kind::kOver:
        case Kind::kOpenFloor:
        case Kind::kOpenCeil:
        case Kind::kOpenGroup:
            return true;
        case Kind::kBar:
            return bars_ == 0;
        default:
            return false;
    }
}

Node Parser::term() {
    Node left = factor();
    while (!failed_ && op(left) != Op::kWords) {
        const bool fresh = op(left) == Op::kQuantity;
        if (accept(Kind::kTimes)) {
            left = make(Op::kMultiply, {left, signed_factor()});
        } else if (kind() == Kind::kDivide && is_unit_word(token(1))) {
            left = quantity(left);
        } else if (accept(Kind::kDivide)) {
            left = make(Op::kDivide, {left, signed_factor()});
        } else if (kind() == Kind::kWord && scale_of(token().text)) {
            const std::string_view scale = *scale_of(token().text);
            ++at_;
            left = make(Op::kMultiply, {left, make(Op::kNumber, {}, std::string(scale))});
        } else if (kind() == Kind::kWord && is_no_unit(token().text)) {
            const Node word = make(Op::kSymbol, {}, token().text);
            ++at_;
            left = make(Op::kMultiply, {left, word});
        } else if (is_unit_word(token()) || kind() == Kind::kCurrency) {
            if (kind() == Kind::kCurrency && kind(1) == Kind::kNumber) break;
            left = quantity(left);
        } else if (begins_factor() && !(fresh && kind() == Kind::kNumber)) {
            left = make(Op::kMultiply, {left, factor()});
        } else {
            break;
        }
    }
    return left;
}

Node Parser::signed_factor() {
    if (accept(Kind::kMinus)) return make(Op::kNegate, {factor()});
    accept(Kind::kPlus);
    return factor();
}

// A value and the words after it: cm^2, square feet, miles/hour.
Node Parser::quantity(Node value) {
    Unit unit;
    while (true) {
        const bool joined = kind() == Kind::kDivide || kind() == Kind::kTimes;
        const Token& word = token(joined);
        const bool letter = word.kind == Kind::kLetter && is_unit_letter(word.text) &&
                            kind() == Kind::kDivide;  // cm/s
        if (!is_unit_word(word) && word.kind != Kind::kCurrency && !letter) break;
        if (kind() == Kind::kDivide) unit.divide();
        const std::string name = word.text;
        at_ += joined + 1u;
        int power = 1;
        if (kind() == Kind::kPower &&
            (kind(1) == Kind::kNumber || kind(1) == Kind::kMinus || kind(1) == Kind::kOpenGroup)) {
            ++at_;
            const auto exponent_of = exact(out_, exponent());
            if (exponent_of && exponent_of->den == 1 && exponent_of->num > -10 &&
                exponent_of->num < 10)
                power = static_cast<int>(exponent_of->num);
        }
        unit.add(name, power);
    }
    return make(Op::kQuantity, {value}, unit.text());
}

Node Parser::factor() {
    Node base = primary();
    while (!failed_) {
        if (kind() == Kind::kPower && (kind(1) == Kind::kDegree ||
                                       (kind(1) == Kind::kOpenGroup && kind(2) == Kind::kDegree))) {
            const bool braced = kind(1) == Kind::kOpenGroup;
            at_ += braced ? 3 : 2;
            if (braced) expect(Kind::kCloseGroup);
            base = degrees(base);
        } else if (accept(Kind::kDegree)) {
            base = degrees(base);
        } else if (accept(Kind::kPower)) {
            base = make(Op::kPower, {base, exponent()});
        } else if (accept(Kind::kBang)) {
            base = make(Op::kFactorial, {base});
        } else if (accept(Kind::kPercent)) {
            base = make(Op::kQuantity, {base}, "percent^1 ");
        } else {
            break;
        }
    }
    return base;
}

// An angle or a temperature.
Node Parser::degrees(Node value) {
    if (kind() == Kind::kOpenGroup && kind(1) == Kind::kLetter && kind(2) == Kind::kCloseGroup) {
        const std::string& scale = token(1).text;
        if (scale == "C" || scale == "F") {
            at_ += 3;
            return make(Op::kQuantity, {value}, scale == "C" ? "celsius^1 " : "fahrenheit^1 ");
        }
    }
    const bool letter = kind() == Kind::kLetter || kind() == Kind::kWord;
    const std::string& scale = token().text;
    if (letter && (scale == "C" || scale == "c" || scale == "celsius")) {
        ++at_;
        return make(Op::kQuantity, {value}, "celsius^1 ");
    }
    if (letter && (scale == "F" || scale == "f" || scale == "fahrenheit")) {
        ++at_;
        return make(Op::kQuantity, {value}, "fahrenheit^1 ");
    }
    return make(Op::kDegrees, {value});
}

Node Parser::exponent() {
    if (accept(Kind::kMinus)) return make(Op::kNegate, {argument()});
    return argument();
}

// A group or one token, as LaTeX reads arguments: with `single`, \frac12 is 1/2.
Node Parser::argument(bool single) {
    if (++depth_ > kMaxDepth) return fail();
    Node node = -1;
    if (accept(Kind::kOpenGroup)) {
        node = list(Kind::kCloseGroup);
        expect(Kind::kCloseGroup);
    } else if (kind() == Kind::kNumber && token().text.size() > 1 && single) {
        Token& number = tokens_[at_];
        node = make(Op::kNumber, {}, number.text.substr(0, 1));
        number.text.erase(0, 1);
        if (number.text[0] == '.') failed_ = true;
    } else if (kind() == Kind::kNumber) {  // no mixed number: \log_9 \frac13
        node = make(Op::kNumber, {}, token().text);
        ++at_;
    } else {
        node = primary();
    }
    --depth_;
    return node;
}

}  // namespace malt
