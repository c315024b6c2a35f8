// The names and signs that latex.cpp knows.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "answers/latex.hpp"

namespace malt::latex {

using Entry = std::pair<std::string_view, Kind>;

// Most names differ in their size or first letter, which is seen without a call.
inline bool same(std::string_view a, std::string_view b) {
    return a.size() == b.size() && !a.empty() && a[0] == b[0] &&
           (a.size() == 1 || a.substr(1) == b.substr(1));
}

template <std::size_t N>
const Entry* find(const std::array<Entry, N>& table, std::string_view name) {
    const auto it =
        std::ranges::find_if(table, [&](const Entry& entry) { return same(entry.first, name); });
    return it == table.end() ? nullptr : it;
}

template <std::size_t N>
bool holds(const std::array<std::string_view, N>& names, std::string_view name) {
    return std::ranges::any_of(names, [&](std::string_view one) { return same(one, name); });
}

inline constexpr std::array kFunctions =
    std::to_array<std::string_view>({"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos",
                                     "arctan", "sinh", "cosh", "tanh", "log", "ln", "exp", "lg"});

// Two letters that are a word, and no product of symbols.
inline constexpr std::array kShortWords = std::to_array<std::string_view>(
    {"cm", "mm", "km", "kg", "ft", "lb", "oz", "ml", "mi", "hr", "is",
     "of", "to", "so", "it", "we", "be", "by", "if", "as", "no", "at"});

inline constexpr std::array kNothing = std::to_array<std::string_view>(
    {"left",       "right",      "big",    "Big",          "bigl",      "bigr",   "Bigl",
     "Bigr",       "bigg",       "Bigg",   "displaystyle", "textstyle", "quad",   "qquad",
     "limits",     "mathrm",     "mathbf", "mathit",       "mathsf",    "mathbb", "mathcal",
     "boldsymbol", "bf",         "rm",     "it",           "hspace",    "vspace", "boxed",
     "fbox",       "ensuremath", "hfill",  "nolimits",     "middle"});

inline constexpr std::array kTexts = std::to_array<std::string_view>(
    {"text", "mbox", "textbf", "textrm", "textit", "operatorname", "hbox", "texttt", "textnormal"});

inline constexpr std::array kRefused = std::to_array<std::string_view>(
    {"int",    "sum",      "prod",       "lim",       "iint",   "oint",   "underline",
     "nabla",  "partial",  "begin",      "end",       "choose", "land",   "lor",
     "neg",    "lnot",     "wedge",      "vee",       "forall", "exists", "oplus",
     "otimes", "substack", "underbrace", "overbrace", "frown",  "overarc"});

inline constexpr std::array kCommands = std::to_array<Entry>({
    {"frac", Kind::kFrac},
    {"dfrac", Kind::kFrac},
    {"tfrac", Kind::kFrac},
    {"cfrac", Kind::kFrac},
    {"binom", Kind::kBinom},
    {"dbinom", Kind::kBinom},
    {"tbinom", Kind::kBinom},
    {"sqrt", Kind::kSqrt},
    {"pm", Kind::kPlusMinus},
    {"mp", Kind::kMinusPlus},
    {"times", Kind::kTimes},
    {"cdot", Kind::kTimes},
    {"ast", Kind::kTimes},
    {"div", Kind::kDivide},
    {"le", Kind::kLessEqual},
    {"leq", Kind::kLessEqual},
    {"leqslant", Kind::kLessEqual},
    {"ge", Kind::kGreaterEqual},
    {"geq", Kind::kGreaterEqual},
    {"geqslant", Kind::kGreaterEqual},
    {"lt", Kind::kLess},
    {"gt", Kind::kGreater},
    {"ne", Kind::kNotEqual},
    {"neq", Kind::kNotEqual},
    {"approx", Kind::kApprox},
    {"in", Kind::kIn},
    {"cup", Kind::kCup},
    {"cap", Kind::kCap},
    {"setminus", Kind::kWithout},
    {"backslash", Kind::kWithout},
    {"circ", Kind::kDegree},
    {"degree", Kind::kDegree},
    {"vert", Kind::kBar},
    {"lvert", Kind::kBar},
    {"rvert", Kind::kBar},
    {"mid", Kind::kBar},
    {"lbrace", Kind::kOpenSet},
    {"rbrace", Kind::kCloseSet},
    {"lbrack", Kind::kOpenSquare},
    {"rbrack", Kind::kCloseSquare},
    {"colon", Kind::kColon},
    {"notin", Kind::kNotIn},
    {"subset", Kind::kSubset},
    {"subsetneq", Kind::kSubset},
    {"subseteq", Kind::kSubsetEqual},
    {"supset", Kind::kSuperset},
    {"supseteq", Kind::kSupersetEqual},
    {"implies", Kind::kImplies},
    {"Rightarrow", Kind::kImplies},
    {"Longrightarrow", Kind::kImplies},
    {"impliedby", Kind::kImpliedBy},
    {"Leftarrow", Kind::kImpliedBy},
    {"iff", Kind::kEquivalent},
    {"Leftrightarrow", Kind::kEquivalent},
    {"Longleftrightarrow", Kind::kEquivalent},
    {"leftrightarrow", Kind::kEquivalent},
    {"to", Kind::kTo},
    {"rightarrow", Kind::kTo},
    {"longrightarrow", Kind::kTo},
    {"mapsto", Kind::kTo},
    {"leftarrow", Kind::kFrom},
    {"longleftarrow", Kind::kFrom},
    {"gets", Kind::kFrom},
    {"parallel", Kind::kParallel},
    {"perp", Kind::kPerpendicular},
    {"sim", Kind::kSimilar},
    {"cong", Kind::kCongruent},
    {"equiv", Kind::kModulo},
    {"pmod", Kind::kMod},
    {"bmod", Kind::kMod},
    {"mod", Kind::kMod},
    {"pod", Kind::kMod},
    {"dots", Kind::kDots},
    {"ldots", Kind::kDots},
    {"cdots", Kind::kDots},
    {"dotsc", Kind::kDots},
    {"dotsb", Kind::kDots},
    {"lfloor", Kind::kOpenFloor},
    {"rfloor", Kind::kCloseFloor},
    {"lceil", Kind::kOpenCeil},
    {"rceil", Kind::kCloseCeil},
});

inline constexpr std::array kSigns = std::to_array<Entry>({
    {"+", Kind::kPlus},        {"-", Kind::kMinus},     {"*", Kind::kTimes},
    {"/", Kind::kDivide},      {"^", Kind::kPower},     {"_", Kind::kSub},
    {"=", Kind::kEqual},       {"<", Kind::kLess},      {">", Kind::kGreater},
    {",", Kind::kComma},       {";", Kind::kComma},     {":", Kind::kColon},
    {"|", Kind::kBar},         {"!", Kind::kBang},      {"%", Kind::kPercent},
    {"(", Kind::kOpen},        {")", Kind::kClose},     {"[", Kind::kOpenSquare},
    {"]", Kind::kCloseSquare}, {"{", Kind::kOpenGroup}, {"}", Kind::kCloseGroup},
    {"&", Kind::kCell},
});

// LaTeX or ASCII spellings of Unicode characters, by their UTF-8 bytes.
inline constexpr std::array kUnicode =
    std::to_array<std::pair<std::string_view, std::string_view>>({
        {"\u2212", "-"},
        {"\u2013", "-"},
        {"\u2014", "-"},
        {"\u00d7", "*"},
        {"\u00b7", "*"},
        {"\u22c5", "*"},
        {"\u00f7", "/"},
        {"\u2044", "/"},
        {"\u03c0", "\\pi "},
        {"\u221a", "\\sqrt "},
        {"\u221e", "\\infty "},
        {"\u2264", "\\le "},
        {"\u2265", "\\ge "},
        {"\u2260", "\\ne "},
        {"\u2248", "\\approx "},
        {"\u00b1", "\\pm "},
        {"\u222a", "\\cup "},
        {"\u2229", "\\cap "},
        {"\u2208", "\\in "},
        {"\u00b0", "\\degree "},
        {"\u00b2", "^2"},
        {"\u00b3", "^3"},
        {"\u00bd", "\\frac12 "},
        {"\u00bc", "\\frac14 "},
        {"\u00be", "\\frac34 "},
        {"\u2153", "\\frac13 "},
        {"\u2154", "\\frac23 "},
        {"\u00a0", " "},
        {"\u2009", " "},
        {"\u202f", " "},
        {"\u3000", " "},
        {"\u20ac", "\\euro "},
        {"\u00a3", "\\gbp "},
        {"\u00a5", "\\yen "},
        {"\u20b9", "\\rupee "},
        {"\u20b1", "\\peso "},
        {"\u200b", ""},
        {"\uff05", "%"},
        {"\u2032", "'"},
        {"\u2019", "'"},
        {"\u211d", "\\mathbb{R}"},
        {"\u2124", "\\mathbb{Z}"},
        {"\u2115", "\\mathbb{N}"},
        {"\u2205", "\\emptyset "},
        {"\u2220", "\\angle "},
        {"\u25b3", "\\triangle "},
        {"\u2261", "\\equiv "},
        {"\u2282", "\\subset "},
        {"\u2286", "\\subseteq "},
        {"\u2283", "\\supset "},
        {"\u21d2", "\\implies "},
        {"\u2192", "\\to "},
        {"\u21d4", "\\iff "},
        {"\u2190", "\\leftarrow "},
        {"\u22a5", "\\perp "},
        {"\u2225", "\\parallel "},
        {"\u2245", "\\cong "},
        {"\u223c", "\\sim "},
        {"\u2209", "\\notin "},
        {"\u230a", "\\lfloor "},
        {"\u230b", "\\rfloor "},
        {"\u2308", "\\lceil "},
        {"\u2309", "\\rceil "},
        {"\u2026", "\\ldots "},
        {"\u22ef", "\\ldots "},
        {"\u00a2", "\\cent "},
        {"\u2216", "\\setminus "},
    });

}  // namespace malt::latex
