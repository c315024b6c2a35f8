// cached_attention on NumPy arrays, used where they lie.
#include <string>
#include <string_view>

#include "bindings/arrays.hpp"
#include "bindings/scalar.hpp"
#include "bindings/signatures.hpp"
#include "kernels/cached_attention.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;
using Floats = ArrayOf<float>;
using CacheArray = ArrayOf<float, std::uint16_t>;  // 16-bit floats are given as their bits

Cached cached_of(const py::array& array, Scalar type) {
    const bool half = type != Scalar::kFloat32;
    const bool right = half ? py::isinstance<py::array_t<std::uint16_t>>(array)
                            : py::isinstance<py::array_t<float>>(array);
    require(right, "keys and values must be float32, or uint16, the bits of 16-bit floats");
    require(array.ndim() == 4, "keys and values must be [slots, groups, columns, width]");
    const auto bytes = static_cast<py::ssize_t>(bytes_of(type));
    for (py::ssize_t d = 0; d < 4 && array.size() > 0; ++d)
        require(array.strides(d) % bytes == 0 &&
                    (d < 3 || array.shape(d) == 1 || array.strides(d) == bytes),
                "the keys or values of a column must be contiguous");
    return {array.data(), array.strides(0) / bytes, array.strides(1) / bytes,
            array.strides(2) / bytes, static_cast<std::size_t>(array.shape(3))};
}

float* values_of(const py::array& array, py::ssize_t rows, py::ssize_t heads, py::ssize_t width) {
    const bool fits = py::isinstance<py::array_t<float, py::array::c_style>>(array) &&
                      array.ndim() == 3 && array.shape(0) == rows && array.shape(1) == heads &&
                      array.shape(2) == width;
    require(fits, "q and out must be contiguous float32 [rows, heads, width]");
    return static_cast<float*>(const_cast<void*>(array.data()));
}

// Each of `values` must be in 0 .. stop - 1.
std::span<const std::int32_t> checked(const py::array_t<std::int32_t>& values, py::ssize_t rows,
                                      py::ssize_t stop, const char* message) {
    const auto span = span_of(values);
    require(values.size() == rows, "slot, end, lead and shared must have one value per row");
    for (const std::int32_t value : span) require(value >= 0 && value < stop, message);
    return span;
}

void attend(const Floats& q, const CacheArray& keys, const CacheArray& values, Scalar type,
            const ArrayLike& slot, const ArrayLike& end, const ArrayLike& lead,
            const ArrayLike& shared, float scale, float softcap, std::int32_t window,
            const Floats& out, std::string_view simd) {
    const Cached k = cached_of(keys, type), v = cached_of(values, type);
    require(q.ndim() == 3 && keys.shape(1) > 0 && q.shape(1) % keys.shape(1) == 0,
            "q must be [rows, heads, width], heads a multiple of groups");
    for (py::ssize_t d = 0; d < 3; ++d)
        require(keys.shape(d) == values.shape(d), "keys and values must have the same columns");
    require(window >= 0, "window must be 0 for none, or a number of columns");
    require(out.writeable(), "out must be writable");
    const py::ssize_t rows = q.shape(0), heads = q.shape(1);
    const auto slots = to_array<std::int32_t>(slot, "slot");
    const auto ends = to_array<std::int32_t>(end, "end");
    const auto leads = to_array<std::int32_t>(lead, "lead");
    const auto parts = to_array<std::int32_t>(shared, "shared");
    const CachedAttention attention{
        .q = values_of(q, rows, heads, keys.shape(3)),
        .out = values_of(out, rows, heads, values.shape(3)),
        .keys = k,
        .values = v,
        .type = type,
        .heads = static_cast<std::size_t>(heads),
        .groups = static_cast<std::size_t>(keys.shape(1)),
        .slot = checked(slots, rows, keys.shape(0), "slot must be one of the cache"),
        .end = checked(ends, rows, keys.shape(2) + 1, "end must be within the columns"),
        .lead = checked(leads, rows, keys.shape(0), "lead must be a slot of the cache"),
        .shared = checked(parts, rows, keys.shape(2) + 1, "shared must be within the columns"),
        .window = window,
        .scale = scale,
        .softcap = softcap,
    };
    for (std::size_t i = 0; i < attention.end.size(); ++i)
        require(attention.shared[i] <= attention.end[i], "shared must not exceed end");
    const py::gil_scoped_release release;
    if (attention.heads > 0) cached_attention(attention, simd);
}

}  // namespace

void register_cached_attention(py::module_& m) {
    m.def("cached_attention", &attend, "q"_a.noconvert(), "keys"_a.noconvert(),
          "values"_a.noconvert(), "type"_a, "slot"_a, "end"_a, "lead"_a, "shared"_a, py::kw_only(),
          "scale"_a, "softcap"_a = 0.0F, "window"_a = 0, "out"_a.noconvert(), "simd"_a = "",
          "Fill out [n, H, E]: one query token per row, q [n, H, D], over cached keys [S, G, C,\n"
          "D] and values [S, G, C, E], H a multiple of G.\n"
          "\n"
          "Row i sees the columns below end[i] of slot[i], or the last `window` of them. Its\n"
          "first shared[i] are read from lead[i] instead, once for all rows with the same two.\n"
          "16-bit floats are given as their bits, uint16. softcap and window: 0 means none.\n"
          "Formulas: csrc/kernels/cached_attention.hpp.");
}

}  // namespace malt::bindings
