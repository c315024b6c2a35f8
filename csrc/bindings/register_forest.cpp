// Forest: batch calls in, read-only views out.
#include <pybind11/stl.h>

#include <cerrno>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/locked.hpp"
#include "bindings/signatures.hpp"
#include "forest/forest.hpp"
#include "forest/mapped_files.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;

// A property: one column of the forest, enums as bytes.
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

py::array_t<NodeId> reserve(Forest& forest, const ArrayLike& parents, const ArrayLike& counts) {
    const auto p = to_array<NodeId>(parents, "parents");
    const auto c = to_array<std::uint16_t>(counts, "counts");
    std::vector<NodeId> first(static_cast<std::size_t>(p.size()));
    locked(forest, [&] { forest.reserve(span_of(p), span_of(c), first); });
    return hand_over(std::move(first));
}

NodeId add_trees(Forest& forest, std::size_t n, const ArrayLike& parents) {
    const auto p = to_array<std::int32_t>(parents, "parents");
    return locked(forest, [&] { return forest.add_trees(n, span_of(p)); });
}

void complete(Forest& forest, const ArrayLike& ids, const ArrayLike& tokens,
              const ArrayLike& offsets, const ArrayLike& finish) {
    const auto i = to_array<NodeId>(ids, "ids");
    const auto t = to_array<std::int32_t>(tokens, "tokens");
    const auto o = to_array<std::int64_t>(offsets, "offsets");
    const auto f = to_array<std::uint8_t>(finish, "finish");
    locked(forest, [&] { forest.complete(span_of(i), span_of(t), span_of(o), span_of(f)); });
}

// Keeps an array alive for an owner without Python.h.
std::shared_ptr<const void> kept(const py::object& array) {
    return {array.inc_ref().ptr(), [](const void* p) {
                const py::gil_scoped_acquire acquire;
                py::handle(static_cast<PyObject*>(const_cast<void*>(p))).dec_ref();
            }};
}

void lend(Forest& forest, const ArrayLike& arena, const ArrayLike& ids, const ArrayLike& begin,
          const ArrayLike& length, const ArrayLike& finish) {
    const auto a = to_array<std::int32_t>(arena, "arena");
    const auto i = to_array<NodeId>(ids, "ids");
    const auto b = to_array<std::uint64_t>(begin, "begin");
    const auto l = to_array<std::uint32_t>(length, "length");
    const auto f = to_array<std::uint8_t>(finish, "finish");
    const auto owner = kept(a);
    locked(forest,
           [&] { forest.lend(span_of(a), owner, span_of(i), span_of(b), span_of(l), span_of(f)); });
}

void fail(Forest& forest, const ArrayLike& ids) {
    const auto i = to_array<NodeId>(ids, "ids");
    locked(forest, [&] { forest.fail(span_of(i)); });
}

void set_outcomes(Forest& forest, const ArrayLike& ids, const ArrayLike& outcomes) {
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

void register_constants(py::module_& m) {
    m.attr("NO_NODE") = kNoNode;
    m.attr("RESERVED") = static_cast<int>(State::kReserved);
    m.attr("DONE") = static_cast<int>(State::kDone);
    m.attr("FAILED") = static_cast<int>(State::kFailed);
    m.attr("FINISH_STOP") = static_cast<int>(Finish::kStop);
    m.attr("FINISH_LENGTH") = static_cast<int>(Finish::kLength);
    m.attr("UNGRADED") = kUngraded;
    m.attr("PAGE") = MappedFiles::kPage;
}

void define_changes(py::class_<Forest>& forest) {
    forest
        .def(
            "add_questions",
            [](Forest& self, std::size_t n) {
                return locked(self, [&] { return self.add_questions(n); });
            },
            "n"_a, "Add n questions (level 0, DONE, no tokens); return the id of the first.")
        .def("add_trees", &add_trees, "n"_a, "parents"_a,
             "Append n whole trees of one shape, reserved; return the id of the first question.\n"
             "\n"
             "parents [S]: the parent of each node as an index into parents, -1 for the question.\n"
             "Parents come before their children, siblings are consecutive. Tree t is the 1 + S\n"
             "nodes from its question on.")
        .def(
            "reserve", &reserve, "parents"_a, "counts"_a,
            "Reserve counts[i] >= 1 children under parents[i]; return the first id of each block.\n"
            "\n"
            "Blocks are laid out in the order of the arguments. A parent must be DONE, ungraded\n"
            "and without children.")
        .def(
            "complete", &complete, "ids"_a, "tokens"_a, "offsets"_a, "finish"_a,
            "Give reserved nodes their outputs, in any order: RESERVED -> DONE.\n"
            "\n"
            "ids [m]; tokens [t], of which ids[i] gets tokens[offsets[i]:offsets[i + 1]]; offsets\n"
            "[m + 1] from 0 to t; finish [m]: FINISH_STOP or FINISH_LENGTH.")
        .def("fail", &fail, "ids"_a, "Give up on reserved nodes: RESERVED -> FAILED.")
        .def("set_outcomes", &set_outcomes, "ids"_a, "outcomes"_a,
             "Grade leaves with 0 or 1; grading again replaces the outcome.")
        .def("lend", &lend, "arena"_a, "ids"_a, "begin"_a, "length"_a, "finish"_a,
             "Give reserved nodes outputs that lie in `arena` (int32), which is kept, not copied.\n"
             "\n"
             "ids[i] gets `arena[begin[i]:][:length[i]]` and finish[i]. The forest must have no\n"
             "tokens yet, and takes no others afterwards.");
}

void define_columns(py::class_<Forest>& forest) {
    forest
        .def_property_readonly("parent", &column<&Nodes::parent, NodeId>, "NO_NODE for a question.")
        .def_property_readonly("first_child", &column<&Nodes::first_child, NodeId>,
                               "NO_NODE for a node without children.")
        .def_property_readonly("n_children", &column<&Nodes::n_children, std::uint16_t>)
        .def_property_readonly("level", &column<&Nodes::level, std::uint8_t>,
                               "0 for a question, k for an output of the k-th role.")
        .def_property_readonly("state", &column<&Nodes::state, std::uint8_t>,
                               "RESERVED (waits for its output), DONE or FAILED.")
        .def_property_readonly("finish", &column<&Nodes::finish, std::uint8_t>,
                               "FINISH_STOP (sampled an end token) or FINISH_LENGTH.")
        .def_property_readonly("outcome", &column<&Nodes::outcome, std::uint8_t>,
                               "0, 1 or UNGRADED.")
        .def_property_readonly("token_begin", &column<&Nodes::token_begin, std::uint64_t>,
                               "Index into tokens.")
        .def_property_readonly("token_len", &column<&Nodes::token_len, std::uint32_t>)
        .def_property_readonly("tokens", &column<&Nodes::tokens, std::int32_t>,
                               "The arena: all outputs in order of completion, or the lent one.");
}

}  // namespace

void register_forest(py::module_& m) {
    register_constants(m);
    py::class_<Forest> forest(
        m, "Forest",
        "Questions and the outputs sampled under them, as columns; a node is its append\n"
        "position.\n"
        "\n"
        "Costs 26 bytes per node and 4 bytes per token of its own. Columns are read-only\n"
        "views: their length is fixed when they are taken, and they stay valid while the\n"
        "forest grows. Calls on one forest take turns.");
    forest.def(py::init<>())
        .def("__len__", [](Forest& self) { return locked(self, [&] { return self.size(); }); })
        .def("tokens_of", &tokens_of, "id"_a, "The node's own tokens, a view.")
        .def("roots", &roots, "[nodes]: the question each node belongs to.")
        .def_property_readonly(
            "tree_size",
            [](Forest& self) { return locked(self, [&] { return self.tree_size(); }); },
            "Nodes of each tree, its question included; 0 unless add_trees made all of them alike.")
        .def_property_readonly(
            "nbytes", [](Forest& self) { return locked(self, [&] { return self.nbytes(); }); },
            "Bytes used by nodes and by tokens of the forest's own.");
    define_changes(forest);
    define_columns(forest);
    m.def("map_files", &map_files, "paths"_a, "sizes"_a,
          "Map sizes[i] bytes of each file as one read-only array, which takes no memory until\n"
          "it is read.\n"
          "\n"
          "Each file begins at a multiple of PAGE bytes, after the last page of the one before.\n"
          "Raises OSError.");
}

}  // namespace malt::bindings
