// Products of bfloat16 matrices with float32 sums, by AVX512-BF16.
#pragma once

#include <cstddef>
#include <cstdint>

namespace malt {

// The bits of a bfloat16 matrix; strides count elements.
struct Bfloat16Matrix {
    const std::uint16_t* values;
    std::ptrdiff_t row_stride, column_stride;
    std::size_t rows, columns;
};

// Whether this machine has the instructions.
[[nodiscard]] bool has_bf16_products();

// out = a b, or out += a b if `add`; out [a.rows, b.columns], rows out_stride apart. Results do not
// depend on the number of threads. The caller validates, also that the machine has the
// instructions.
void bf16_product(const Bfloat16Matrix& a, const Bfloat16Matrix& b, float* out,
                  std::size_t out_stride, bool add);

}  // namespace malt
