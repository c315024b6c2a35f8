// Forest: batch calls in, read-only views out.
#include <pybind11/stl.h>

#include <cerrno>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/locked.hpp"
#include "forest/forest.hpp"
#include "forest/mapped_files.hpp"

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
              const py::object& offsets, const py::object& finish) {
    const auto i = to_array<NodeId>(ids, "ids");
    const auto t = to_array<std::int32_t>(tokens, "tokens");
    const auto o = to_array<std::int64_t>(offsets, "offsets");
    const auto f = to_array<std::uint8_t>(finish, "finish");
    locked(forest, [&] { forest.complete(span_of(i), span_of(t), span_of(o), span_of(f)); });
}

// Keeps an array alive from a place that knows nothing of Python.
std::shared_ptr<const void> kept(const py::object& array) {
    return {array.inc_ref().ptr(), [](const void* p) {
                const py::gil_scoped_acquire acquire;
                py::handle(static_cast<PyObject*>(const_cast<void*>(p))).dec_ref();
            }};
}

void lend(Forest& forest, const py::object& arena, const py::object& ids, const py::object& begin,
          const py::object& length, const py::object& finish) {
    const auto a = to_array<std::int32_t>(arena, "arena");
    const auto i = to_array<NodeId>(ids, "ids");
    const auto b = to_array<std::uint64_t>(begin, "begin");
    const auto l = to_array<std::uint32_t>(length, "length");
    const auto f = to_array<std::uint8_t>(finish, "finish");
    const auto owner = kept(a);
    locked(forest,
           [&] { forest.lend(span_of(a), owner, span_of(i), span_of(b), span_of(l), span_of(f)); });
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

// Files one after the other as one array, read-only: they cost no memory until they are read.
py::array_t<std::int32_t> map_files(const std::vector<std::string>& paths,
                                    const std::vector<std::size_t>& sizes) {
    std::unique_ptr<MappedFiles> files;
    try {
        files = std::make_unique<MappedFiles>(paths, sizes);
    } catch (const std::system_error& error) {
        errno = error.code().value();
        PyErr_SetFromErrnoWithFilename(PyExc_OSError, error.what());
        throw py::error_already_set();
    }
    const auto words = files->words();
    const py::capsule owner(files.release(), [](void* p) { delete static_cast<MappedFiles*>(p); });
    return view_of(words, owner);
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
        .def("complete", &complete, "ids"_a, "tokens"_a, "offsets"_a, "finish"_a)
        .def("fail", &fail, "ids"_a)
        .def("set_outcomes", &set_outcomes, "ids"_a, "outcomes"_a)
        .def("lend", &lend, "arena"_a, "ids"_a, "begin"_a, "length"_a, "finish"_a)
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
        .def_property_readonly("tokens", &column<&Nodes::tokens, std::int32_t>);
    m.def("map_files", &map_files, "paths"_a, "sizes"_a);
    m.attr("PAGE") = MappedFiles::kPage;
}

}  // namespace malt::bindings
