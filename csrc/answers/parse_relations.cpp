// Lists, relations, congruences, sets, brackets, matrices, cases.
#include <array>
#include <string>
#include <tuple>
#include <utility>

#include "answers/parser.hpp"
#include "answers/real_sets.hpp"

namespace malt {
namespace {

bool relates(Kind kind) {
    return kind >= Kind::kEqual && kind <= Kind::kModulo;
}

bool begins_case(const Token& token) {
    constexpr std::array words =
        std::to_array<std::string_view>({"if", "for", "when", "where", "otherwise", "else"});
    return token.kind == Kind::kWord && std::ranges::find(words, token.text) != words.end();
}

}  // namespace

// `(C) 12`: a choice and its text.
Node Parser::labelled() {
    const auto is_letter = [](const Token& now) {
        return now.kind == Kind::kLetter && now.text.size() == 1 && now.text[0] >= 'A' &&
               now.text[0] <= 'J';
    };
    const std::size_t braced = kind() == Kind::kOpenGroup ? 1 : 0;  // \mathrm{(C)}
    if (kind(braced) != Kind::kOpen) return -1;
    const Token& letter_token = token(1 + braced);
    if (!is_letter(letter_token) || kind(2 + braced) != Kind::kClose) return -1;
    if (braced && kind(4) != Kind::kCloseGroup) return -1;
    const Token& next = token(3 + 2 * braced);
    if (!next.spaced || next.kind == Kind::kEnd) return -1;
    if (next.kind > Kind::kMinus && next.kind != Kind::kCurrency && next.kind != Kind::kOpen)
        return -1;
    std::string letter = letter_token.text;
    at_ += 3 + 2 * braced;
    const Node rest = list(Kind::kEnd);
    return make(Op::kLabelled, {rest}, std::move(letter));
}

// Also `2 hours 20 minutes` and `8 ft by 12 ft`.
Node Parser::list(Kind end) {
    std::vector<Node> items;
    std::string joined;  // by `and` or `or`
    while (!failed_) {
        for (; kind() == Kind::kComma; ++at_)
            if (!token().text.empty()) joined = token().text;
        if (kind() == end) break;
        items.push_back(relation());
        if (kind() == Kind::kWord && is_word("by") && is_scalar(op(items.back()))) {
            ++at_;
            continue;
        }
        const bool next = (op(items.back()) == Op::kQuantity &&
                           (kind() == Kind::kNumber || kind() == Kind::kCurrency)) ||
                          after_letter_unit();
        if (kind() != Kind::kComma && !next) break;
    }
    if (items.empty()) return fail();
    if (items.size() == 1) return items[0];
    if (op(items.back()) == Op::kCongruence) return residues(std::move(items));
    return make(Op::kList, std::move(items), std::move(joined));
}

// x = 1, 4 (mod 5): the modulus is that of all.
Node Parser::residues(std::vector<Node> items) {
    const auto last = out_[items.back()].parts;
    const auto first = out_[items[0]];
    const bool opens = first.op == Op::kRelation && first.parts.size() == 2 &&
                       first.text == std::string(1, char(Kind::kModulo));
    if (!opens || last.size() != 2) return make(Op::kList, std::move(items));
    items[0] = first.parts[1], items.back() = last[0];
    return make(Op::kCongruence, {make(Op::kList, std::move(items)), last[1], first.parts[0]});
}

// `at least 5` is `>= 5`: the words become the sign.
bool Parser::bounds() {
    constexpr std::array phrases =
        std::to_array<std::tuple<std::string_view, std::string_view, Kind>>({
            {"at", "least", Kind::kGreaterEqual},
            {"at", "most", Kind::kLessEqual},
            {"more", "than", Kind::kGreater},
            {"greater", "than", Kind::kGreater},
            {"larger", "than", Kind::kGreater},
            {"less", "than", Kind::kLess},
            {"fewer", "than", Kind::kLess},
            {"smaller", "than", Kind::kLess},
        });
    const bool no = is_word("no") || is_word("not");  // no more than
    for (const auto& [first, second, sign] : phrases) {
        if (!is_word(first, no) || !is_word(second, no + 1u)) continue;
        const Kind opposite = sign == Kind::kGreater ? Kind::kLessEqual : Kind::kGreaterEqual;
        at_ += no + 1u;
        tokens_[at_] = {no ? opposite : sign, true, false, {}};
        return true;
    }
    return false;
}

Node Parser::relation() {
    std::vector<Node> operands;
    std::string signs;
    if (kind() == Kind::kWord) bounds();
    if (kind() == Kind::kEqual || kind() == Kind::kApprox) ++at_;
    operands.push_back(relates(kind()) ? make(Op::kSymbol, {}) : sets());  // `> 5` has no head
    while (!failed_ && relates(kind())) {
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
    if (kind() == Kind::kMod || (kind() == Kind::kOpen && kind(1) == Kind::kMod))
        return congruence(std::move(operands));
    if (operands.size() == 1) return operands[0];
    return make(Op::kRelation, std::move(operands), std::move(signs));
}

// The modulus that follows: \pmod 5, (mod 5).
Node Parser::congruence(std::vector<Node> operands) {
    const bool open = accept(Kind::kOpen);
    expect(Kind::kMod);
    const Node modulus = kind() == Kind::kOpenGroup ? argument() : sum();
    if (open) expect(Kind::kClose);
    std::vector<Node> parts{operands.back(), modulus};
    if (operands.size() == 2) parts.push_back(operands[0]);
    return operands.size() > 2 ? fail() : make(Op::kCongruence, std::move(parts));
}

Node Parser::sets() {
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

Node Parser::ratio() {
    std::vector<Node> terms{sum()};
    while (!failed_ && (kind() == Kind::kColon || (is_word("to") && kind(1) != Kind::kWord))) {
        ++at_;
        terms.push_back(sum());
    }
    if (terms.size() == 1) return terms[0];
    return op(terms[0]) == Op::kWords ? fail() : make(Op::kRatio, std::move(terms));
}

Node Parser::set() {
    if (begins_condition()) return condition();
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

// Is there a bar or colon that is no bracket, behind the element of a set: {x | ...}?
bool Parser::begins_condition() const {
    int open = 0;
    std::size_t found = 0, bars = 0;
    for (std::size_t i = 0; at_ + i < tokens_.size() && kind(i) != Kind::kCloseSet; ++i) {
        const Kind now = kind(i);
        open += now == Kind::kOpen || now == Kind::kOpenGroup || now == Kind::kOpenSquare;
        open -= now == Kind::kClose || now == Kind::kCloseGroup || now == Kind::kCloseSquare;
        if (open || found) {
            bars += now == Kind::kBar;
            continue;
        }
        if (now == Kind::kComma) return false;
        if (now == Kind::kColon) return i > 0;
        if (now == Kind::kBar) found = i, ++bars;
    }
    return found > 0 && bars % 2 == 1;
}

// {x | 0 < x < 4} as the relation, if that says all; else the element, its domain and condition.
Node Parser::condition() {
    ++bars_;
    const Node element = sum();
    const Node domain = accept(Kind::kIn) ? sum() : -1;
    --bars_;
    if (!accept(Kind::kBar)) expect(Kind::kColon);
    if (failed_) return fail();
    const Node rest = list(Kind::kCloseSet);
    expect(Kind::kCloseSet);
    const bool real = domain < 0 || (op(domain) == Op::kSymbol && part(domain).text == "R");
    if (real && op(element) == Op::kSymbol && op(rest) == Op::kRelation) {
        const std::string& signs = part(rest).text;
        if (signs == std::string(1, char(Kind::kEqual))) return make(Op::kSet, {rest});
        if (signs.find(char(Kind::kEqual)) == std::string::npos) {
            const std::string name = part(element).text;  // which is of no matter
            for (const Node side : part(rest).parts)
                if (op(side) == Op::kSymbol && part(side).text == name) part(side).text.clear();
            return rest;
        }
    }
    if (real && op(element) == Op::kSymbol && joins_bounds(out_, rest)) return rest;
    std::vector<Node> parts{element, rest};
    if (domain >= 0) parts.push_back(domain);
    return make(Op::kCondition, std::move(parts));
}

Node Parser::brackets(Kind open) {
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

Node Parser::matrix() {
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

// Rows of a value and its condition; a list where no row has a condition: a system of equations.
Node Parser::cases() {
    std::vector<Node> rows;
    bool plain = true;
    while (!failed_ && kind() != Kind::kEndMatrix) {
        std::vector<Node> row{relation()};
        while (accept(Kind::kComma) || accept(Kind::kCell)) {
        }
        while (begins_case(token()) && !is_word("otherwise") && !is_word("else")) ++at_;
        while (!failed_ && kind() != Kind::kRow && kind() != Kind::kEndMatrix) {
            row.push_back(relation());
            if (!accept(Kind::kComma)) break;
        }
        plain = plain && row.size() == 1;
        rows.push_back(row.size() == 1 ? row[0] : make(Op::kTuple, std::move(row), "()"));
        if (!accept(Kind::kRow)) break;
    }
    expect(Kind::kEndMatrix);
    if (rows.empty()) return fail();
    return make(plain ? Op::kList : Op::kCases, std::move(rows));
}

}  // namespace malt
