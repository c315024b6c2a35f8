// Products of bfloat16 matrices with float32 sums, by AMX or AVX512-BF16.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace malt {

// The bits of a bfloat16 matrix; strides count elements.
struct Bfloat16Matrix {
    const std::uint16_t* values;
    std::ptrdiff_t row_stride, column_stride;
    std::size_t rows, columns;
};

// The instruction sets that multiply bfloat16 on this machine, best first; none on most.
[[nodiscard]] std::span<const std::string_view> bf16_levels();

// out = a b, or out += a b if `add`; out [a.rows, b.columns], rows out_stride apart. Results do not
// depend on the number of threads. `simd`: one of bf16_levels(), or empty for the best; throws
// std::invalid_argument if there is none. The caller validates.
void bf16_product(const Bfloat16Matrix& a, const Bfloat16Matrix& b, float* out,
                  std::size_t out_stride, bool add, std::string_view simd);

}  // namespace malt
