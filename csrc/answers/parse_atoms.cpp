// Numbers, names, roots and functions.
#include <array>
#include <string>
#include <utility>

#include "answers/parser.hpp"
#include "answers/values.hpp"

namespace malt {
namespace {

bool whole(const Token& token) {
    return token.kind == Kind::kNumber && token.text.find('.') == std::string::npos &&
           token.text.size() <= 9;
}

bool all_digits(std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Signs whose letters are points or one name, not factors.
bool names(std::string_view command) {
    constexpr std::array commands = std::to_array<std::string_view>(
        {"angle", "measuredangle", "triangle", "overrightarrow", "overleftrightarrow", "vec", "hat",
         "widehat", "tilde", "widetilde"});
    return std::ranges::find(commands, command) != commands.end();
}

}  // namespace

Node Parser::primary() {
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
        case Kind::kCurrency: {
            const Node value = primary();
            node = make(Op::kQuantity, {value}, now.text + "^1 ");
            break;
        }
        case Kind::kDots:
            node = make(Op::kSymbol, {}, "dots");
            break;
        case Kind::kOver:
            node = named(now.text);
            break;
        case Kind::kBar:
            node = absolute();
            break;
        case Kind::kOpenFloor:
            node = rounded("floor", Kind::kCloseFloor);
            break;
        case Kind::kOpenCeil:
            node = rounded("ceil", Kind::kCloseCeil);
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
            node = now.text == "cases" ? cases() : matrix();
            break;
        default:
            node = fail();
    }
    --depth_;
    return node;
}

Node Parser::two_arguments(Op made, bool single) {
    const Node top = argument(single);
    return make(made, {top, argument(single)});
}

Node Parser::absolute() {
    ++bars_;
    const Node node = make(Op::kAbs, {sum()});
    --bars_;
    expect(Kind::kBar);
    return node;
}

Node Parser::rounded(std::string name, Kind close) {
    const Node node = make(Op::kCall, {sum()}, std::move(name));
    expect(close);
    return node;
}

// Number of tokens of the proper fraction that comes next; 0 if none does.
std::size_t Parser::proper_fraction() const {
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

Node Parser::number(const Token& now) {
    if ((kind() == Kind::kOver || kind() == Kind::kOpen) &&
        now.text.find('.') != std::string::npos) {
        if (accept(Kind::kOver)) return repeating(now.text);
        if (now.text.ends_with('.') && accept(Kind::kOpen)) {  // 0.(6)
            const Node node = repeating(now.text);
            expect(Kind::kClose);
            return node;
        }
    }
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

// 0.1 and the digits that come next, without end: 1/10 + 6/90.
Node Parser::repeating(const std::string& digits) {
    const bool dotted = tokens_[at_ - 1].text == "dot";
    std::string again = raw_argument();
    while (dotted &&
           (kind() == Kind::kOver || (kind() == Kind::kNumber && kind(1) == Kind::kOver))) {
        const bool last = accept(Kind::kOver);  // the digits between two dots
        again += raw_argument();
        if (last) break;
    }
    if (!all_digits(again) || digits.size() + again.size() > 30) return fail();
    const std::size_t places = digits.size() - digits.find('.') - 1;
    const Node below =
        make(Op::kNumber, {}, std::string(again.size(), '9') + std::string(places, '0'));
    const Node rest = make(Op::kDivide, {make(Op::kNumber, {}, again), below});
    return make(Op::kAdd, {make(Op::kNumber, {}, digits), rest});
}

// The text of a subscript.
std::string Parser::raw_argument() {
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

Node Parser::symbol(const Token& now) {
    if (now.text.size() > 2 && names(now.text)) return named(now.text);
    std::string name = now.text;
    if (accept(Kind::kSub)) name.append("_").append(raw_argument());
    if (begins_argument(name)) return argument_of(name);
    return make(Op::kSymbol, {}, std::move(name));
}

// An angle, a vector, a segment: one symbol with the names of its points in order.
Node Parser::named(const std::string& what) {
    std::string points;
    const bool run = (what.ends_with("angle") || what == "overline" || what == "dot") &&
                     (kind() == Kind::kWord || kind() == Kind::kLetter);
    while (run && (kind() == Kind::kWord || kind() == Kind::kLetter)) {
        points += token().text;
        ++at_;
        if (tokens_[at_ - 1].kind == Kind::kWord) break;
    }
    if (!run) points = raw_argument();
    if (points.empty()) return what == "triangle" ? make(Op::kSymbol, {}, what) : fail();
    for (char& c : points)
        if (c >= 'A' && c <= 'Z' && points.size() > 1) c = static_cast<char>(c - 'A' + 'a');
    const bool both_ways = what.ends_with("dangle") || what == "angle" || what.starts_with("overl");
    if (both_ways && points.size() <= 3)
        points = std::min(points, {points.rbegin(), points.rend()});
    return make(Op::kSymbol, {}, what + " " + points);
}

// Is the bracket that comes next the argument of a function, as in f(2), rather than a factor, as
// in x(x + 1)?
bool Parser::begins_argument(std::string_view name) const {
    if (kind() != Kind::kOpen || token().spaced || kind(1) == Kind::kMod) return false;
    const bool greek = name.size() > 1 && name[1] != '_' && name[1] != '\'';
    if (name == "e" || name == "i" || name == "pi") return false;
    if (name[0] == 'f' && !greek) return true;
    const bool function =
        greek ? name == "phi" || name == "varphi" || name == "Gamma" || name == "zeta"
              : std::string_view("ghpqFGHPQ").find(name[0]) != std::string_view::npos;
    const bool capital = name[0] >= 'A' && name[0] <= 'Z';
    const std::size_t sign = kind(1) == Kind::kMinus ? 1 : 0;
    if (kind(2 + sign) == Kind::kClose) {
        const Token& only = token(1 + sign);
        if (only.kind == Kind::kLetter) return function;
        if (only.kind == Kind::kNumber) return function || capital || only.text == "0";
    }
    int open = 0, bars = 0;
    for (std::size_t i = 0; at_ + i < tokens_.size(); ++i) {
        open += kind(i) == Kind::kOpen || kind(i) == Kind::kOpenGroup;
        open -= kind(i) == Kind::kClose || kind(i) == Kind::kCloseGroup;
        if (open == 0) return bars == 1;  // P(A | B)
        bars += open == 1 && kind(i) == Kind::kBar;
        if (open == 1 && kind(i) >= Kind::kEqual && kind(i) <= Kind::kComma) return true;
    }
    return false;
}

Node Parser::argument_of(const std::string& name) {
    const auto begin = tokens_.begin() + static_cast<std::ptrdiff_t>(at_);
    const auto close = std::ranges::find(begin, tokens_.end(), Kind::kClose, &Token::kind);
    if (std::ranges::count(begin, close, Kind::kBar, &Token::kind) != 1)
        return make(Op::kCall, {primary()}, name + "()");
    ++at_, ++bars_;  // P(A | B)
    const Node event = list(Kind::kBar);
    --bars_;
    expect(Kind::kBar);
    const Node given = list(Kind::kClose);
    expect(Kind::kClose);
    return make(Op::kCall, {make(Op::kTuple, {event, given}, "|")}, name + "()");
}

Node Parser::words(const Token& now) {
    std::string text = now.text;
    while (kind() == Kind::kWord || (kind() == Kind::kLetter && token().text == "a")) {
        text.append(" ").append(token().text);
        ++at_;
    }
    if (text == "all real numbers" || text == "all reals" || text == "real numbers")
        return make(Op::kSymbol, {}, "R");
    if (text == "empty set" || text == "the empty set") return make(Op::kSymbol, {}, "emptyset");
    return make(Op::kWords, {}, std::move(text));
}

Node Parser::root(const Token& now) {
    Node index = -1;
    if (accept(Kind::kOpenSquare)) {
        index = sum();
        expect(Kind::kCloseSquare);
    }
    const Node radicand = argument(now.command);
    return index < 0 ? make(Op::kRoot, {radicand}) : make(Op::kRoot, {radicand, index});
}

Node Parser::call(const Token& now) {
    std::string name = now.text;
    Node power = -1;
    std::vector<Node> parts{-1};
    if (name == "lg") {
        name = "log";
        parts.push_back(make(Op::kNumber, {}, "10"));
    } else if (accept(Kind::kSub)) {
        parts.push_back(argument());
    }
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

}  // namespace malt
