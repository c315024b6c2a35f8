// Chooses the instruction set and spreads the rows of adapters over threads.
#include "kernels/adapters.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/adapters_rows.hpp"
#include "kernels/levels.hpp"

namespace malt {

void add_adapters(const Adapters& adapters, std::string_view simd) {
    const RowsOfAdapter kernel = MALT_OF_LEVEL(simd, kRowsOfAdapter);
    const auto adapter_of = [&](std::int32_t row) {
        return adapters.adapter[static_cast<std::size_t>(row)];
    };
    std::vector<std::int32_t> rows(adapters.adapter.size());
    std::iota(rows.begin(), rows.end(), 0);
    std::erase_if(rows, [&](std::int32_t row) { return adapter_of(row) < 0; });
    std::ranges::stable_sort(rows, {}, adapter_of);
    // Up to kAdapterRows rows of an adapter are one unit of work.
    std::vector<std::span<const std::int32_t>> units;
    for (std::size_t i = 0, n = 0; i < rows.size(); i += n) {
        n = 1;
        while (n < kAdapterRows && i + n < rows.size() &&
               adapter_of(rows[i + n]) == adapter_of(rows[i]))
            ++n;
        units.push_back(std::span(rows).subspan(i, n));
    }
    const auto n = static_cast<std::ptrdiff_t>(units.size());
#pragma omp parallel
    {
        std::vector<float> scratch;
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t i = 0; i < n; ++i)
            kernel(adapters, units[static_cast<std::size_t>(i)], scratch);
    }
}

}  // namespace malt
