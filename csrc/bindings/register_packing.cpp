// lay_out, block_map, best_fit_decreasing: what turns sequences into training packs.
#include <string>

#include "bindings/arrays.hpp"
#include "packing/binpack.hpp"
#include "packing/tree_layout.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;

Packs lay_out_arrays(const py::object& tokens, const py::object& prompt_begin,
                     const py::object& prompt_len, const py::object& completion_begin,
                     const py::object& completion_len, const py::object& pairs,
                     std::int64_t capacity) {
    const auto arena = to_array<std::int32_t>(tokens, "tokens");
    const auto p_begin = to_array<std::int64_t>(prompt_begin, "prompt_begin");
    const auto p_len = to_array<std::int32_t>(prompt_len, "prompt_len");
    const auto c_begin = to_array<std::int64_t>(completion_begin, "completion_begin");
    const auto c_len = to_array<std::int32_t>(completion_len, "completion_len");
    const auto links = to_array<std::int64_t>(pairs, "pairs");
    const Sequences sequences{span_of(arena), span_of(p_begin), span_of(p_len), span_of(c_begin),
                              span_of(c_len)};
    const py::gil_scoped_release release;
    return lay_out(sequences, span_of(links), capacity);
}

py::array_t<std::int32_t> square(std::vector<std::int32_t>&& values, std::size_t n) {
    return hand_over(std::move(values)).reshape({n, n});
}

py::tuple block_map_arrays(const py::object& end, std::int64_t block) {
    const auto ends = to_array<std::int32_t>(end, "end");
    BlockMap map;
    {
        const py::gil_scoped_release release;
        map = block_map(span_of(ends), block);
    }
    const std::size_t n = map.count.size();
    return py::make_tuple(hand_over(std::move(map.count)), square(std::move(map.index), n),
                          hand_over(std::move(map.full_count)),
                          square(std::move(map.full_index), n));
}

py::array_t<std::int32_t> bins(const py::object& sizes, std::int64_t capacity) {
    const auto items = to_array<std::int64_t>(sizes, "sizes");
    std::vector<std::int32_t> bin(static_cast<std::size_t>(items.size()));
    {
        const py::gil_scoped_release release;
        best_fit_decreasing(span_of(items), capacity, bin);
    }
    return hand_over(std::move(bin));
}

template <class T>
auto column(const std::vector<T> Packs::* member) {
    return [member](const py::object& self) {
        return view_of(std::span{self.cast<const Packs&>().*member}, self);
    };
}

}  // namespace

void register_packing(py::module_& m) {
    py::class_<Packs>(m, "Packs", "Packs of prefix trees, as columns.")
        .def("__len__", [](const Packs& packs) { return packs.begin.size() - 1; })
        .def_property_readonly("begin", column(&Packs::begin))
        .def_property_readonly("token", column(&Packs::token))
        .def_property_readonly("position", column(&Packs::position))
        .def_property_readonly("end", column(&Packs::end))
        .def_property_readonly("target_begin", column(&Packs::target_begin))
        .def_property_readonly("row", column(&Packs::row))
        .def_property_readonly("target", column(&Packs::target))
        .def_property_readonly("owner", column(&Packs::owner))
        .def_property_readonly("member_begin", column(&Packs::member_begin))
        .def_property_readonly("member", column(&Packs::member))
        .def_property_readonly("link_begin", column(&Packs::link_begin))
        .def_property_readonly("link", column(&Packs::link));
    m.def("lay_out", &lay_out_arrays, "tokens"_a, "prompt_begin"_a, "prompt_len"_a,
          "completion_begin"_a, "completion_len"_a, "pairs"_a, "capacity"_a);
    m.def("block_map", &block_map_arrays, "end"_a, "block"_a);
    m.def("best_fit_decreasing", &bins, "sizes"_a, "capacity"_a);
}

}  // namespace malt::bindings
