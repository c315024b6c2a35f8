// dpo_losses and dpo_gradient: flat arrays in, new arrays out.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/signatures.hpp"
#include "kernels/dpo.hpp"

template <>
struct pybind11::detail::type_caster<malt::Preference>
    : malt::bindings::WordCaster<malt::Preference, "loss_type", "sigmoid", "hinge", "ipo"> {};

namespace malt::bindings {
namespace {

using py::literals::operator""_a;
using Floats = py::array_t<float>;
using Integers = py::array_t<std::int64_t>;

void check_size(py::ssize_t size, py::ssize_t wanted, const char* name) {
    if (size != wanted)
        throw py::value_error(std::string(name) + " must have " + std::to_string(wanted) +
                              " values, got " + std::to_string(size));
}

// [2 P] flat, every entry one of the completions.
std::span<const std::int64_t> checked_pairs(const Integers& pairs, py::ssize_t completions) {
    const auto values = span_of(pairs);
    if (values.size() % 2 != 0) throw py::value_error("pairs must come in twos");
    const auto last = static_cast<std::uint64_t>(completions - 1);
    std::uint64_t signs = 0;  // the highest bit says that a number or difference is negative
    for (const std::int64_t value : values) {
        const auto c = static_cast<std::uint64_t>(value);
        signs |= c | (last - c);
    }
    if (signs >> 63 != 0) {
        const auto [low, high] = std::ranges::minmax(values);
        throw py::value_error("pairs must be in [0, " + std::to_string(completions) + "), got " +
                              std::to_string(low) + " to " + std::to_string(high));
    }
    return values;
}

std::span<float> writable(Floats& array) {
    return {array.mutable_data(), static_cast<std::size_t>(array.size())};
}

std::tuple<Floats, Floats, Floats> dpo_losses(const ArrayLike& logp, const ArrayLike& ref_logp,
                                              const ArrayLike& pairs,
                                              const std::optional<ArrayLike>& lengths,
                                              Preference loss_type, double beta,
                                              double label_smoothing, double nll,
                                              std::string_view simd) {
    const auto policy = to_array<float>(logp, "logp");
    const auto reference = to_array<float>(ref_logp, "ref_logp");
    check_size(reference.size(), policy.size(), "ref_logp");
    const auto flat = to_array<std::int64_t>(pairs, "pairs");
    const auto entries = checked_pairs(flat, policy.size());
    const PreferenceRule rule{loss_type, beta, label_smoothing, nll};
    Integers length(0);
    if (rule.loss == Preference::kIpo) {
        if (!lengths) throw py::value_error("lengths must be given for loss_type ipo");
        length = to_array<std::int64_t>(*lengths, "lengths");
        check_size(length.size(), policy.size(), "lengths");
    }
    const auto count = static_cast<py::ssize_t>(entries.size() / 2);
    Floats loss(count), rewards({py::ssize_t{2}, count}), slopes({py::ssize_t{2}, count});
    const Completions completions{span_of(policy), span_of(reference), span_of(length)};
    const PairLosses out{writable(loss), writable(rewards), writable(slopes)};
    {
        const py::gil_scoped_release release;
        pair_losses(completions, entries, rule, out, simd);
    }
    return {std::move(loss), std::move(rewards), std::move(slopes)};
}

Floats dpo_gradient(const ArrayLike& grad, const ArrayLike& slopes, const ArrayLike& pairs,
                    py::ssize_t completions) {
    const auto upstream = to_array<float>(grad, "grad");
    const auto slope = to_array<float>(slopes, "slopes");
    const auto flat = to_array<std::int64_t>(pairs, "pairs");
    const auto entries = checked_pairs(flat, completions);
    check_size(2 * upstream.size(), flat.size(), "pairs");
    check_size(slope.size(), flat.size(), "slopes");
    Floats out(completions);
    const auto sums = writable(out);
    {
        const py::gil_scoped_release release;
        std::ranges::fill(sums, 0.0F);
        add_gradient(span_of(upstream), span_of(slope), entries, sums);
    }
    return out;
}

}  // namespace

void register_dpo(py::module_& m) {
    m.def("dpo_losses", &dpo_losses, "logp"_a, "ref_logp"_a, "pairs"_a, "lengths"_a, py::kw_only(),
          "loss_type"_a, "beta"_a, "label_smoothing"_a, "nll"_a, "simd"_a = "",
          "Losses [P], rewards [2, P] and slopes [2, P] of P pairs; row 0 chosen, row 1\n"
          "rejected.\n"
          "\n"
          "pairs [2 P]: chosen and rejected of each pair, as indices of completions; lengths:\n"
          "tokens of each completion, needed for \"ipo\". Formulas: csrc/kernels/dpo.hpp.\n"
          "simd: one of simd_levels(), by default the best.");
    m.def("dpo_gradient", &dpo_gradient, "grad"_a, "slopes"_a, "pairs"_a, "completions"_a,
          "d loss / d logp [completions]: slopes times the upstream grad [P], added in order.");
}

}  // namespace malt::bindings
