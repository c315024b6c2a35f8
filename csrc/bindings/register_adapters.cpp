// add_adapters on NumPy arrays, used where they lie.
#include <string>
#include <string_view>

#include "bindings/arrays.hpp"
#include "bindings/scalar.hpp"
#include "bindings/signatures.hpp"
#include "kernels/adapters.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;
using Values = ArrayOf<float, std::uint16_t>;  // 16-bit floats are given as their bits

template <class T>
bool is_plain(const py::array& array) {
    return py::isinstance<py::array_t<T, py::array::c_style>>(array);
}

void add(const Values& out, const Values& x, const Values& a, const Values& b,
         const ArrayLike& adapter, Scalar type, std::string_view simd) {
    for (const py::array* array : {&out, &x, &a, &b})
        require(
            type == Scalar::kFloat32 ? is_plain<float>(*array) : is_plain<std::uint16_t>(*array),
            "arrays must be contiguous, of float32, or uint16, the bits of 16-bit floats");
    require(x.ndim() == 2 && out.ndim() == 2 && a.ndim() == 3 && b.ndim() == 3 &&
                x.shape(0) == out.shape(0) && a.shape(0) == b.shape(0) &&
                x.shape(1) == a.shape(1) && a.shape(2) == b.shape(1) && b.shape(2) == out.shape(1),
            "shapes must be x [n, in], a [adapters, in, rank], b [adapters, rank, outputs], "
            "out [n, outputs]");
    require(out.writeable(), "out must be writable");
    const auto of_row = to_array<std::int32_t>(adapter, "adapter");
    require(of_row.size() == x.shape(0), "adapter must have one value per row");
    for (const std::int32_t k : span_of(of_row))
        require(k < a.shape(0), "adapter must be below the number of adapters");
    const Adapters adapters{
        .x = x.data(),
        .out = const_cast<void*>(out.data()),
        .a = a.data(),
        .b = b.data(),
        .type = type,
        .in = static_cast<std::size_t>(a.shape(1)),
        .rank = static_cast<std::size_t>(a.shape(2)),
        .outputs = static_cast<std::size_t>(b.shape(2)),
        .adapter = span_of(of_row),
    };
    const py::gil_scoped_release release;
    add_adapters(adapters, simd);
}

}  // namespace

void register_adapters(py::module_& m) {
    m.def(
        "add_adapters", &add, "out"_a.noconvert(), "x"_a.noconvert(), "a"_a.noconvert(),
        "b"_a.noconvert(), "adapter"_a, "type"_a, "simd"_a = "",
        "Add x[i] a[k] b[k] to out[i] where k = adapter[i], or nothing where that is below 0.\n"
        "\n"
        "x [n, in], a [adapters, in, rank], b [adapters, rank, outputs], out [n, outputs]; 16-bit\n"
        "floats are given as their bits, uint16. Arithmetic is float32.");
}

}  // namespace malt::bindings
