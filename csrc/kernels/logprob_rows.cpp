// Vector code of logprob.hpp, compiled once per instruction set (simd.hpp).
#include "kernels/logprob_rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "kernels/stored.hpp"

namespace malt::MALT_ISA {
namespace {

constexpr std::size_t kSegment = 1024;  // columns at a time, kept in the first-level cache

// ---- logits ----

// z of `n` columns from `from` on into `z`; returns the largest.
template <class T>
float read_logits(const Row& row, std::size_t from, std::size_t n, float* z) {
    const auto* in = static_cast<const typename T::Stored*>(row.in) + from;
    const float* bias = row.bias == nullptr ? nullptr : row.bias + from;
    const float scale = 1.0F / row.temperature;
    const float cap = row.softcap;
    Vec top[4] = {constant(-kInf), constant(-kInf), constant(-kInf), constant(-kInf)};
    in_fours(n, [&](std::size_t i, std::size_t lane, std::size_t count) {
        Vec x = T::read(in + i, count);
        if (bias != nullptr) x += load<Vec>(bias + i, count, 0.0F);
        if (cap != 0.0F) x = cap * tanh(x / cap);
        if (scale != 1.0F) x *= scale;
        if (count < kLanes) {  // beyond the end
            float lanes[kLanes];
            std::fill(std::begin(lanes), std::end(lanes), -kInf);
            std::memcpy(lanes, &x, count * sizeof(float));
            std::memcpy(&x, lanes, sizeof(x));
        }
        top[lane] = x > top[lane] ? x : top[lane];
        store(z + i, count, x);
    });
    return largest(top);
}

float* scratch(std::size_t n) {
    thread_local std::unique_ptr<float[]> memory;
    thread_local std::size_t size = 0;
    if (size < n) {
        memory.reset(new float[n]);
        size = n;
    }
    return memory.get();
}

// ---- fold ----

void move_offset(float offset, RowSums& sums) {
    if (sums.total > 0.0F) {
        const float factor = std::exp(sums.offset - offset);
        if (sums.weighted != nullptr)
            *sums.weighted = factor * (*sums.weighted + sums.total * (sums.offset - offset));
        sums.total *= factor;
        for (float& value : sums.residual) value *= factor;
    }
    sums.offset = offset;
}

// Adds exp(z - offset) of n logits to the sums; with Weights puts it, times d cap/d raw, over z.
template <bool Weights, bool Entropy>
void add_up(const Row& row, float* z, std::size_t n, RowSums& sums) {
    // Before any finite logit the offset is -inf, and exp(-inf - 0) = 0 is right.
    const float offset = sums.offset == -kInf ? 0.0F : sums.offset;
    const float slope = row.softcap == 0.0F ? 0.0F : row.temperature / row.softcap;
    Vec total[4] = {};
    Vec weighted[4] = {};
    in_fours(n, [&](std::size_t i, std::size_t lane, std::size_t count) {
        const Vec x = load<Vec>(z + i, count, -kInf);
        const Vec above = x - offset;
        const Vec e = exp(above);
        total[lane] += e;
        if constexpr (Entropy) weighted[lane] += e > 0.0F ? e * above : e;  // 0 log 0 = 0
        if constexpr (Weights) {
            const Vec t = x * slope;
            store(z + i, count, slope == 0.0F ? e : e * (1.0F - t * t));
        }
    });
    sums.total += sum(total);
    if constexpr (Entropy) *sums.weighted += sum(weighted);
}

template <class T>
void fold_row(const Row& row, RowSums& sums) {
    // Weights share one offset across the tile, so the whole row of the tile is read first.
    const std::size_t width = row.out != nullptr ? row.cols : std::min(row.cols, kSegment);
    const bool over = row.out != nullptr && row.out_type == Scalar::kFloat32;
    float* z = over ? static_cast<float*>(row.out) : scratch(width);
    for (std::size_t from = 0; from < row.cols; from += width) {
        const std::size_t n = std::min(width, row.cols - from);
        const float top = read_logits<T>(row, from, n, z);
        if (top > sums.offset + kMargin) move_offset(top, sums);
        const auto begin = row.first + static_cast<std::int64_t>(from);
        const auto mine = [&](std::size_t k) {
            const std::int64_t column = row.tokens[k] - begin;
            return column >= 0 && column < static_cast<std::int64_t>(n) ? z + column : nullptr;
        };
        for (std::size_t k = 0; k < row.tokens.size(); ++k)
            if (const float* at = mine(k)) sums.target_logit[k] = *at;
        const bool entropy = sums.weighted != nullptr;
        if (row.out == nullptr) {
            entropy ? add_up<false, true>(row, z, n, sums) : add_up<false, false>(row, z, n, sums);
            continue;
        }
        entropy ? add_up<true, true>(row, z, n, sums) : add_up<true, false>(row, z, n, sums);
        for (std::size_t k = 0; k < row.tokens.size(); ++k)
            if (float* at = mine(k)) *at = 0.0F;
        if (over) continue;
        auto* out = static_cast<Bfloat16::Stored*>(row.out);
        in_fours(n, [&](std::size_t i, std::size_t, std::size_t count) {
            Bfloat16::write(out + i, count, load<Vec>(z + i, count, 0.0F));
        });
    }
}

// ---- gradient ----

template <class T>
void gradient_row(const Row& row, const RowUpstream& upstream) {
    auto* out = static_cast<typename T::Stored*>(row.out);
    const float scale = 1.0F / row.temperature;
    const float slope = row.softcap == 0.0F ? 0.0F : row.temperature / row.softcap;
    const std::size_t width = std::min(row.cols, kSegment);
    float* z = scratch(2 * width);
    float* d = z + width;  // d logp/d z
    for (std::size_t from = 0; from < row.cols; from += width) {
        const std::size_t n = std::min(width, row.cols - from);
        read_logits<T>(row, from, n, z);
        for (std::size_t i = 0; i < n; i += kLanes) {
            const std::size_t count = std::min(kLanes, n - i);
            store(d + i, count,
                  -upstream.row * exp(load<Vec>(z + i, count, 0.0F) - upstream.log_total));
        }
        for (std::size_t k = 0; k < row.tokens.size(); ++k) {
            const std::int64_t column = row.tokens[k] - row.first - static_cast<std::int64_t>(from);
            if (column >= 0 && column < static_cast<std::int64_t>(n))
                d[column] += upstream.target[k];
        }
        for (std::size_t i = 0; i < n; i += kLanes) {
            const std::size_t count = std::min(kLanes, n - i);
            const Vec dz = load<Vec>(d + i, count, 0.0F) * scale;
            const Vec t = load<Vec>(z + i, count, 0.0F) * slope;
            T::write(out + from + i, count, slope == 0.0F ? dz : dz * (1.0F - t * t));
        }
    }
}

void fold_any(const Row& row, RowSums& sums) {
    switch (row.type) {
        case Scalar::kFloat32:
            return fold_row<Float32>(row, sums);
        case Scalar::kBfloat16:
            return fold_row<Bfloat16>(row, sums);
        case Scalar::kFloat16:
            return fold_row<Float16>(row, sums);
    }
}

void gradient_any(const Row& row, const RowUpstream& upstream) {
    switch (row.type) {
        case Scalar::kFloat32:
            return gradient_row<Float32>(row, upstream);
        case Scalar::kBfloat16:
            return gradient_row<Bfloat16>(row, upstream);
        case Scalar::kFloat16:
            return gradient_row<Float16>(row, upstream);
    }
}

}  // namespace

const RowKernels kRowKernels{&fold_any, &gradient_any, &draw_row};

}  // namespace malt::MALT_ISA
