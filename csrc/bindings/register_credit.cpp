// Credit of a forest, and the examples and pairs that follow from it.
#include <string>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/locked.hpp"
#include "bindings/signatures.hpp"
#include "forest/credit.hpp"
#include "forest/forest.hpp"
#include "forest/pairs.hpp"

namespace pybind11::detail {

using malt::bindings::WordCaster;

template <>
struct type_caster<malt::Mean> : WordCaster<malt::Mean, "mean", "children", "leaves"> {};
template <>
struct type_caster<malt::Pooling> : WordCaster<malt::Pooling, "pooling", "global", "local"> {};
template <>
struct type_caster<malt::Source> : WordCaster<malt::Source, "source", "paired", "all"> {};
template <>
struct type_caster<malt::Policy> : WordCaster<malt::Policy, "policy", "all", "one", "best_worst"> {
};

}  // namespace pybind11::detail

namespace malt::bindings {
namespace {

using py::literals::operator""_a;
using Ratio = std::pair<std::int64_t, std::int64_t>;  // numerator, denominator

Fraction share(const Ratio& ratio, const char* name) {
    const auto [num, den] = ratio;
    if (den <= 0 || num < 0 || num > den)
        throw py::value_error(std::string(name) +
                              " must be a fraction (numerator, denominator) in [0, 1]");
    return {num, den};
}

Level checked_level(std::int64_t level) {
    if (level < 1 || level > std::numeric_limits<Level>::max())
        throw py::value_error("level must be in 1..255");
    return static_cast<Level>(level);
}

Credit credit(Forest& forest, const Ratio& threshold, bool inclusive, Mean mean, Pooling pooling) {
    const CreditRule rule{share(threshold, "threshold"), inclusive, mean, pooling};
    if (mean == Mean::kLeaves && pooling == Pooling::kLocal)
        throw py::value_error(
            "pooling=\"local\" averages the labels of children: it needs mean=\"children\"");
    return locked(forest, [&] { return assign_credit(forest.nodes(), rule); });
}

py::array_t<NodeId> examples(Forest& forest, const Credit& credit, std::int64_t level,
                             Source source, bool dedup) {
    const Level at = checked_level(level);
    return hand_over(
        locked(forest, [&] { return find_examples(forest.nodes(), credit, at, source, dedup); }));
}

std::pair<py::array_t<NodeId>, py::array_t<std::int8_t>> labelled(Forest& forest,
                                                                  const Credit& credit,
                                                                  std::int64_t level, bool dedup) {
    const Level at = checked_level(level);
    std::vector<NodeId> ids;
    std::vector<std::int8_t> labels;
    locked(forest, [&] {
        for (const Labelled& one : find_labelled(forest.nodes(), credit, at, dedup)) {
            ids.push_back(one.id);
            labels.push_back(static_cast<std::int8_t>(one.positive));
        }
    });
    return {hand_over(std::move(ids)), hand_over(std::move(labels))};
}

std::pair<py::array_t<NodeId>, py::array_t<NodeId>> pairs(Forest& forest, const Credit& credit,
                                                          std::int64_t level, Policy policy,
                                                          std::uint64_t seed,
                                                          std::size_t max_per_question,
                                                          const Ratio& min_margin, bool dedup) {
    const Level at = checked_level(level);
    const PairRule rule{policy, seed, max_per_question, share(min_margin, "min_margin"), dedup};
    std::vector<NodeId> chosen, rejected;
    locked(forest, [&] {
        for (const Pair& pair : find_pairs(forest.nodes(), credit, at, rule)) {
            chosen.push_back(pair.chosen);
            rejected.push_back(pair.rejected);
        }
    });
    return {hand_over(std::move(chosen)), hand_over(std::move(rejected))};
}

py::array_t<double> values(const py::object& self) {
    return view_of(std::span{self.cast<const Credit&>().value}, self);
}

py::array_t<std::int8_t> labels(const py::object& self) {
    const std::vector<Label>& label = self.cast<const Credit&>().label;
    return view_of(std::span{reinterpret_cast<const std::int8_t*>(label.data()), label.size()},
                   self);
}

}  // namespace

void register_credit(py::module_& m) {
    py::class_<Credit>(m, "Credit", "Value and label of every node, computed by credit().")
        .def_property_readonly("value", &values, "[nodes]; NaN where a node has no value.")
        .def_property_readonly("label", &labels,
                               "[nodes]: 1 positive, 0 negative, -1 without a value.");
    m.def("credit", &credit, "forest"_a, "threshold"_a = Ratio{1, 2}, "inclusive"_a = false,
          "mean"_a = "children", "pooling"_a = "global",
          "Propagate outcomes from the leaves to the questions (MALT, arXiv 2412.01928, section\n"
          "3.2).\n"
          "\n"
          "The value of a graded leaf is its outcome. The value of any other node is the mean\n"
          "over its children that have one; with mean=\"leaves\" over its graded leaves; with\n"
          "pooling=\"local\" over the labels of its children. A node is positive when its value >\n"
          "threshold = (numerator, denominator), or >= if inclusive. Values are exact\n"
          "fractions: ValueError if a denominator would exceed 2**63.");
    m.def("examples", &examples, "forest"_a, "credit"_a, "level"_a, "source"_a = "paired",
          "dedup"_a = false,
          "Ids of the positive nodes of a level, ascending.\n"
          "\n"
          "source=\"paired\" keeps those with a negative sibling. dedup: outputs with the same\n"
          "tokens below the same prompt, of siblings or of cousins whose paths have the same\n"
          "tokens, count once, as the first of them, with the mean of their values.");
    m.def("labelled", &labelled, "forest"_a, "credit"_a, "level"_a, "dedup"_a = false,
          "(ids, labels) of the nodes of a level that have a value, by ascending id.\n"
          "\n"
          "Labels are 1 or 0. dedup as in examples().");
    m.def("pairs", &pairs, "forest"_a, "credit"_a, "level"_a, "policy"_a = "all", "seed"_a = 0,
          "max_per_question"_a = 0, "min_margin"_a = Ratio{0, 1}, "dedup"_a = false,
          "Pairs (chosen, rejected) of a positive and a negative sibling of a level, in node\n"
          "order; with dedup also of cousins whose prompts have the same tokens.\n"
          "\n"
          "policy: \"all\" pairs of a parent's children; \"one\" at random per parent;\n"
          "\"best_worst\", the highest chosen value and then the lowest rejected one, the first\n"
          "of equals. Siblings with the same tokens are never paired, nor those with\n"
          "value(chosen) - value(rejected) < min_margin = (numerator, denominator).\n"
          "max_per_question > 0 keeps a random subset. Random choices depend on the seed and\n"
          "the nodes' paths, not on their ids.");
}

}  // namespace malt::bindings
