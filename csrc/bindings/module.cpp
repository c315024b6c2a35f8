// The extension module malt_fast._core: one register_*.cpp per concern.
#include <pybind11/pybind11.h>

namespace malt::bindings {

void register_answers(pybind11::module_& m);
void register_dpo(pybind11::module_& m);
void register_forest(pybind11::module_& m);
void register_logprob(pybind11::module_& m);
void register_packing(pybind11::module_& m);
void register_preferences(pybind11::module_& m);
void register_tree_attention(pybind11::module_& m);

}  // namespace malt::bindings

PYBIND11_MODULE(_core, m, pybind11::mod_gil_not_used()) {
    m.doc() =
        "C++ core of malt_fast: the forest, its credit, examples and pairs; packs; answers; CPU "
        "kernels.";
    m.attr("__version__") = MALT_VERSION;
    malt::bindings::register_answers(m);
    malt::bindings::register_dpo(m);
    malt::bindings::register_forest(m);
    malt::bindings::register_logprob(m);
    malt::bindings::register_packing(m);
    malt::bindings::register_preferences(m);
    malt::bindings::register_tree_attention(m);
}
