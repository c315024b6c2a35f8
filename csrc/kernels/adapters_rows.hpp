// Some rows of adapters.hpp, compiled once per instruction set (adapters_rows.cpp).
#pragma once

#include <span>
#include <vector>

#include "kernels/adapters.hpp"

namespace malt {

constexpr std::size_t kAdapterRows = 6;  // at most in one call

// Rows of one adapter; `scratch` is memory that a thread reuses.
using RowsOfAdapter = void (*)(const Adapters& adapters, std::span<const std::int32_t> rows,
                               std::vector<float>& scratch);

namespace portable {
extern const RowsOfAdapter kRowsOfAdapter;
}
namespace avx2 {
extern const RowsOfAdapter kRowsOfAdapter;
}
namespace avx512 {
extern const RowsOfAdapter kRowsOfAdapter;
}

}  // namespace malt
