// Answers: strings in, verdicts out.
#include <pybind11/stl.h>

#include <string>
#include <string_view>
#include <vector>

#include "answers/answers.hpp"
#include "answers/extraction.hpp"
#include "bindings/arrays.hpp"

namespace malt::bindings {
namespace {

using py::literals::operator""_a;

// UTF-8 of Python strings; what cannot be encoded (a lone surrogate) becomes a question mark.
class Strings {
  public:
    Strings(const py::sequence& strings, const char* name) {
        views_.reserve(strings.size());
        for (const py::handle item : strings) {
            if (!py::isinstance<py::str>(item))
                throw py::type_error(std::string(name) + " must hold strings");
            Py_ssize_t size = 0;
            const char* data = PyUnicode_AsUTF8AndSize(item.ptr(), &size);
            if (!data) {
                PyErr_Clear();
                kept_.push_back(py::reinterpret_steal<py::object>(
                    PyUnicode_AsEncodedString(item.ptr(), "utf-8", "replace")));
                if (!kept_.back()) throw py::error_already_set();
                data = PyBytes_AS_STRING(kept_.back().ptr());
                size = PyBytes_GET_SIZE(kept_.back().ptr());
            }
            views_.emplace_back(data, static_cast<std::size_t>(size));
        }
    }
    [[nodiscard]] const std::vector<std::string_view>& views() const { return views_; }

  private:
    std::vector<std::string_view> views_;
    std::vector<py::object> kept_;
};

Grader grader_of(const std::string& name) {
    if (name == "number") return Grader::kNumber;
    if (name == "math") return Grader::kMath;
    if (name == "choice") return Grader::kChoice;
    if (name == "exact") return Grader::kExact;
    throw py::value_error("there is no grader '" + name + "'");
}

py::array_t<std::uint8_t> compare(const std::string& name, const py::sequence& golds,
                                  const py::sequence& answers) {
    const Grader grader = grader_of(name);
    const Strings gold(golds, "golds"), answer(answers, "answers");
    const std::size_t n = gold.views().size();
    if (answer.views().size() != n) throw py::value_error("golds and answers differ in length");
    std::vector<std::uint8_t> verdicts(n);
    {
        const py::gil_scoped_release released;
        for (std::size_t i = 0; i < n; ++i)
            verdicts[i] = static_cast<std::uint8_t>(
                compare_answers(grader, gold.views()[i], answer.views()[i]));
    }
    return hand_over(std::move(verdicts));
}

py::list extract(const std::string& name, const py::sequence& completions) {
    const Grader grader = grader_of(name);
    const Strings texts(completions, "completions");
    std::vector<std::optional<std::string>> found(texts.views().size());
    {
        const py::gil_scoped_release released;
        for (std::size_t i = 0; i < found.size(); ++i)
            found[i] = extract_answer(grader, texts.views()[i]);
    }
    py::list out;
    for (const auto& answer : found)
        out.append(answer ? py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
                                answer->data(), static_cast<Py_ssize_t>(answer->size()), "replace"))
                          : py::object(py::none()));
    return out;
}

}  // namespace

void register_answers(py::module_& m) {
    m.def("compare_answers", &compare, "grader"_a, "golds"_a, "answers"_a,
          "uint8[n]: 0 different, 1 equal, 2 cannot tell; each answer against its gold.");
    m.def("extract_answers", &extract, "grader"_a, "completions"_a,
          "list[str | None]: the answer that each completion gives.");
    m.def(
        "can_read",
        [](const std::string& name, const std::string& gold) {
            return can_read(grader_of(name), gold);
        },
        "grader"_a, "gold"_a, "Is a gold answer one that others can be compared with?");
}

}  // namespace malt::bindings
