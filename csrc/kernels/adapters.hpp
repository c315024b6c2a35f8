// What LoRA adapters add to the rows of a batch, each row having its own, on the CPU:
//
//     out[i] += (x[i] A[k]) B[k]   with k = adapter[i]
//
// Arithmetic is float32; results do not depend on the number of threads. The caller validates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/logprob.hpp"

namespace malt {

struct Adapters {
    const void* x;  // [n, in]
    void* out;      // [n, outputs]
    const void* a;  // [adapters, in, rank]
    const void* b;  // [adapters, rank, outputs]
    Scalar type;    // of all four
    std::size_t in, rank, outputs;
    std::span<const std::int32_t> adapter;  // [n]; below 0: none
};

void add_adapters(const Adapters& adapters, std::string_view simd);

}  // namespace malt
