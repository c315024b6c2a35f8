// Answers: strings in, verdicts out.
#include <pybind11/stl.h>

#include <string>
#include <string_view>
#include <vector>

#include "answers/answers.hpp"
#include "answers/extraction.hpp"
#include "bindings/arrays.hpp"
#include "bindings/signatures.hpp"

namespace malt::bindings {
namespace {

struct StringSequence : py::sequence {
    using py::sequence::sequence;
};

}  // namespace
}  // namespace malt::bindings

namespace pybind11::detail {

template <>
struct handle_type_name<malt::bindings::StringSequence> {
    static constexpr auto name = const_name("collections.abc.Sequence[str]");
};

template <>
struct type_caster<malt::Grader>
    : malt::bindings::WordCaster<malt::Grader, "grader", "number", "math", "choice", "exact"> {
    static constexpr auto name = const_name("str");  // settings hold any string
};

}  // namespace pybind11::detail

namespace malt::bindings {
namespace {

using py::literals::operator""_a;

// Python strings as UTF-8; characters that cannot be encoded (lone surrogates) become question
// marks. Holds the strings: a sequence that makes its items on demand (a NumPy array) does not.
class Strings {
  public:
    Strings(const StringSequence& strings, const char* name) : strings_(strings) {
        views_.reserve(strings_.size());
        for (const py::handle item : strings_) {
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
    py::tuple strings_;
    std::vector<std::string_view> views_;
    std::vector<py::object> kept_;  // what was encoded in place of a string
};

py::array_t<std::uint8_t> compare(Grader grader, const StringSequence& golds,
                                  const StringSequence& answers) {
    const Strings gold(golds, "golds"), answer(answers, "answers");
    const std::size_t n = gold.views().size();
    if (answer.views().size() != n)
        throw py::value_error("golds and answers must have the same length");
    std::vector<std::uint8_t> verdicts(n);
    {
        const py::gil_scoped_release released;
        for (std::size_t i = 0; i < n; ++i)
            verdicts[i] = static_cast<std::uint8_t>(
                compare_answers(grader, gold.views()[i], answer.views()[i]));
    }
    return hand_over(std::move(verdicts));
}

py::typing::List<std::optional<std::string>> extract(Grader grader,
                                                     const StringSequence& completions, bool strict,
                                                     const StringSequence& questions) {
    const Strings texts(completions, "completions"), asked(questions, "questions");
    const auto& listing = asked.views();
    if (!listing.empty() && listing.size() != texts.views().size())
        throw py::value_error("completions and questions must have the same length");
    std::vector<std::optional<std::string>> found(texts.views().size());
    {
        const py::gil_scoped_release released;
        ChoiceTexts choices({});
        for (std::size_t i = 0; i < found.size(); ++i) {
            const bool same =
                i > 0 && !listing.empty() && listing[i].data() == listing[i - 1].data();
            if (grader == Grader::kChoice && !listing.empty() && !same)
                choices = ChoiceTexts(listing[i]);
            found[i] = extract_answer(grader, texts.views()[i], strict, choices);
        }
    }
    py::typing::List<std::optional<std::string>> out;
    for (const auto& answer : found)
        out.append(answer ? py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
                                answer->data(), static_cast<Py_ssize_t>(answer->size()), "replace"))
                          : py::object(py::none()));
    return out;
}

}  // namespace

void register_answers(py::module_& m) {
    m.def("compare_answers", &compare, "grader"_a, "golds"_a, "answers"_a,
          "Compare each answer with its gold answer.\n"
          "\n"
          "Returns [n]: 0 different, 1 equal, 2 undecided.");
    m.def("extract_answers", &extract, "grader"_a, "completions"_a, "strict"_a = false,
          "questions"_a = py::tuple(),
          "Find the answer that each completion gives; None where it gives none.\n"
          "\n"
          "strict: only behind a marker of a final answer; for the grader exact it makes no "
          "difference.\n"
          "questions: of the completions, or none; for the grader choice the text of a choice\n"
          "that its question lists stands for its letter.");
    m.def(
        "can_read", [](Grader grader, const std::string& gold) { return can_read(grader, gold); },
        "grader"_a, "gold"_a,
        "Whether the grader can read a gold answer, so that answers can be compared with it.");
}

}  // namespace malt::bindings
