// fold_rows, gradient_rows and draw_rows: tiles of logits in NumPy arrays, used where they lie.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/scalar.hpp"
#include "bindings/signatures.hpp"
#include "kernels/levels.hpp"
#include "kernels/logprob.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;
using Floats = ArrayOf<float>;
using OptionalFloats = std::optional<Floats>;
using Integers = ArrayOf<std::int64_t>;
using TileArray = ArrayOf<float, std::uint16_t>;  // 16-bit floats are given as their bits

[[noreturn]] void refuse(const char* name, const std::string& wanted) {
    throw py::value_error(std::string(name) + " must be " + wanted);
}

// The values of a C-contiguous array of T with `size` elements; no copy is ever made.
template <class T>
T* values_of(const py::array& array, const char* name, std::size_t size) {
    const bool fits = py::isinstance<py::array_t<T, py::array::c_style>>(array) &&
                      static_cast<std::size_t>(array.size()) == size;
    if (!fits)
        refuse(name, "a contiguous array of " + std::to_string(size) + " " +
                         py::str(py::dtype::of<T>()).template cast<std::string>());
    return static_cast<T*>(const_cast<void*>(array.data()));
}

template <class T>
T* writable(const py::array& array, const char* name, std::size_t size) {
    if (!array.writeable()) refuse(name, "writable");
    return values_of<T>(array, name, size);
}

float* optional_values(const OptionalFloats& array, const char* name, std::size_t size) {
    return array ? values_of<float>(*array, name, size) : nullptr;
}

void check_tile_type(const py::array& array, Scalar type) {
    const bool half = type != Scalar::kFloat32;
    const bool fits = half ? py::isinstance<py::array_t<std::uint16_t>>(array)
                           : py::isinstance<py::array_t<float>>(array);
    if (!fits) refuse("tile", half ? "of uint16, the bits of 16-bit floats" : "of float32");
}

Tile tile_of(const TileArray& array, Scalar type, std::int64_t first) {
    check_tile_type(array, type);
    const auto bytes = static_cast<py::ssize_t>(bytes_of(type));
    const bool rows = array.ndim() == 2 && (array.strides(1) == bytes || array.shape(1) <= 1) &&
                      array.strides(0) >= 0 && array.strides(0) % bytes == 0;
    const bool empty = array.ndim() == 2 && array.size() == 0;  // has any strides
    if (!rows && !empty) refuse("tile", "[rows, columns] with contiguous rows");
    if (first < 0) refuse("first", "the vocabulary index of the tile's first column");
    return {
        .data = const_cast<void*>(array.data()),
        .type = type,
        .rows = static_cast<std::size_t>(array.shape(0)),
        .cols = static_cast<std::size_t>(array.shape(1)),
        .stride = static_cast<std::size_t>(array.strides(0) / bytes),
        .first = first,
    };
}

Transform transform_of(const Tile& tile, const OptionalFloats& bias,
                       const OptionalFloats& temperature, float softcap) {
    const float* bias_values = nullptr;
    if (bias) {
        const auto size = static_cast<std::size_t>(bias->size());
        bias_values = values_of<float>(*bias, "bias", size);
        if (static_cast<std::size_t>(tile.first) + tile.cols > size)
            refuse("bias", "as long as the vocabulary");
    }
    return {bias_values, optional_values(temperature, "temperature", tile.rows), softcap};
}

// `start` may be a part of a longer one: its first and last entries bound what is used of `token`.
Targets targets_of(const Tile& tile, const Integers& start, const Integers& token) {
    const auto* begin = values_of<std::int64_t>(start, "start", tile.rows + 1);
    const auto size = static_cast<std::size_t>(token.size());
    const auto* values = values_of<std::int64_t>(token, "token", size);
    bool ascending = begin[0] >= 0 && begin[tile.rows] <= static_cast<std::int64_t>(size);
    for (std::size_t r = 0; r < tile.rows; ++r) ascending = ascending && begin[r] <= begin[r + 1];
    if (!ascending) refuse("start", "ascending, within token");
    return {begin, values};
}

void fold_rows(const TileArray& tile_array, Scalar type, std::int64_t first,
               const OptionalFloats& bias, const OptionalFloats& temperature, float softcap,
               const Integers& start, const Integers& token, const Floats& offset,
               const Floats& total, const OptionalFloats& weighted, const Floats& target_logit,
               const OptionalFloats& residual, const std::optional<TileArray>& weights,
               std::string_view simd) {
    const Tile tile = tile_of(tile_array, type, first);
    Tile to;
    if (weights) {
        const bool wide = py::isinstance<py::array_t<float>>(*weights);
        to = tile_of(*weights, wide ? Scalar::kFloat32 : Scalar::kBfloat16, first);
        if (!weights->writeable() || to.rows != tile.rows || to.cols != tile.cols)
            refuse("weights", "writable and of the tile's shape");
    }
    const Transform transform = transform_of(tile, bias, temperature, softcap);
    const Targets targets = targets_of(tile, start, token);
    Running running{
        .offset = writable<float>(offset, "offset", tile.rows),
        .total = writable<float>(total, "total", tile.rows),
        .target_logit =
            writable<float>(target_logit, "target_logit", static_cast<std::size_t>(token.size())),
    };
    if (weighted) running.weighted = writable<float>(*weighted, "weighted", tile.rows);
    if (residual) {
        const auto size = static_cast<std::size_t>(residual->size());
        running.residual = writable<float>(*residual, "residual", size);
        running.width = tile.rows == 0 ? 0 : size / tile.rows;
        if (running.width * tile.rows != size) refuse("residual", "[rows, width]");
    }
    const py::gil_scoped_release release;
    fold(tile, transform, targets, running, weights ? &to : nullptr, simd);
}

void gradient_rows(const TileArray& tile_array, const TileArray& out_array, Scalar type,
                   std::int64_t first, const OptionalFloats& bias,
                   const OptionalFloats& temperature, float softcap, const Integers& start,
                   const Integers& token, const Floats& log_total, const Floats& grad_target,
                   const Floats& grad_row, std::string_view simd) {
    const Tile tile = tile_of(tile_array, type, first);
    const Tile out = tile_of(out_array, type, first);
    if (!out_array.writeable() || out.rows != tile.rows || out.cols != tile.cols)
        refuse("out", "writable and of the tile's shape");
    const Transform transform = transform_of(tile, bias, temperature, softcap);
    const Targets targets = targets_of(tile, start, token);
    const Upstream upstream{
        .log_total = values_of<float>(log_total, "log_total", tile.rows),
        .target =
            values_of<float>(grad_target, "grad_target", static_cast<std::size_t>(token.size())),
        .row = values_of<float>(grad_row, "grad_row", tile.rows),
    };
    const py::gil_scoped_release release;
    gradient(tile, out, transform, targets, upstream, simd);
}

using Drawn = std::tuple<py::array_t<std::int64_t>, py::array_t<float>>;

Drawn draw_rows(const TileArray& tile_array, Scalar type, const Floats& temperature,
                const ArrayOf<double>& uniform, std::string_view simd) {
    const Tile tile = tile_of(tile_array, type, 0);
    if (tile.rows > 0 && tile.cols == 0) refuse("tile", "of one column or more");
    const std::span degrees(values_of<float>(temperature, "temperature", tile.rows), tile.rows);
    const std::span points(values_of<double>(uniform, "uniform", tile.rows), tile.rows);
    if (!std::ranges::all_of(degrees, [](float t) { return t >= 0 && std::isfinite(t); }))
        refuse("temperature", "0 or more, and finite");
    if (!std::ranges::all_of(points, [](double u) { return 0 <= u && u < 1; }))
        refuse("uniform", "in [0, 1)");
    py::array_t<std::int64_t> token(tile_array.shape(0));
    py::array_t<float> logprob(tile_array.shape(0));
    const Draws draws{degrees.data(), points.data(), token.mutable_data(), logprob.mutable_data()};
    {
        const py::gil_scoped_release release;
        draw(tile, draws, simd);
    }
    return {std::move(token), std::move(logprob)};
}

std::vector<std::string> simd_names() {
    const auto levels = simd_levels();
    return {levels.begin(), levels.end()};
}

}  // namespace

void register_logprob(py::module_& m) {
    m.def(
        "fold_rows", &fold_rows, "tile"_a.noconvert(), "type"_a, "first"_a, py::kw_only(),
        "bias"_a.none(true), "temperature"_a.none(true), "softcap"_a, "start"_a, "token"_a,
        "offset"_a, "total"_a, "weighted"_a.none(true), "target_logit"_a, "residual"_a.none(true),
        "weights"_a.none(true), "simd"_a = "",
        "Fold a tile [rows, n] of raw logits into the running softmax of its rows, in "
        "place.\n"
        "\n"
        "16-bit floats are given as their bits, uint16. Arrays are used where they lie:\n"
        "another dtype or a gap in one raises ValueError. simd: one of simd_levels(), by\n"
        "default the best. Formulas: csrc/kernels/logprob.hpp. weights [rows, n]: float32, maybe\n"
        "the tile itself, or bits of bfloat16.");
    m.def("gradient_rows", &gradient_rows, "tile"_a.noconvert(), "out"_a.noconvert(), "type"_a,
          "first"_a, py::kw_only(), "bias"_a.none(true), "temperature"_a.none(true), "softcap"_a,
          "start"_a, "token"_a, "log_total"_a, "grad_target"_a, "grad_row"_a, "simd"_a = "",
          "Turn a tile of raw logits into d(sum g logp) / d raw; `out` may be the tile "
          "itself.\n"
          "\n"
          "Otherwise as fold_rows().");
    m.def("draw_rows", &draw_rows, "tile"_a.noconvert(), "type"_a, "temperature"_a, "uniform"_a,
          "simd"_a = "",
          "A token [rows] drawn from softmax(row / temperature) of each row of a tile of logits,\n"
          "and its log-prob [rows] under softmax(row).\n"
          "\n"
          "The draw inverts the distribution function at uniform, float64 [rows]; temperature,\n"
          "float32 [rows], may be 0: the first of the largest logits. Otherwise as fold_rows().");
    m.def("simd_levels", &simd_names,
          "Instruction sets that this machine runs, best first: \"avx512\", \"avx2\", "
          "\"portable\".");
}

}  // namespace malt::bindings
