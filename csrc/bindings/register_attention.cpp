// tree_attention and its gradient on float32 arrays, used where they lie.
#include <string>
#include <string_view>

#include "bindings/arrays.hpp"
#include "bindings/signatures.hpp"
#include "packing/tree_attention.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;
using Array = py::array_t<float>;

// [heads, rows, width], the values of a row contiguous.
Heads heads_of(const Array& array, const char* name, const Array& like) {
    constexpr auto kBytes = static_cast<py::ssize_t>(sizeof(float));
    bool fits = array.ndim() == 3;
    for (py::ssize_t d = 0; fits && d < 3; ++d) fits = array.shape(d) == like.shape(d);
    for (py::ssize_t d = 0; fits && d < 3; ++d)
        fits = array.size() == 0 || (array.strides(d) % kBytes == 0 &&
                                     (d < 2 || array.shape(d) == 1 || array.strides(d) == kBytes));
    if (!fits)
        throw py::value_error(std::string(name) +
                              " must be [heads, rows, width] with contiguous rows");
    return {const_cast<float*>(array.data()), array.strides(0) / kBytes, array.strides(1) / kBytes};
}

float* log_sums_of(const Array& array, const Attention& attention) {
    const bool fits =
        py::isinstance<py::array_t<float, py::array::c_style>>(array) &&
        static_cast<std::size_t>(array.size()) == attention.heads * attention.end.size();
    if (!fits) throw py::value_error("log_sum must be [heads, rows], contiguous");
    return const_cast<float*>(array.data());
}

// `end` must outlive the result.
Attention attention_of(const Array& q, const Array& k, const Array& v,
                       const py::array_t<std::int32_t>& end, float scale, float softcap) {
    if (q.ndim() != 3 || k.ndim() != 3 || k.shape(0) == 0 || q.shape(0) % k.shape(0) != 0 ||
        q.shape(1) != k.shape(1) || q.shape(2) != k.shape(2))
        throw py::value_error("q must be [heads, rows, width] and k, v [heads / n, rows, width]");
    const auto ends = span_of(end);
    const auto rows = static_cast<std::int32_t>(ends.size());
    if (static_cast<py::ssize_t>(ends.size()) != q.shape(1))
        throw py::value_error("end must have one value per row");
    for (std::int32_t i = 0; i < rows; ++i) {
        const std::int32_t stop = ends[static_cast<std::size_t>(i)];
        if (stop <= i || stop > rows)
            throw py::value_error("end must hold the end of each row's subtree");
    }
    return {
        .q = heads_of(q, "q", q),
        .k = heads_of(k, "k", k),
        .v = heads_of(v, "v", k),
        .end = ends,
        .heads = static_cast<std::size_t>(q.shape(0)),
        .groups = static_cast<std::size_t>(k.shape(0)),
        .width = static_cast<std::size_t>(q.shape(2)),
        .scale = scale,
        .softcap = softcap,
    };
}

void attend(const Array& q, const Array& k, const Array& v, const ArrayLike& end, float scale,
            float softcap, const Array& out, const Array& log_sum, std::string_view simd) {
    const auto ends = to_array<std::int32_t>(end, "end");
    const Attention attention = attention_of(q, k, v, ends, scale, softcap);
    const Heads result = heads_of(out, "out", q);
    float* sums = log_sums_of(log_sum, attention);
    const py::gil_scoped_release release;
    tree_attention(attention, {result, sums}, simd);
}

void attend_gradient(const Array& q, const Array& k, const Array& v, const ArrayLike& end,
                     float scale, float softcap, const Array& out, const Array& log_sum,
                     const Array& grad, const Array& dq, const Array& dk, const Array& dv,
                     std::string_view simd) {
    const auto ends = to_array<std::int32_t>(end, "end");
    const Attention attention = attention_of(q, k, v, ends, scale, softcap);
    const Heads result = heads_of(out, "out", q), upstream = heads_of(grad, "grad", q);
    const Heads to_q = heads_of(dq, "dq", q), to_k = heads_of(dk, "dk", k);
    const Heads to_v = heads_of(dv, "dv", k);
    float* sums = log_sums_of(log_sum, attention);
    const py::gil_scoped_release release;
    tree_attention_gradient(attention, {result, sums}, upstream, {to_q, to_k, to_v}, simd);
}

}  // namespace

void register_attention(py::module_& m) {
    const auto exact = [](const char* name) { return py::arg(name).noconvert(); };
    m.def("tree_attention", &attend, exact("q"), exact("k"), exact("v"), "end"_a, "scale"_a,
          "softcap"_a, exact("out"), exact("log_sum"), "simd"_a = "",
          "Fill out [H, N, D] and log_sum [H, N] from q [H, N, D], k and v [G, N, D] (H % G == "
          "0).\n"
          "\n"
          "The D values of a row must be contiguous; other strides are free. softcap 0 means\n"
          "none. Formulas: csrc/packing/tree_attention.hpp.");
    m.def("tree_attention_gradient", &attend_gradient, exact("q"), exact("k"), exact("v"), "end"_a,
          "scale"_a, "softcap"_a, exact("out"), exact("log_sum"), exact("grad"), exact("dq"),
          exact("dk"), exact("dv"), "simd"_a = "",
          "Fill dq, dk and dv from the upstream gradient of `out`; shapes as in "
          "tree_attention().");
}

}  // namespace malt::bindings
