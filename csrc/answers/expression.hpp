// An answer as a tree, parsed from its tokens. Depth and size are capped.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "answers/latex.hpp"

namespace malt {

enum class Op : std::uint8_t {
    kNumber,  // `text`: digits
    kSymbol,  // `text`: its name
    kWords,   // `text`: lower case, one space between
    kBased,   // `text`: digits_base
    kAdd,
    kNegate,
    kMultiply,
    kDivide,
    kPower,
    kRoot,  // radicand, index
    kCall,  // `text`: function; argument, perhaps its base
    kAbs,
    kFactorial,
    kBinomial,
    kDegrees,
    kQuantity,  // a value; `text`: its unit
    kSigns,     // the sum of the first and +- the second child
    kTuple,     // `text`: its brackets; intervals too
    kSet,
    kList,
    kMatrix,    // `text`: columns
    kRelation,  // operands; `text`: a char of Kind between each two
    kUnion,
    kIntersection,
    kWithout,
    kRatio,
    kCongruence,  // residue, modulus, perhaps the head
    kCases,       // tuples of a value and its condition
    kCondition,   // a set: its element, the condition, perhaps its domain
    kLabelled,    // `text`: the letter of a choice; its text
};

using Node = std::int32_t;

struct Expression {
    struct Part {
        Op op;
        std::string text;
        std::vector<Node> parts;
    };
    std::vector<Part> all;
    Node root = -1;    // -1: could not be parsed
    int compared = 0;  // parts so far, each as often as it was compared

    [[nodiscard]] const Part& operator[](Node node) const {
        return all[static_cast<std::size_t>(node)];
    }
};

[[nodiscard]] Expression parse(std::string_view answer);

[[nodiscard]] bool is_scalar(Op op);

// A symbol other than pi, e and i.
[[nodiscard]] bool is_variable(const Expression& in, Node node);

// Does `condition` hold for a node or any node below it?
template <class Condition>
[[nodiscard]] bool any_part(const Expression& in, Node node, const Condition& condition) {
    return condition(node) || std::ranges::any_of(in[node].parts, [&](Node part) {
               return any_part(in, part, condition);
           });
}

}  // namespace malt
