// A recursive-descent parser with a cap on its depth. One class, as its rules call each other.
#include "answers/expression.hpp"

#include <array>
#include <utility>

#include "answers/values.hpp"

namespace malt {
namespace {

constexpr int kMaxDepth = 48;

// 3 million is 3000000.
std::optional<std::string_view> scale_of(std::string_view word) {
    constexpr std::array scales = std::to_array<std::pair<std::string_view, std::string_view>>(
        {{"dozen", "12"},
         {"hundred", "100"},
         {"thousand", "1000"},
         {"million", "1000000"},
         {"billion", "1000000000"},
         {"trillion", "1000000000000"}});
    const auto found =
        std::ranges::find(scales, word, [](const auto& scale) { return scale.first; });
    return found == scales.end() ? std::nullopt : std::optional(found->second);
}

// Words that change the number before them, or retract it: not dropped as units are.
bool is_no_unit(std::string_view word) {
    constexpr std::array words = std::to_array<std::string_view>(
        {"pair", "pairs", "half", "halves", "thirds", "quarters", "tenths", "squared", "cubed",
         "factorial", "not", "wrong", "incorrect", "most", "least", "more", "less", "remainder"});
    return std::ranges::find(words, word) != words.end();
}

class Parser {
  public:
    explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    Expression run() {
        const Node root = list(Kind::kEnd);
        if (!failed_ && kind() == Kind::kEnd && at_ > 0) out_.root = root;
        return std::move(out_);
    }

  private:
    // ---- tokens ----

    [[nodiscard]] const Token& token(std::size_t ahead = 0) const {
        return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
    }
    [[nodiscard]] Kind kind(std::size_t ahead = 0) const { return token(ahead).kind; }
    bool accept(Kind wanted) {
        if (kind() != wanted) return false;
        ++at_;
        return true;
    }
    Node fail() {
        failed_ = true;
        return make(Op::kWords, {});
    }
    void expect(Kind wanted) {
        if (!accept(wanted)) failed_ = true;
    }
    Node make(Op op, std::vector<Node> parts, std::string text = {}) {
        out_.all.push_back({op, std::move(text), std::move(parts)});
        return static_cast<Node>(out_.all.size() - 1);
    }
    Expression::Part& part(Node node) { return out_.all[static_cast<std::size_t>(node)]; }
    [[nodiscard]] Op op(Node node) const { return out_[node].op; }

    // ---- rules, from the loosest to the tightest ----

    Node list(Kind end) {
        std::vector<Node> items;
        while (!failed_) {
            while (accept(Kind::kComma)) {
            }
            if (kind() == end) break;
            items.push_back(relation());
            if (kind() != Kind::kComma) break;
        }
        if (items.empty()) return fail();
        return items.size() == 1 ? items[0] : make(Op::kList, std::move(items));
    }

    Node relation() {
        std::vector<Node> operands{sets()};
        std::string signs;
        while (!failed_ && kind() >= Kind::kEqual && kind() <= Kind::kIn) {
            const auto sign = kind();
            ++at_;
            const Node next = sets();
            if (sign == Kind::kApprox) {  // a = b ~ c means b; x ~ c means c
                if (operands.size() == 1 && op(operands[0]) == Op::kSymbol) operands[0] = next;
                continue;
            }
            signs += static_cast<char>(sign);
            operands.push_back(next);
        }
        if (operands.size() == 1) return operands[0];
        return make(Op::kRelation, std::move(operands), std::move(signs));
    }

    Node sets() {
        Node left = ratio();
        while (!failed_) {
            Op joined = Op::kUnion;
            if (kind() == Kind::kCap) joined = Op::kIntersection;
            if (kind() == Kind::kWithout) joined = Op::kWithout;
            if (joined == Op::kUnion && kind() != Kind::kCup) break;
            ++at_;
            const Node right = ratio();
            if (joined == Op::kUnion && op(left) == Op::kUnion) {
                part(left).parts.push_back(right);
            } else {
                left = make(joined, {left, right});
            }
        }
        return left;
    }

    Node ratio() {
        std::vector<Node> terms{sum()};
        while (!failed_ && accept(Kind::kColon)) terms.push_back(sum());
        if (terms.size() == 1) return terms[0];
        return op(terms[0]) == Op::kWords ? fail() : make(Op::kRatio, std::move(terms));
    }

    Node sum() {
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

    [[nodiscard]] bool begins_factor() const {
        switch (kind()) {
            case Kind::kNumber:  // 2 3 is not a product
                return tokens_[at_ - 1].kind != Kind::kNumber &&
                       tokens_[at_ - 1].kind != Kind::kWord &&
                       tokens_[at_ - 1].kind != Kind::kCloseGroup;
            case Kind::kLetter:
            case Kind::kFunction:
            case Kind::kFrac:
            case Kind::kBinom:
            case Kind::kSqrt:
            case Kind::kOpen:
            case Kind::kOpenGroup:
                return true;
            case Kind::kBar:
                return bars_ == 0;
            default:
                return false;
        }
    }

    Node term() {
        Node left = factor();
        while (!failed_ && op(left) != Op::kWords) {
            if (accept(Kind::kTimes)) {
                left = make(Op::kMultiply, {left, signed_factor()});
            } else if (kind() == Kind::kDivide && kind(1) == Kind::kWord) {
                ++at_;
                unit();
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
            } else if (kind() == Kind::kWord) {
                unit();
            } else if (begins_factor()) {
                left = make(Op::kMultiply, {left, factor()});
            } else {
                break;
            }
        }
        return left;
    }

    Node signed_factor() {
        if (accept(Kind::kMinus)) return make(Op::kNegate, {factor()});
        accept(Kind::kPlus);
        return factor();
    }

    // Words after a quantity: cm^2, square feet, miles/hour.
    void unit() {
        while (kind() == Kind::kWord && !is_no_unit(token().text)) {
            ++at_;
            if (kind() == Kind::kPower &&
                (kind(1) == Kind::kNumber || kind(1) == Kind::kOpenGroup)) {
                ++at_;
                argument();
            }
        }
    }

    Node factor() {
        Node base = primary();
        while (!failed_) {
            if (kind() == Kind::kPower &&
                (kind(1) == Kind::kDegree ||
                 (kind(1) == Kind::kOpenGroup && kind(2) == Kind::kDegree))) {
                const bool braced = kind(1) == Kind::kOpenGroup;
                at_ += braced ? 3 : 2;
                if (braced) expect(Kind::kCloseGroup);
                base = make(Op::kDegrees, {base});
            } else if (accept(Kind::kDegree)) {
                base = make(Op::kDegrees, {base});
            } else if (accept(Kind::kPower)) {
                base = make(Op::kPower, {base, exponent()});
            } else if (accept(Kind::kBang)) {
                base = make(Op::kFactorial, {base});
            } else if (!accept(Kind::kPercent)) {  // a unit
                break;
            }
        }
        return base;
    }

    Node exponent() {
        if (accept(Kind::kMinus)) return make(Op::kNegate, {argument()});
        return argument();
    }

    // A group or one token, as LaTeX reads arguments: with `single`, \frac12 is 1/2.
    Node argument(bool single = false) {
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
        } else {
            node = primary();
        }
        --depth_;
        return node;
    }

    Node primary() {
        if (failed_ || ++depth_ > kMaxDepth) return fail();
        const Token now = token();
        ++at_;
        Node node = -1;
        switch (now.kind) {
            case Kind::kNumber:
                node = number(now);
                break;
            case Kind::kLetter:
                node = symbol(now);
                break;
            case Kind::kWord:
                node = words(now);
                break;
            case Kind::kFunction:
                node = call(now);
                break;
            case Kind::kFrac:
                node = two_arguments(Op::kDivide, now.command);
                break;
            case Kind::kBinom:
                node = two_arguments(Op::kBinomial, true);
                break;
            case Kind::kSqrt:
                node = root(now);
                break;
            case Kind::kMinus:
                node = make(Op::kNegate, {primary()});
                break;
            case Kind::kBar:
                node = absolute();
                break;
            case Kind::kOpen:
            case Kind::kOpenSquare:
                node = brackets(now.kind);
                break;
            case Kind::kOpenGroup:
                node = list(Kind::kCloseGroup);
                expect(Kind::kCloseGroup);
                if (op(node) == Op::kList) part(node).op = Op::kSet;
                break;
            case Kind::kOpenSet:
                node = set();
                break;
            case Kind::kBeginMatrix:
                node = matrix();
                break;
            default:
                node = fail();
        }
        --depth_;
        return node;
    }

    Node two_arguments(Op made, bool single) {
        const Node top = argument(single);
        return make(made, {top, argument(single)});
    }

    Node absolute() {
        ++bars_;
        const Node node = make(Op::kAbs, {sum()});
        --bars_;
        expect(Kind::kBar);
        return node;
    }

    Node set() {
        Node node = make(Op::kSet, {});
        if (kind() != Kind::kCloseSet) {
            const Node items = list(Kind::kCloseSet);
            if (op(items) == Op::kList) {
                node = items;
                part(node).op = Op::kSet;
            } else {
                node = make(Op::kSet, {items});
            }
        }
        expect(Kind::kCloseSet);
        return node;
    }

    Node brackets(Kind open) {
        const Node inside = list(open == Kind::kOpen ? Kind::kClose : Kind::kCloseSquare);
        const Kind close = kind();
        if (close != Kind::kClose && close != Kind::kCloseSquare) return fail();
        ++at_;
        std::string ends{open == Kind::kOpen ? '(' : '[', close == Kind::kClose ? ')' : ']'};
        if (op(inside) == Op::kList) {
            auto parts = out_[inside].parts;
            return make(Op::kTuple, std::move(parts), std::move(ends));
        }
        const bool groups = is_scalar(op(inside)) || op(inside) == Op::kMatrix;
        if (ends == "()" || (ends == "[]" && groups)) return inside;
        return fail();
    }

    static bool whole(const Token& token) {
        return token.kind == Kind::kNumber && token.text.find('.') == std::string::npos &&
               token.text.size() <= 9;
    }

    // Number of tokens of the proper fraction that comes next; 0 if none does.
    [[nodiscard]] std::size_t proper_fraction() const {
        const auto less = [&](std::size_t top, std::size_t bottom) {
            return whole(token(top)) && whole(token(bottom)) &&
                   std::stol(token(top).text) < std::stol(token(bottom).text);
        };
        if (kind() == Kind::kFrac) {
            if (kind(1) == Kind::kNumber)  // \frac12
                return token(1).text.size() == 2 && token(1).text[0] < token(1).text[1] ? 2 : 0;
            return kind(1) == Kind::kOpenGroup && kind(3) == Kind::kCloseGroup &&
                           kind(4) == Kind::kOpenGroup && kind(6) == Kind::kCloseGroup && less(2, 5)
                       ? 7
                       : 0;
        }
        const bool plain = token().spaced && kind(1) == Kind::kDivide && less(0, 2);
        return plain ? 3 : 0;
    }

    Node number(const Token& now) {
        const Node node = make(Op::kNumber, {}, now.text);
        if (accept(Kind::kSub)) {
            const std::string base = raw_argument();
            if (base != "10")
                return make(Op::kBased, {}, std::string(now.text).append("_").append(base));
        }
        if (whole(now)) {
            if (proper_fraction() == 3) {
                const Node top = make(Op::kNumber, {}, token().text);
                const Node bottom = make(Op::kNumber, {}, token(2).text);
                at_ += 3;
                return make(Op::kAdd, {node, make(Op::kDivide, {top, bottom})});
            }
            if (proper_fraction()) return make(Op::kAdd, {node, primary()});
        }
        return node;
    }

    // The text of a subscript.
    std::string raw_argument() {
        std::string text;
        if (!accept(Kind::kOpenGroup)) {
            text = token().text;
            if (kind() != Kind::kEnd) ++at_;
            return text;
        }
        int open = 1;
        while (kind() != Kind::kEnd) {
            if (kind() == Kind::kOpenGroup) ++open;
            if (kind() == Kind::kCloseGroup && --open == 0) break;
            text += token().text.empty() ? std::string(1, static_cast<char>('0' + int(kind())))
                                         : token().text;
            ++at_;
        }
        expect(Kind::kCloseGroup);
        return text;
    }

    Node symbol(const Token& now) {
        std::string name = now.text;
        if (accept(Kind::kSub)) name.append("_").append(raw_argument());
        return make(Op::kSymbol, {}, std::move(name));
    }

    Node words(const Token& now) {
        std::string text = now.text;
        while (kind() == Kind::kWord || (kind() == Kind::kLetter && token().text == "a")) {
            text.append(" ").append(token().text);
            ++at_;
        }
        return make(Op::kWords, {}, std::move(text));
    }

    Node root(const Token& now) {
        Node index = -1;
        if (accept(Kind::kOpenSquare)) {
            index = sum();
            expect(Kind::kCloseSquare);
        }
        const Node radicand = argument(now.command);
        return index < 0 ? make(Op::kRoot, {radicand}) : make(Op::kRoot, {radicand, index});
    }

    Node call(const Token& now) {
        std::string name = now.text;
        Node power = -1;
        std::vector<Node> parts{-1};
        if (accept(Kind::kSub)) parts.push_back(argument());
        if (accept(Kind::kPower)) {
            power = exponent();
            if (exact(out_, power) == Rational{-1, 1}) {
                name.insert(0, "arc");
                power = -1;
            }
        }
        if (kind() == Kind::kOpen || kind() == Kind::kOpenGroup || kind() == Kind::kBar) {
            parts[0] = primary();
        } else {
            parts[0] = factor();
            while (!failed_ &&
                   (kind() == Kind::kLetter || kind() == Kind::kFrac || kind() == Kind::kSqrt)) {
                parts[0] = make(Op::kMultiply, {parts[0], factor()});
            }
        }
        const Node node = make(Op::kCall, std::move(parts), std::move(name));
        return power < 0 ? node : make(Op::kPower, {node, power});
    }

    Node matrix() {
        std::vector<Node> cells;
        std::size_t columns = 0, row = 0;
        while (!failed_) {
            if (kind() == Kind::kEndMatrix && row == 0) break;  // after a last \\.
            cells.push_back(sum());
            ++row;
            if (accept(Kind::kCell)) continue;
            if (columns && columns != row) return fail();
            columns = std::exchange(row, 0);
            if (!accept(Kind::kRow)) break;
        }
        expect(Kind::kEndMatrix);
        return make(Op::kMatrix, std::move(cells), std::to_string(columns));
    }

    std::vector<Token> tokens_;
    std::size_t at_ = 0;
    int depth_ = 0, bars_ = 0;
    bool failed_ = false;
    Expression out_;
};

}  // namespace

Expression parse(std::string_view answer) {
    return Parser(tokens_of(answer)).run();
}

bool is_scalar(Op op) {
    return op != Op::kWords && op != Op::kBased && op < Op::kTuple;
}

}  // namespace malt
