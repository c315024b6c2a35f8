// Chooses the instruction set and spreads rows and key heads over threads.
#include "kernels/cached_attention.hpp"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels/cached_attention_rows.hpp"
#include "kernels/levels.hpp"

namespace malt {
namespace {

constexpr std::size_t kQueries = 48;  // that read shared columns together

}  // namespace

void cached_attention(const CachedAttention& attention, std::string_view simd) {
    const RowsAttention kernel = MALT_OF_LEVEL(simd, kRowsAttention);
    const auto &lead = attention.lead, &shared = attention.shared;
    std::vector<std::int32_t> rows(attention.slot.size());
    std::iota(rows.begin(), rows.end(), 0);
    const auto at = [](std::int32_t row) { return static_cast<std::size_t>(row); };
    std::ranges::stable_sort(
        rows, {}, [&](std::int32_t row) { return std::pair(lead[at(row)], shared[at(row)]); });
    // Runs of rows that read together.
    const std::size_t most =
        std::max<std::size_t>(1, kQueries * attention.groups / attention.heads);
    std::vector<std::span<const std::int32_t>> runs;
    for (std::size_t i = 0, n = 0; i < rows.size(); i += n) {
        const std::size_t row = at(rows[i]);
        n = 1;
        while (i + n < rows.size() && n < most && shared[row] > 0 &&
               lead[at(rows[i + n])] == lead[row] && shared[at(rows[i + n])] == shared[row])
            ++n;
        runs.push_back(std::span(rows).subspan(i, n));
    }
    const auto n = static_cast<std::ptrdiff_t>(runs.size() * attention.groups);
#pragma omp parallel
    {
        RowsScratch scratch;
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const auto unit = static_cast<std::size_t>(i);
            kernel(attention, runs[unit / attention.groups], unit % attention.groups, scratch);
        }
    }
}

}  // namespace malt
