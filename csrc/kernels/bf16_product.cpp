// Matrices are packed into panels of pairs along the summed dimension, which is what one
// instruction multiplies: 12 rows of a against 32 columns of b, whose 24 sums stay in registers
// throughout.
#include "kernels/bf16_product.hpp"

#ifdef MALT_X86
#include <immintrin.h>

#include <algorithm>
#include <vector>

namespace malt {
namespace {

constexpr std::size_t kRows = 12, kColumns = 32;
constexpr std::size_t kPanels = 20;  // of rows, that a thread multiplies with a packed panel of b

using Pairs = std::vector<std::uint32_t>;

// Pack `count` lines of pairs from line `first` on into a panel of `width` lines, the rest zero:
// pair p of line j is at p * width + j. A line's step is `line`, a pair's elements `along` apart.
void pack(const std::uint16_t* from, std::ptrdiff_t line, std::ptrdiff_t along, std::size_t count,
          std::size_t length, std::size_t width, std::uint32_t* to) {
    const std::size_t pairs = length / 2;
    if (count < width) std::fill(to, to + (length + 1) / 2 * width, 0U);
    for (std::size_t p = 0; p < pairs; ++p) {
        const std::uint16_t* low = from + static_cast<std::ptrdiff_t>(2 * p) * along;
        const std::uint16_t* high = low + along;
        for (std::size_t j = 0; j < count; ++j) {
            const auto at = static_cast<std::ptrdiff_t>(j) * line;
            to[p * width + j] = low[at] | static_cast<std::uint32_t>(high[at]) << 16;
        }
    }
    if (length % 2 != 0) {
        const std::uint16_t* last = from + static_cast<std::ptrdiff_t>(length - 1) * along;
        for (std::size_t j = 0; j < width; ++j)
            to[pairs * width + j] = j < count ? last[static_cast<std::ptrdiff_t>(j) * line] : 0U;
    }
}

__attribute__((target("avx512f,avx512bf16"))) void multiply_panels(
    const std::uint32_t* a, const std::uint32_t* b, std::size_t pairs, float* out,
    std::size_t out_stride, std::size_t rows, std::size_t columns, bool add) {
    const auto mask = [&](std::size_t half) {
        const std::size_t left = columns > 16 * half ? columns - 16 * half : 0;
        return static_cast<__mmask16>(left >= 16 ? 0xffffU : (1U << left) - 1U);
    };
    const __mmask16 masks[2] = {mask(0), mask(1)};
    __m512 sums[kRows][2];
#pragma GCC unroll 12
    for (std::size_t i = 0; i < kRows; ++i)
        for (std::size_t half = 0; half < 2; ++half)
            sums[i][half] = add && i < rows ? _mm512_maskz_loadu_ps(
                                                  masks[half], out + i * out_stride + 16 * half)
                                            : _mm512_setzero_ps();
    for (std::size_t p = 0; p < pairs; ++p) {
        const auto left = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + p * kColumns));
        const auto right = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + p * kColumns + 16));
#pragma GCC unroll 12
        for (std::size_t i = 0; i < kRows; ++i) {
            const auto pair =
                reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a[p * kRows + i])));
            sums[i][0] = _mm512_dpbf16_ps(sums[i][0], pair, left);
            sums[i][1] = _mm512_dpbf16_ps(sums[i][1], pair, right);
        }
    }
#pragma GCC unroll 12
    for (std::size_t i = 0; i < kRows; ++i)
        for (std::size_t half = 0; half < 2; ++half)
            if (i < rows)
                _mm512_mask_storeu_ps(out + i * out_stride + 16 * half, masks[half], sums[i][half]);
}

}  // namespace

bool has_bf16_products() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16");
}

void bf16_product(const Bfloat16Matrix& a, const Bfloat16Matrix& b, float* out,
                  std::size_t out_stride, bool add) {
    const std::size_t length = a.columns, pairs = (length + 1) / 2;
    const std::size_t row_panels = (a.rows + kRows - 1) / kRows;
    const std::size_t column_panels = (b.columns + kColumns - 1) / kColumns;
    const std::size_t blocks = (row_panels + kPanels - 1) / kPanels;
    Pairs packed(row_panels * pairs * kRows);
    const auto panels = static_cast<std::ptrdiff_t>(row_panels);
    const auto tasks = static_cast<std::ptrdiff_t>(column_panels * blocks);
#pragma omp parallel
    {
#pragma omp for
        for (std::ptrdiff_t i = 0; i < panels; ++i) {
            const std::size_t row = static_cast<std::size_t>(i) * kRows;
            pack(a.values + static_cast<std::ptrdiff_t>(row) * a.row_stride, a.row_stride,
                 a.column_stride, std::min(kRows, a.rows - row), length, kRows,
                 packed.data() + static_cast<std::size_t>(i) * pairs * kRows);
        }
        Pairs panel(pairs * kColumns);
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t task = 0; task < tasks; ++task) {
            const std::size_t column = static_cast<std::size_t>(task) / blocks * kColumns;
            const std::size_t begin = static_cast<std::size_t>(task) % blocks * kPanels;
            const std::size_t columns = std::min(kColumns, b.columns - column);
            pack(b.values + static_cast<std::ptrdiff_t>(column) * b.column_stride, b.column_stride,
                 b.row_stride, columns, length, kColumns, panel.data());
            for (std::size_t i = begin; i < std::min(begin + kPanels, row_panels); ++i)
                multiply_panels(packed.data() + i * pairs * kRows, panel.data(), pairs,
                                out + i * kRows * out_stride + column, out_stride,
                                std::min(kRows, a.rows - i * kRows), columns, add);
        }
    }
}

}  // namespace malt

#else

namespace malt {

bool has_bf16_products() {
    return false;
}

void bf16_product(const Bfloat16Matrix&, const Bfloat16Matrix&, float*, std::size_t, bool) {}

}  // namespace malt

#endif
