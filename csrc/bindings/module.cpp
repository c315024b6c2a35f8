// The extension module malt_fast._core: one submodule per folder of csrc/, filled by one
// register_*.cpp per concern.
#include <pybind11/pybind11.h>

namespace malt::bindings {

void register_adapters(pybind11::module_& m);
void register_bf16_product(pybind11::module_& m);
void register_answers(pybind11::module_& m);
void register_attention(pybind11::module_& m);
void register_cached_attention(pybind11::module_& m);
void register_credit(pybind11::module_& m);
void register_dpo(pybind11::module_& m);
void register_forest(pybind11::module_& m);
void register_logprob(pybind11::module_& m);
void register_packing(pybind11::module_& m);

}  // namespace malt::bindings

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    using namespace malt::bindings;
    m.doc() =
        "The C++ core.\n"
        "\n"
        "Arrays go in as anything that NumPy turns into the right numbers without loss; an\n"
        "array of exactly that type is not copied. Columns come out as read-only views\n"
        "without a copy. Invalid input raises ValueError and changes nothing. The GIL is\n"
        "released while the core works.";
    m.attr("__version__") = MALT_VERSION;

    auto answers = m.def_submodule("answers", "Answers found in completions and compared.");
    register_answers(answers);

    auto forest = m.def_submodule("forest", "The forest, its credit, examples and pairs.");
    register_forest(forest);
    register_credit(forest);

    auto kernels = m.def_submodule(
        "kernels",
        "CPU kernels for log-probs, DPO and decoding; call those for training through\n"
        "malt_fast.kernels.");
    register_logprob(kernels);
    register_dpo(kernels);
    register_cached_attention(kernels);
    register_adapters(kernels);
    register_bf16_product(kernels);

    auto packing = m.def_submodule("packing", "Packs of prefix trees, and attention over them.");
    register_packing(packing);
    register_attention(packing);
}
