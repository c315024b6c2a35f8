// Forest: batch calls in, read-only views out.
#include <memory>

#include "arrays.hpp"
#include "forest.hpp"
#include "locked.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;

// A property that shows one column; enums are shown as the bytes they are.
template <auto Column, class Shown>
py::array_t<Shown> column(const py::object& self) {
    auto& forest = self.cast<Forest&>();
    const auto values = locked(forest, [&] { return forest.nodes().*Column; });
    return view_of(std::span{reinterpret_cast<const Shown*>(values.data()), values.size()}, self);
}

py::array_t<float> logprobs(const py::object& self) {
    auto& forest = self.cast<Forest&>();
    locked(forest, [&] { forest.fill_logprobs(); });
    return column<&Nodes::logprobs, float>(self);
}

py::array_t<std::int32_t> tokens_of(const py::object& self, std::size_t id) {
    auto& forest = self.cast<Forest&>();
    const Nodes nodes = locked(forest, [&] { return forest.nodes(); });
    if (id >= nodes.size()) throw py::value_error("node " + std::to_string(id) + " does not exist");
    return view_of(nodes.tokens_of(static_cast<NodeId>(id)), self);
}

py::array_t<NodeId> reserve(Forest& forest, const py::object& parents, const py::object& counts) {
    const auto p = to_array<NodeId>(parents, "parents");
    const auto c = to_array<std::uint16_t>(counts, "counts");
    std::vector<NodeId> first(static_cast<std::size_t>(p.size()));
    locked(forest, [&] { forest.reserve(span_of(p), span_of(c), first); });
    return hand_over(std::move(first));
}

NodeId add_trees(Forest& forest, std::size_t n, const py::object& parents) {
    const auto p = to_array<std::int32_t>(parents, "parents");
    return locked(forest, [&] { return forest.add_trees(n, span_of(p)); });
}

void complete(Forest& forest, const py::object& ids, const py::object& tokens,
              const py::object& offsets, const py::object& finish, const py::object& logprobs) {
    const auto i = to_array<NodeId>(ids, "ids");
    const auto t = to_array<std::int32_t>(tokens, "tokens");
    const auto o = to_array<std::int64_t>(offsets, "offsets");
    const auto f = to_array<std::uint8_t>(finish, "finish");
    const auto l =
        logprobs.is_none() ? py::array_t<float>() : to_array<float>(logprobs, "logprobs");
    if (!logprobs.is_none() && l.size() != t.size())
        throw py::value_error("tokens and logprobs differ in length");
    locked(forest,
           [&] { forest.complete(span_of(i), span_of(t), span_of(o), span_of(f), span_of(l)); });
}

void fail(Forest& forest, const py::object& ids) {
    const auto i = to_array<NodeId>(ids, "ids");
    locked(forest, [&] { forest.fail(span_of(i)); });
}

void set_outcomes(Forest& forest, const py::object& ids, const py::object& outcomes) {
    const auto i = to_array<NodeId>(ids, "ids");
    const auto o = to_array<std::uint8_t>(outcomes, "outcomes");
    locked(forest, [&] { forest.set_outcomes(span_of(i), span_of(o)); });
}

py::array_t<NodeId> roots(Forest& forest) {
    return hand_over(locked(forest, [&] {
        std::vector<NodeId> root(forest.size());
        find_roots(forest.nodes(), root);
        return root;
    }));
}

// Enum columns come as bytes.
template <class Enum>
std::span<const Enum> enums_of(const py::array_t<std::uint8_t>& array) {
    return {reinterpret_cast<const Enum*>(array.data()), static_cast<std::size_t>(array.size())};
}

std::unique_ptr<Forest> from_columns(const py::object& parent, const py::object& first_child,
                                     const py::object& n_children, const py::object& level,
                                     const py::object& state, const py::object& finish,
                                     const py::object& outcome, const py::object& token_begin,
                                     const py::object& token_len, const py::object& tokens,
                                     const py::object& logprobs) {
    const auto p = to_array<NodeId>(parent, "parent");
    const auto c = to_array<NodeId>(first_child, "first_child");
    const auto n = to_array<std::uint16_t>(n_children, "n_children");
    const auto v = to_array<Level>(level, "level");
    const auto s = to_array<std::uint8_t>(state, "state");
    const auto f = to_array<std::uint8_t>(finish, "finish");
    const auto o = to_array<std::uint8_t>(outcome, "outcome");
    const auto b = to_array<std::uint64_t>(token_begin, "token_begin");
    const auto l = to_array<std::uint32_t>(token_len, "token_len");
    const auto t = to_array<std::int32_t>(tokens, "tokens");
    const auto g =
        logprobs.is_none() ? py::array_t<float>() : to_array<float>(logprobs, "logprobs");
    const Nodes nodes{.parent = span_of(p),
                      .first_child = span_of(c),
                      .n_children = span_of(n),
                      .level = span_of(v),
                      .state = enums_of<State>(s),
                      .finish = enums_of<Finish>(f),
                      .outcome = span_of(o),
                      .token_begin = span_of(b),
                      .token_len = span_of(l),
                      .tokens = span_of(t),
                      .logprobs = span_of(g)};
    const py::gil_scoped_release release;
    return std::make_unique<Forest>(nodes);
}

}  // namespace

void register_forest(py::module_& m) {
    m.attr("NO_NODE") = kNoNode;
    m.attr("RESERVED") = static_cast<int>(State::kReserved);
    m.attr("DONE") = static_cast<int>(State::kDone);
    m.attr("FAILED") = static_cast<int>(State::kFailed);
    m.attr("FINISH_STOP") = static_cast<int>(Finish::kStop);
    m.attr("FINISH_LENGTH") = static_cast<int>(Finish::kLength);
    m.attr("UNGRADED") = kUngraded;

    py::class_<Forest>(m, "Forest", "Questions and the outputs sampled under them, as columns.")
        .def(py::init<>())
        .def("__len__",
             [](Forest& forest) { return locked(forest, [&] { return forest.size(); }); })
        .def(
            "add_questions",
            [](Forest& forest, std::size_t n) {
                return locked(forest, [&] { return forest.add_questions(n); });
            },
            "n"_a)
        .def("add_trees", &add_trees, "n"_a, "parents"_a)
        .def("reserve", &reserve, "parents"_a, "counts"_a)
        .def("complete", &complete, "ids"_a, "tokens"_a, "offsets"_a, "finish"_a,
             "logprobs"_a = py::none())
        .def("fail", &fail, "ids"_a)
        .def("set_outcomes", &set_outcomes, "ids"_a, "outcomes"_a)
        .def_static("from_columns", &from_columns, py::kw_only(), "parent"_a, "first_child"_a,
                    "n_children"_a, "level"_a, "state"_a, "finish"_a, "outcome"_a, "token_begin"_a,
                    "token_len"_a, "tokens"_a, "logprobs"_a = py::none())
        .def("tokens_of", &tokens_of, "id"_a)
        .def("roots", &roots)
        .def_property_readonly(
            "nbytes",
            [](Forest& forest) { return locked(forest, [&] { return forest.nbytes(); }); })
        .def_property_readonly("parent", &column<&Nodes::parent, NodeId>)
        .def_property_readonly("first_child", &column<&Nodes::first_child, NodeId>)
        .def_property_readonly("n_children", &column<&Nodes::n_children, std::uint16_t>)
        .def_property_readonly("level", &column<&Nodes::level, std::uint8_t>)
        .def_property_readonly("state", &column<&Nodes::state, std::uint8_t>)
        .def_property_readonly("finish", &column<&Nodes::finish, std::uint8_t>)
        .def_property_readonly("outcome", &column<&Nodes::outcome, std::uint8_t>)
        .def_property_readonly("token_begin", &column<&Nodes::token_begin, std::uint64_t>)
        .def_property_readonly("token_len", &column<&Nodes::token_len, std::uint32_t>)
        .def_property_readonly("tokens", &column<&Nodes::tokens, std::int32_t>)
        .def_property_readonly("logprobs", &logprobs);
}

}  // namespace malt::bindings
