// Spreads rows over threads.
#include "kernels/logprob.hpp"

#include <algorithm>

#include "kernels/levels.hpp"
#include "kernels/logprob_rows.hpp"

namespace malt {
namespace {

constexpr std::size_t kParallel = 1U << 15;  // logits below which threads cost more than they save

template <class Work>
void for_rows(const Tile& tile, const Work& work) {
    const auto rows = static_cast<std::ptrdiff_t>(tile.rows);
#pragma omp parallel for schedule(static) if (tile.rows * tile.cols >= kParallel)
    for (std::ptrdiff_t r = 0; r < rows; ++r) work(static_cast<std::size_t>(r));
}

std::byte* row_of(const Tile& tile, std::size_t r) {
    return static_cast<std::byte*>(tile.data) + r * tile.stride * bytes_of(tile.type);
}

Row make_row(const Tile& tile, const Transform& transform, const Targets& targets, std::size_t r) {
    const std::int64_t begin = targets.start[r];
    const auto count = static_cast<std::size_t>(targets.start[r + 1] - begin);
    return {
        .in = row_of(tile, r),
        .out = nullptr,
        .type = tile.type,
        .cols = tile.cols,
        .bias = transform.bias == nullptr ? nullptr : transform.bias + tile.first,
        .temperature = transform.temperature == nullptr ? 1.0F : transform.temperature[r],
        .softcap = transform.softcap,
        .first = tile.first,
        .tokens = {targets.token + begin, count},
    };
}

}  // namespace

void fold(const Tile& tile, const Transform& transform, const Targets& targets,
          const Running& running, const Tile* weights, std::string_view simd) {
    const RowKernels& kernels = MALT_OF_LEVEL(simd, kRowKernels);
    for_rows(tile, [&](std::size_t r) {
        Row row = make_row(tile, transform, targets, r);
        if (weights != nullptr) {
            row.out = row_of(*weights, r);
            row.out_type = weights->type;
        }
        RowSums sums{
            .offset = running.offset[r],
            .total = running.total[r],
            .weighted = running.weighted == nullptr ? nullptr : running.weighted + r,
            .target_logit = running.target_logit + targets.start[r],
            .residual = {},
        };
        if (running.residual != nullptr)
            sums.residual = {running.residual + r * running.width, running.width};
        kernels.fold(row, sums);
        running.offset[r] = sums.offset;
        running.total[r] = sums.total;
    });
}

void gradient(const Tile& tile, const Tile& out, const Transform& transform, const Targets& targets,
              const Upstream& upstream, std::string_view simd) {
    const RowKernels& kernels = MALT_OF_LEVEL(simd, kRowKernels);
    for_rows(tile, [&](std::size_t r) {
        Row row = make_row(tile, transform, targets, r);
        row.out = row_of(out, r);
        const float* target = upstream.target + targets.start[r];
        kernels.gradient(row, {upstream.log_total[r], target, upstream.row[r]});
    });
}

void draw(const Tile& tile, const Draws& draws, std::string_view simd) {
    const RowKernels& kernels = MALT_OF_LEVEL(simd, kRowKernels);
    for_rows(tile, [&](std::size_t r) {
        Row row;
        row.in = row_of(tile, r);
        row.type = tile.type;
        row.cols = tile.cols;
        row.temperature = draws.temperature[r];
        const Drawn drawn = kernels.draw(row, draws.uniform[r]);
        draws.token[r] = drawn.token;
        draws.logprob[r] = drawn.logprob;
    });
}

}  // namespace malt
