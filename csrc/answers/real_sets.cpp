// Sets of real numbers as pieces between two ends.
#include "answers/real_sets.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace malt {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::size_t kMaxPieces = 64;

bool opens(char kind) {
    return kind == char(Kind::kLess) || kind == char(Kind::kGreater);
}
bool rises(char kind) {
    return kind == char(Kind::kLess) || kind == char(Kind::kLessEqual);
}
bool orders(char kind) {
    return kind >= char(Kind::kLess) && kind <= char(Kind::kGreaterEqual);
}

// -1, 0 or 1; nothing if undecided.
std::optional<int> order(const End& a, const End& b) {
    if (std::isinf(a.value) || std::isinf(b.value))
        return (a.value > b.value) - (a.value < b.value);
    const auto apart = a.exact && b.exact ? difference(*a.exact, *b.exact) : std::nullopt;
    if (apart) return (apart->num > 0) - (apart->num < 0);
    const double gap = a.value - b.value, error = 4 * (a.error + b.error) + 1e-300;
    if (std::abs(gap) > error) return gap > 0 ? 1 : -1;
    // The same formula twice, or one that needs a proof?
    return a.exact || b.exact ? std::nullopt : std::optional(0);
}

// The end of a piece as a cut of the line, before its number or after it.
struct Cut {
    End end;
    bool behind;
};

std::optional<int> order(const Cut& a, const Cut& b) {
    const auto ends = order(a.end, b.end);
    return ends && *ends == 0 ? std::optional(int{a.behind} - int{b.behind}) : ends;
}

Cut lower(const Piece& piece) {
    return {piece.low, !piece.low.closed};
}
Cut upper(const Piece& piece) {
    return {piece.high, piece.high.closed};
}

Piece between(Cut low, Cut high) {
    low.end.closed = !low.behind, high.end.closed = high.behind;
    return {low.end, high.end};
}

// Every cut of both sets in order, each once; nothing if their order is undecided.
std::optional<std::vector<Cut>> cuts_of(const RealSet& a, const RealSet& b) {
    std::vector<Cut> cuts;
    for (const RealSet* set : {&a, &b}) {
        for (const Piece& piece : *set) {
            for (const Cut& cut : {lower(piece), upper(piece)}) {
                std::size_t at = 0;
                std::optional<int> found;
                while (at < cuts.size() && (found = order(cuts[at], cut)) && *found < 0) ++at;
                if (at < cuts.size() && !found) return {};
                if (at == cuts.size() || *found != 0)
                    cuts.insert(cuts.begin() + static_cast<std::ptrdiff_t>(at), cut);
            }
        }
    }
    return cuts;
}

bool holds(const RealSet& set, const Cut& low, const Cut& high) {
    return std::ranges::any_of(set, [&](const Piece& piece) {
        return order(lower(piece), low).value_or(1) <= 0 &&
               order(high, upper(piece)).value_or(1) <= 0;
    });
}

// The pieces between cuts for which `keep(in a, in b)` holds, joined where they touch.
template <class Keep>
std::optional<RealSet> combined(const RealSet& a, const RealSet& b, const Keep& keep) {
    const auto cuts = cuts_of(a, b);
    if (!cuts || cuts->size() > 2 * kMaxPieces) return {};
    RealSet out;
    bool open = false;
    for (std::size_t i = 0; i + 1 < cuts->size(); ++i) {
        const Cut &low = (*cuts)[i], &high = (*cuts)[i + 1];
        const bool kept = keep(holds(a, low, high), holds(b, low, high));
        if (kept && open)
            out.back() = between(lower(out.back()), high);
        else if (kept)
            out.push_back(between(low, high));
        open = kept;
    }
    return out;
}

std::optional<RealSet> made(Op op, const RealSet& a, const RealSet& b) {
    switch (op) {
        case Op::kUnion:
            return combined(a, b, [](bool x, bool y) { return x || y; });
        case Op::kIntersection:
            return combined(a, b, [](bool x, bool y) { return x && y; });
        default:
            return combined(a, b, [](bool x, bool y) { return x && !y; });
    }
}

bool is_infinity(const Expression& in, Node node) {
    return in[node].op == Op::kSymbol && in[node].text == "infty";
}

std::optional<End> end_of(const Expression& in, Node node, bool closed) {
    const bool negative = in[node].op == Op::kNegate;
    if (is_infinity(in, negative ? in[node].parts[0] : node))
        return End{negative ? -kInfinity : kInfinity, 0, {}, false};
    const bool symbols = any_part(in, node, [&](Node part) {
        return in[part].op == Op::kSigns ||
               (in[part].op == Op::kSymbol && in[part].text != "pi" && in[part].text != "e");
    });
    if (symbols) return {};
    const auto value = approximate(in, node, 0, 1);
    const bool number = exact(in, node).has_value();
    if (!value || value->value.imag() != 0 || (value->lost && !number)) return {};
    return End{value->value.real(), value->error, exact(in, node), closed};
}

std::optional<RealSet> interval(const Expression& in, Node node) {
    const auto& [op, brackets, parts] = in[node];
    if (parts.size() != 2 || brackets.size() != 2) return {};
    const auto low = end_of(in, parts[0], brackets[0] == '[');
    const auto high = end_of(in, parts[1], brackets[1] == ']');
    if (!low || !high) return {};
    const auto rising = order(*low, *high);
    if (!rising || *rising > 0) return {};
    if (*rising == 0 && !(low->closed && high->closed)) return RealSet{};
    return RealSet{{*low, *high}};
}

std::optional<RealSet> points(const Expression& in, Node node) {
    std::optional<RealSet> out = RealSet{};
    for (const Node part : in[node].parts) {
        const auto end = end_of(in, part, true);
        if (!end || !out) return {};
        out = made(Op::kUnion, *out, {{*end, *end}});
    }
    return out;
}

}  // namespace

bool is_head(const Expression& in, Node node) {
    constexpr std::array heads{Op::kSymbol, Op::kMultiply, Op::kDivide, Op::kAbs,
                               Op::kTuple,  Op::kWords,    Op::kRatio,  Op::kList};
    if (in[node].op == Op::kCall && in[node].text.ends_with("()")) return true;  // h(0), P(X = 1)
    return std::ranges::find(heads, in[node].op) != heads.end() &&
           std::ranges::all_of(in[node].parts, [&](Node part) { return is_head(in, part); });
}

Node head_of(const Expression& in, Node node) {
    const auto& [op, signs, parts] = in[node];
    if (op != Op::kRelation) return -1;
    if (signs.size() == 2) return is_head(in, parts[1]) ? parts[1] : -1;
    return is_head(in, parts[0]) ? parts[0] : is_head(in, parts[1]) ? parts[1] : -1;
}

Node as_interval(Expression& in, Node node) {
    if (in[node].op != Op::kRelation) return node;
    const auto [op, signs, parts] = in[node];
    const auto make = [&](Op kind, std::vector<Node> of, std::string text) {
        in.all.push_back({kind, std::move(text), std::move(of)});
        return static_cast<Node>(in.all.size() - 1);
    };
    Node low = -1, high = -1;
    std::string ends = "()";
    const auto bound = [&](char kind, Node node, bool lower) {
        (lower ? low : high) = node;
        if (!opens(kind)) ends[lower ? 0 : 1] = lower ? '[' : ']';
    };
    if (signs == std::string(1, char(Kind::kNotEqual)) && is_head(in, parts[0])) {
        std::vector<Node> points{parts[1]};
        if (const auto value = in[parts[1]]; value.op == Op::kSigns) {
            const Node minus = make(Op::kNegate, {value.parts.back()}, {});
            points = {value.parts.back(), minus};
            if (value.parts.size() > 1)
                for (Node& point : points) point = make(Op::kAdd, {value.parts[0], point}, {});
        }
        const Node all = make(Op::kSymbol, {}, "R");
        return make(Op::kWithout, {all, make(Op::kSet, std::move(points), {})}, {});
    }
    if (signs.size() == 1 && orders(signs[0])) {
        if (is_head(in, parts[0]))
            bound(signs[0], parts[1], !rises(signs[0]));
        else if (is_head(in, parts[1]))
            bound(signs[0], parts[0], rises(signs[0]));
        else
            return node;
    } else if (signs.size() == 2 && orders(signs[0]) && orders(signs[1]) &&
               rises(signs[0]) == rises(signs[1]) && is_head(in, parts[1])) {
        bound(signs[0], parts[0], rises(signs[0]));
        bound(signs[1], parts[2], !rises(signs[1]));
    } else {
        return node;
    }
    const Node head = head_of(in, node);
    const bool size = in[head].op == Op::kAbs && in[in[head].parts[0]].op == Op::kSymbol;
    const bool bounded = high >= 0;
    if (size && low < 0)  // |x| < 3
        return make(Op::kTuple, {make(Op::kNegate, {high}, {}), high},
                    {ends[1] == ']' ? '[' : '(', ends[1]});
    if (low < 0) low = make(Op::kNegate, {make(Op::kSymbol, {}, "infty")}, {});
    if (high < 0) high = make(Op::kSymbol, {}, "infty");
    const Node set = make(Op::kTuple, {low, high}, ends);
    if (!size) return set;
    const std::string mirrored{bounded && ends[1] == ']' ? '[' : '(', ends[0] == '[' ? ']' : ')'};
    const Node left =
        make(Op::kTuple, {make(Op::kNegate, {high}, {}), make(Op::kNegate, {low}, {})}, mirrored);
    return make(Op::kUnion, {left, set}, {});
}

bool joins_bounds(const Expression& in, Node node) {
    if (in[node].op != Op::kList) return false;
    const auto all = [&](const auto& holds) {
        return std::ranges::all_of(in[node].parts, [&](Node part) {
            return in[part].op == Op::kRelation && head_of(in, part) >= 0 &&
                   std::ranges::all_of(in[part].text, holds);
        });
    };
    const auto excludes = [](char c) { return c == char(Kind::kNotEqual); };
    return all(excludes) || (!in[node].text.empty() && all(orders));
}

std::optional<RealSet> real_set(Expression& in, Node node) {
    node = as_interval(in, node);
    const Op op = in[node].op;
    const auto parts = in[node].parts;
    if (op == Op::kTuple) return interval(in, node);
    if (op == Op::kSet) return points(in, node);
    if (op == Op::kSymbol && in[node].text == "R")
        return RealSet{{{-kInfinity, 0, {}, false}, {kInfinity, 0, {}, false}}};
    if (op == Op::kSymbol && in[node].text == "emptyset") return RealSet{};
    const bool list = joins_bounds(in, node);
    if (!list && op != Op::kUnion && op != Op::kIntersection && op != Op::kWithout) return {};
    const Op joined = !list ? op : in[node].text == "or" ? Op::kUnion : Op::kIntersection;
    std::optional<RealSet> out;
    for (const Node part : parts) {
        const auto one = real_set(in, part);
        if (!one) return {};
        out = out ? made(joined, *out, *one) : one;
        if (!out) return {};
    }
    return out;
}

std::optional<bool> same(const RealSet& a, const RealSet& b) {
    const auto only_a = made(Op::kWithout, a, b), only_b = made(Op::kWithout, b, a);
    if (!only_a || !only_b) return {};
    return only_a->empty() && only_b->empty();
}

}  // namespace malt
