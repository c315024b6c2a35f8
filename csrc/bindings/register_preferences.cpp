// credit, examples, pairs: a forest in, arrays out.
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/locked.hpp"
#include "forest/credit.hpp"
#include "forest/forest.hpp"
#include "forest/pairs.hpp"

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

// The position of `word` among `words`, which are in the order of the enum Choice.
template <class Choice>
Choice choice(std::string_view word, const char* name, std::initializer_list<const char*> words) {
    std::string all;
    std::uint8_t index = 0;
    for (const std::string_view candidate : words) {
        if (word == candidate) return Choice{index};
        all.append(index++ ? ", " : "").append(candidate);
    }
    throw py::value_error(std::string(name) + " must be one of: " + all);
}

Level checked_level(std::int64_t level) {
    if (level < 1 || level > std::numeric_limits<Level>::max())
        throw py::value_error("level must be in 1..255");
    return static_cast<Level>(level);
}

Credit credit(Forest& forest, const Ratio& threshold, bool inclusive, std::string_view mean,
              std::string_view pooling) {
    const CreditRule rule{
        .threshold = share(threshold, "threshold"),
        .inclusive = inclusive,
        .mean = choice<Mean>(mean, "mean", {"children", "leaves"}),
        .pooling = choice<Pooling>(pooling, "pooling", {"global", "local"}),
    };
    if (rule.mean == Mean::kLeaves && rule.pooling == Pooling::kLocal)
        throw py::value_error("pooling=\"local\" averages children: it needs mean=\"children\"");
    return locked(forest, [&] { return assign_credit(forest.nodes(), rule); });
}

py::array_t<NodeId> examples(Forest& forest, const Credit& credit, std::int64_t level,
                             std::string_view source, bool dedup) {
    const Level at = checked_level(level);
    const auto from = choice<Source>(source, "source", {"paired", "all"});
    return hand_over(
        locked(forest, [&] { return find_examples(forest.nodes(), credit, at, from, dedup); }));
}

std::pair<py::array_t<NodeId>, py::array_t<NodeId>> pairs(
    Forest& forest, const Credit& credit, std::int64_t level, std::string_view policy,
    std::uint64_t seed, std::size_t max_per_question, const Ratio& min_margin, bool dedup) {
    const Level at = checked_level(level);
    const PairRule rule{
        .policy = choice<Policy>(policy, "policy", {"all", "one", "best_worst"}),
        .seed = seed,
        .max_per_question = max_per_question,
        .min_margin = share(min_margin, "min_margin"),
        .dedup = dedup,
    };
    auto [chosen, rejected] = locked(forest, [&] {
        std::pair<std::vector<NodeId>, std::vector<NodeId>> columns;
        const std::vector<Pair> found = find_pairs(forest.nodes(), credit, at, rule);
        for (auto& column : {&columns.first, &columns.second}) column->reserve(found.size());
        for (const Pair& pair : found) {
            columns.first.push_back(pair.chosen);
            columns.second.push_back(pair.rejected);
        }
        return columns;
    });
    return {hand_over(std::move(chosen)), hand_over(std::move(rejected))};
}

}  // namespace

void register_preferences(py::module_& m) {
    py::class_<Credit>(m, "Credit", "Value and label of every node.")
        .def_property_readonly("value",
                               [](const py::object& self) {
                                   return view_of(std::span{self.cast<const Credit&>().value},
                                                  self);
                               })
        .def_property_readonly("label", [](const py::object& self) {
            const std::vector<Label>& label = self.cast<const Credit&>().label;
            return view_of(
                std::span{reinterpret_cast<const std::int8_t*>(label.data()), label.size()}, self);
        });
    m.def("credit", &credit, "forest"_a, "threshold"_a = Ratio{1, 2}, "inclusive"_a = false,
          "mean"_a = "children", "pooling"_a = "global");
    m.def("examples", &examples, "forest"_a, "credit"_a, "level"_a, "source"_a = "paired",
          "dedup"_a = false);
    m.def("pairs", &pairs, "forest"_a, "credit"_a, "level"_a, "policy"_a = "all", "seed"_a = 0,
          "max_per_question"_a = 0, "min_margin"_a = Ratio{0, 1}, "dedup"_a = false);
}

}  // namespace malt::bindings
