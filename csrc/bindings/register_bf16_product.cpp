// bf16_product on NumPy arrays, used where they lie, with any strides.
#include "kernels/bf16_product.hpp"

#include <pybind11/stl.h>

#include "bindings/arrays.hpp"
#include "bindings/signatures.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;
using Bits = ArrayOf<std::uint16_t>;

Bfloat16Matrix matrix_of(const Bits& array) {
    require(py::isinstance<py::array_t<std::uint16_t>>(array) && array.ndim() == 2,
            "a and b must be matrices of uint16, the bits of bfloat16");
    constexpr auto kSize = static_cast<py::ssize_t>(sizeof(std::uint16_t));
    return {
        .values = static_cast<const std::uint16_t*>(array.data()),
        .row_stride = array.strides(0) / kSize,
        .column_stride = array.strides(1) / kSize,
        .rows = static_cast<std::size_t>(array.shape(0)),
        .columns = static_cast<std::size_t>(array.shape(1)),
    };
}

void multiply(const ArrayOf<float>& out, const Bits& a, const Bits& b, bool add,
              std::string_view simd) {
    const Bfloat16Matrix left = matrix_of(a), right = matrix_of(b);
    constexpr auto kSize = static_cast<py::ssize_t>(sizeof(float));
    require(py::isinstance<py::array_t<float>>(out) && out.ndim() == 2 && out.writeable() &&
                (out.size() == 0 || out.strides(1) == kSize || out.shape(1) == 1) &&
                out.strides(0) >= 0,
            "out must be a writable matrix of float32 whose rows have no gaps");
    require(a.shape(1) == b.shape(0) && out.shape(0) == a.shape(0) && out.shape(1) == b.shape(1),
            "shapes must be a [m, k], b [k, n], out [m, n]");
    auto* sums = static_cast<float*>(const_cast<void*>(out.data()));
    const auto stride = static_cast<std::size_t>(out.strides(0) / kSize);
    const py::gil_scoped_release release;
    bf16_product(left, right, sums, stride, add, simd);
}

std::vector<std::string> level_names() {
    const auto levels = bf16_levels();
    return {levels.begin(), levels.end()};
}

}  // namespace

void register_bf16_product(py::module_& m) {
    m.def("bf16_levels", &level_names,
          "Instruction sets that multiply bfloat16 on this machine, best first, of \"amx\" and\n"
          "\"avx512bf16\"; none on most machines.");
    m.def("bf16_product", &multiply, "out"_a.noconvert(), "a"_a.noconvert(), "b"_a.noconvert(),
          py::kw_only(), "add"_a, "simd"_a = "",
          "out = a b, or out += a b: a [m, k] and b [k, n] are the bits of bfloat16, with any\n"
          "strides, and out [m, n] is float32, in which products are summed.\n"
          "simd: one of bf16_levels(), by default the best.");
}

}  // namespace malt::bindings
