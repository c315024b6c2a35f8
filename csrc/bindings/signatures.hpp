// Argument types that make the signatures of functions, and so the type stubs, precise.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <cstdint>
#include <string>

namespace malt::bindings {

namespace py = pybind11;

// Anything that NumPy turns into an array; to_array() reads it.
struct ArrayLike : py::object {
    using py::object::object;
    static bool check_(py::handle) { return true; }
};

// An array that is used where it lies: its elements must have one of these types already. The
// function that takes it checks that, for a message with the argument's name.
template <class... T>
struct ArrayOf : py::array {
    using py::array::array;
};

template <py::typing::StringLiteral Word>
consteval auto quoted() {
    char text[sizeof(Word.name) + 2];
    text[0] = '"';
    std::copy_n(Word.name, sizeof(Word.name) - 1, text + 1);
    text[sizeof(Word.name)] = '"';
    text[sizeof(Word.name) + 1] = '\0';
    return py::typing::StringLiteral(text);
}

// An enum that Python gives as one of `Words`, which are in the order of its values. Derive
// pybind11's caster from it.
template <class Enum, py::typing::StringLiteral Name, py::typing::StringLiteral... Words>
struct WordCaster {
    using Literal = py::typing::Literal<quoted<Words>()...>;
    PYBIND11_TYPE_CASTER(Enum, py::detail::handle_type_name<Literal>::name);

    bool load(py::handle source, bool /*convert*/) {
        if (!py::isinstance<py::str>(source)) return false;
        const auto given = source.cast<std::string>();
        std::uint8_t index = 0;
        std::string all;
        for (const char* word : {Words.name...}) {
            if (given == word) {
                value = Enum{index};
                return true;
            }
            all.append(index++ ? ", " : "").append(word);
        }
        throw py::value_error(std::string(Name.name) + " must be one of: " + all);
    }
};

}  // namespace malt::bindings

namespace pybind11::detail {

template <>
struct handle_type_name<malt::bindings::ArrayLike> {
    static constexpr auto name = const_name("numpy.typing.ArrayLike");
};

template <class... T>
struct handle_type_name<malt::bindings::ArrayOf<T...>> {
    static constexpr auto name = union_concat((
        const_name("numpy.typing.NDArray[") + npy_format_descriptor<T>::name + const_name("]"))...);
};

}  // namespace pybind11::detail
