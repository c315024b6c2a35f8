// NumPy arrays in and out: spans over the caller's memory, views of ours, vectors handed over.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace malt::bindings {

namespace py = pybind11;

inline void require(bool fits, const char* message) {
    if (!fits) throw py::value_error(message);
}

// `object` as a 1-D contiguous array of T: itself if it is one, else a copy whose values are equal.
// Raises ValueError (with the argument's name) for another shape, a fraction or an overflow.
template <class T>
py::array_t<T> to_array(const py::handle& object, const char* name) {
    using Array = py::array_t<T, py::array::c_style>;
    if (py::isinstance<Array>(object)) {
        auto array = py::reinterpret_borrow<Array>(object);
        if (array.ndim() == 1) return array;
    }
    const auto given = py::array::ensure(object);
    if (!given) PyErr_Clear();
    if (!given || given.ndim() != 1)
        throw py::value_error(std::string(name) + " must be a one-dimensional array");
    const auto cast = py::array_t<T, py::array::c_style | py::array::forcecast>::ensure(given);
    const py::object numpy = py::module_::import("numpy");
    const bool number = std::string("biuf").find(given.dtype().kind()) != std::string::npos;
    const bool same = number && (std::is_floating_point_v<T> || given.size() == 0 ||
                                 numpy.attr("array_equal")(given, cast).template cast<bool>());
    if (!same) {
        throw py::value_error(std::string(name) + " holds values that are not " +
                              py::str(py::dtype::of<T>()).template cast<std::string>());
    }
    return cast;
}

template <class T>
std::span<const T> span_of(const py::array_t<T>& array) {
    return {array.data(), static_cast<std::size_t>(array.size())};
}

// A read-only array over `values`, which `owner` keeps alive.
template <class T>
py::array_t<T> view_of(std::span<const T> values, const py::handle& owner) {
    py::array_t<T> array(static_cast<py::ssize_t>(values.size()), values.data(), owner);
    array.attr("setflags")(py::arg("write") = false);
    return array;
}

// An array that owns `values`.
template <class T>
py::array_t<T> hand_over(std::vector<T>&& values) {
    auto kept = std::make_unique<std::vector<T>>(std::move(values));
    const auto size = static_cast<py::ssize_t>(kept->size());
    T* data = kept->data();
    const py::capsule owner(kept.release(),
                            [](void* p) { delete static_cast<std::vector<T>*>(p); });
    return py::array_t<T>(size, data, owner);
}

}  // namespace malt::bindings
