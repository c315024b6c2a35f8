// One row of logprob.hpp's operations, compiled once per instruction set (logprob_rows.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/logprob.hpp"

namespace malt {

struct Row {
    const void* in = nullptr;
    void* out = nullptr;  // fold: where weights go, or none; gradient: the result
    Scalar type = Scalar::kFloat32;
    Scalar out_type = Scalar::kFloat32;  // of weights
    std::size_t cols = 0;
    const float* bias = nullptr;  // of the first column
    float temperature = 1.0F;
    float softcap = 0.0F;
    std::int64_t first = 0;
    std::span<const std::int64_t> tokens;
};

struct RowSums {
    float offset;
    float total;
    float* weighted;      // one, or none
    float* target_logit;  // [tokens]
    std::span<float> residual;
};

struct RowUpstream {
    float log_total;
    const float* target;  // [tokens]
    float row;
};

struct Drawn {
    std::int64_t token;
    float logprob;
};

struct RowKernels {
    void (*fold)(const Row& row, RowSums& sums);
    void (*gradient)(const Row& row, const RowUpstream& upstream);
    Drawn (*draw)(const Row& row, double uniform);
};

namespace portable {
extern const RowKernels kRowKernels;
Drawn draw_row(const Row& row, double uniform);  // in draw_rows.cpp
}  // namespace portable
namespace avx2 {
extern const RowKernels kRowKernels;
Drawn draw_row(const Row& row, double uniform);
}  // namespace avx2
namespace avx512 {
extern const RowKernels kRowKernels;
Drawn draw_row(const Row& row, double uniform);
}  // namespace avx512

}  // namespace malt
