// Tokens of a mathematical answer as models write them: LaTeX, plain text or Unicode, mixed.
//
// Spacing commands, dollar signs, \left, \right and fonts vanish; thousands separators are part of
// their number; `pi`, `\pi` and the Greek letter are one token. One pass, no backtracking.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace malt {

enum class Kind : std::uint8_t {
    kNumber,    // digits, perhaps with a point; separators are gone
    kLetter,    // a symbol: a letter, or the name of a command
    kWord,      // lower case
    kFunction,  // sin, log, ...
    kFrac,
    kBinom,
    kSqrt,
    kPlus,
    kMinus,
    kPlusMinus,
    kMinusPlus,
    kTimes,
    kDivide,
    kPower,
    kSub,
    kEqual,
    kLess,
    kLessEqual,
    kGreater,
    kGreaterEqual,
    kNotEqual,
    kApprox,
    kIn,
    kNotIn,
    kSubset,
    kSubsetEqual,
    kSuperset,
    kSupersetEqual,
    kImplies,
    kImpliedBy,
    kEquivalent,
    kTo,
    kFrom,
    kParallel,
    kPerpendicular,
    kSimilar,
    kCongruent,
    kModulo,  // the three bars of a congruence
    kComma,   // semicolons, `and`, `or` too
    kColon,
    kBar,
    kBang,
    kPercent,
    kDegree,
    kOpen,
    kClose,
    kOpenSquare,
    kCloseSquare,
    kOpenGroup,
    kCloseGroup,
    kOpenSet,
    kCloseSet,
    kCup,
    kCap,
    kWithout,
    kMod,
    kDots,
    kOpenFloor,
    kCloseFloor,
    kOpenCeil,
    kCloseCeil,
    kOver,      // a bar over the next argument
    kCurrency,  // `text`: its name
    kBeginMatrix,
    kEndMatrix,
    kCell,
    kRow,
    kEnd,
    kUnknown,
};

// The sign of a relation read from right to left: > for <.
[[nodiscard]] Kind mirrored(Kind sign);

struct Token {
    Kind kind;
    bool spaced;   // white space stands before it
    bool command;  // it began with a backslash
    std::string text;
};

constexpr std::size_t kMaxTokens = 512;

// All tokens and a last kEnd; a single kUnknown where there are more than kMaxTokens.
[[nodiscard]] std::vector<Token> tokens_of(std::string_view answer);

}  // namespace malt
