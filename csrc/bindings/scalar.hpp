// Scalar as one of three words.
#pragma once

#include "bindings/signatures.hpp"
#include "kernels/logprob.hpp"

template <>
struct pybind11::detail::type_caster<malt::Scalar>
    : malt::bindings::WordCaster<malt::Scalar, "type", "float32", "bfloat16", "float16"> {};
