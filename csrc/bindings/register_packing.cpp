// Packs, block maps and bin packing: what turns sequences into training packs.
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/signatures.hpp"
#include "packing/binpack.hpp"
#include "packing/block_map.hpp"
#include "packing/tree_layout.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;
using Integers = py::array_t<std::int32_t>;

Packs lay_out_arrays(const ArrayLike& tokens, const ArrayLike& prompt_begin,
                     const ArrayLike& prompt_len, const ArrayLike& completion_begin,
                     const ArrayLike& completion_len, const ArrayLike& pairs,
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

Integers square(std::vector<std::int32_t>&& values, std::size_t n) {
    return hand_over(std::move(values)).reshape({n, n});
}

std::tuple<Integers, Integers, Integers, Integers> block_map_arrays(const ArrayLike& end,
                                                                    std::int64_t block) {
    const auto ends = to_array<std::int32_t>(end, "end");
    BlockMap map;
    {
        const py::gil_scoped_release release;
        map = block_map(span_of(ends), block);
    }
    const std::size_t n = map.count.size();
    return {hand_over(std::move(map.count)), square(std::move(map.index), n),
            hand_over(std::move(map.full_count)), square(std::move(map.full_index), n)};
}

Integers bins(const ArrayLike& sizes, std::int64_t capacity) {
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
    py::class_<Packs>(
        m, "Packs",
        "P packs of prefix trees, as columns; rows and ends count from the pack's start.\n"
        "\n"
        "Pack p has the inputs begin[p]:begin[p + 1] of token, position and end; the targets\n"
        "target_begin[p]:target_begin[p + 1] of row, target and owner; the sequences\n"
        "member_begin[p]:member_begin[p + 1] of member; the pairs link_begin[p]:link_begin[p\n"
        "+ 1] of link.")
        .def("__len__", [](const Packs& packs) { return packs.begin.size() - 1; })
        .def_property_readonly("begin", column(&Packs::begin))
        .def_property_readonly("token", column(&Packs::token))
        .def_property_readonly("position", column(&Packs::position),
                               "Counted from the root of the token's tree.")
        .def_property_readonly("end", column(&Packs::end),
                               "End of the subtree of the token's segment: row q sees row k when k "
                               "<= q < end[k].")
        .def_property_readonly("target_begin", column(&Packs::target_begin))
        .def_property_readonly("row", column(&Packs::row),
                               "The row that predicts `target`, a token of sequence `owner`.")
        .def_property_readonly("target", column(&Packs::target))
        .def_property_readonly("owner", column(&Packs::owner))
        .def_property_readonly("member_begin", column(&Packs::member_begin))
        .def_property_readonly("member", column(&Packs::member),
                               "Sequences of each pack, ascending.")
        .def_property_readonly("link_begin", column(&Packs::link_begin))
        .def_property_readonly("link", column(&Packs::link), "Pairs of each pack, ascending.");
    m.def("lay_out", &lay_out_arrays, "tokens"_a, "prompt_begin"_a, "prompt_len"_a,
          "completion_begin"_a, "completion_len"_a, "pairs"_a, "capacity"_a,
          "Lay sequences out as prefix trees, in packs of at most `capacity` tokens.\n"
          "\n"
          "Sequence i is the prompt `tokens[prompt_begin[i]:][:prompt_len[i]]` and its\n"
          "completion, given likewise; equal prompts are best given as the same slice. pairs [2\n"
          "L]: two sequences each, which then share a pack. The last token of a sequence is no\n"
          "input; every token of a completion is a target. A sequence is in one pack, or in\n"
          "several if its pairs do not fit in one. Raises ValueError for what fits in no pack.");
    m.def("block_map", &block_map_arrays, "end"_a, "block"_a,
          "(count [n], index [n, n], full_count [n], full_index [n, n]), n = ceil(N / block).\n"
          "\n"
          "Block i of queries sees part of the key blocks index[i, :count[i]] and the whole of\n"
          "full_index[i, :full_count[i]], ascending: the layout of FlexAttention.");
    m.def("best_fit_decreasing", &bins, "sizes"_a, "capacity"_a,
          "Bin of each item: in decreasing size, each goes into the fullest bin with room.\n"
          "\n"
          "Sizes are in 0..capacity.");
}

}  // namespace malt::bindings
