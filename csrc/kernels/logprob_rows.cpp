// Vector code of logprob.hpp, compiled once per instruction set (simd.hpp).
#include "kernels/logprob_rows.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/stored.hpp"

namespace malt::MALT_ISA {
namespace {

constexpr std::size_t kSegment = 1024;  // columns at a time, kept in the first-level cache

// ---- logits ----

// Logits as they are stored.
template <class T>
struct Stored {
    const typename T::Stored* in;

    // -inf beyond the end
    [[nodiscard]] Vec at(std::size_t i, std::size_t count) const { return T::read(in + i, count); }
};

// z of `n` columns from `from` on.
template <class T>
void transform(const Row& row, std::size_t from, std::size_t n, float* z) {
    const auto* in = static_cast<const typename T::Stored*>(row.in) + from;
    const float* bias = row.bias == nullptr ? nullptr : row.bias + from;
    const float scale = 1.0F / row.temperature;
    const float cap = row.softcap;
    in_fours(n, [=](std::size_t i, std::size_t, std::size_t count) {
        Vec x = T::read(in + i, count);
        if (bias != nullptr) x += load<Vec>(bias + i, count, 0.0F);
        if (cap != 0.0F) x = cap * tanh(x / cap);
        store(z + i, count, x * scale);
    });
}

// step(from, n, z) for `width` columns at a time: the `n` from `from` on, whose logits are z.at().
template <class T, class Step>
void in_segments(const Row& row, std::size_t width, const Step& step) {
    const auto* in = static_cast<const typename T::Stored*>(row.in);
    const bool plain = row.bias == nullptr && row.softcap == 0.0F && row.temperature == 1.0F;
    thread_local std::vector<float> z;
    if (!plain) z.resize(width);
    for (std::size_t from = 0; from < row.cols; from += width) {
        const std::size_t n = std::min(width, row.cols - from);
        if (plain) {
            step(from, n, Stored<T>{in + from});
        } else {
            transform<T>(row, from, n, z.data());
            step(from, n, Stored<Float32>{z.data()});
        }
    }
}

// step(k, i) for each of the row's tokens, number k, that is column i of the `n` from `from` on.
template <class Step>
void at_targets(const Row& row, std::size_t from, std::size_t n, const Step& step) {
    const std::int64_t begin = row.first + static_cast<std::int64_t>(from);
    for (std::size_t k = 0; k < row.tokens.size(); ++k) {
        const std::int64_t i = row.tokens[k] - begin;
        if (i >= 0 && i < static_cast<std::int64_t>(n)) step(k, static_cast<std::size_t>(i));
    }
}

// What makes d cap/d raw = 1 - (slope z)^2; 0 without a cap.
float slope_of(const Row& row) {
    return row.softcap == 0.0F ? 0.0F : row.temperature / row.softcap;
}

Vec through_cap(Vec x, Vec z, float slope) {
    const Vec t = z * slope;
    return slope == 0.0F ? x : x * (1.0F - t * t);
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

struct Segment {
    float top, total, weighted;
};

// The largest of n logits, and sums over e = exp(z - offset); write(i, count, e, z).
template <bool Entropy, class T, class Write>
Segment add_up(const Stored<T> z, std::size_t n, float offset, const Write& write) {
    if (offset == -kInf) offset = 0.0F;  // before any finite logit; exp(-inf - 0) = 0 is right
    Vec top[4] = {constant(-kInf), constant(-kInf), constant(-kInf), constant(-kInf)};
    Vec total[4] = {};
    Vec weighted[4] = {};
    in_fours(n, [&](std::size_t i, std::size_t lane, std::size_t count) {
        const Vec x = z.at(i, count);
        const Vec above = x - offset;
        const Vec e = exp(above);
        top[lane] = x > top[lane] ? x : top[lane];
        total[lane] += e;
        if constexpr (Entropy) weighted[lane] += e > 0.0F ? e * above : e;  // 0 log 0 = 0
        write(i, count, e, x);
    });
    return {largest(top), sum(total), Entropy ? sum(weighted) : 0.0F};
}

template <bool Entropy, class T>
Segment fold_segment(const Stored<T> z, std::size_t n, RowSums& sums) {
    const auto nothing = [](std::size_t, std::size_t, Vec, Vec) {};
    const Segment segment = add_up<Entropy>(z, n, sums.offset, nothing);
    if (!(segment.top > sums.offset + kMargin)) return segment;
    move_offset(segment.top, sums);
    return add_up<Entropy>(z, n, sums.offset, nothing);
}

// Weights cannot be taken back, so the largest logit is looked for first.
template <class Out, bool Entropy, class T>
Segment write_weights(const Stored<T> z, const Row& row, RowSums& sums) {
    const float top = largest_of<T>(z.in, row.cols);
    if (top > sums.offset + kMargin) move_offset(top, sums);
    auto* out = static_cast<typename Out::Stored*>(row.out);
    const auto write = [out, slope = slope_of(row)](std::size_t i, std::size_t count, Vec e,
                                                    Vec x) {
        Out::write(out + i, count, through_cap(e, x, slope));
    };
    const Segment all = add_up<Entropy>(z, row.cols, sums.offset, write);
    at_targets(row, 0, row.cols,
               [out](std::size_t, std::size_t i) { Out::write(out + i, 1, Vec{}); });
    return all;
}

template <bool Entropy, class T>
void fold_row(const Row& row, RowSums& sums) {
    // Weights share one offset across the tile.
    const std::size_t width = row.out == nullptr ? kSegment : row.cols;
    in_segments<T>(row, width, [&](std::size_t from, std::size_t n, const auto z) {
        at_targets(row, from, n,
                   [&](std::size_t k, std::size_t i) { sums.target_logit[k] = z.at(i, 1)[0]; });
        const Segment segment = row.out == nullptr ? fold_segment<Entropy>(z, n, sums)
                                : row.out_type == Scalar::kFloat32
                                    ? write_weights<Float32, Entropy>(z, row, sums)
                                    : write_weights<Bfloat16, Entropy>(z, row, sums);
        sums.total += segment.total;
        if constexpr (Entropy) *sums.weighted += segment.weighted;
    });
}

// ---- gradient ----

template <class T>
void gradient_row(const Row& row, const RowUpstream& upstream) {
    const float scale = 1.0F / row.temperature, slope = slope_of(row);
    const float log_total = upstream.log_total;
    thread_local std::vector<float> target_logit;  // which the gradient may overwrite
    target_logit.resize(row.tokens.size());
    in_segments<T>(row, kSegment, [&](std::size_t from, std::size_t n, const auto z) {
        auto* out = static_cast<typename T::Stored*>(row.out) + from;
        const auto write = [=, g = upstream.row](std::size_t i, std::size_t count, Vec x,
                                                 float target) {
            const Vec d = target - g * exp(x - log_total);  // d logp/d z
            T::write(out + i, count, through_cap(d * scale, x, slope));
        };
        at_targets(row, from, n,
                   [&](std::size_t k, std::size_t i) { target_logit[k] = z.at(i, 1)[0]; });
        in_fours(n, [&](std::size_t i, std::size_t, std::size_t count) {
            write(i, count, z.at(i, count), 0.0F);
        });
        at_targets(row, from, n, [&](std::size_t k, std::size_t i) {
            write(i, 1, constant(target_logit[k]), upstream.target[k]);
        });
    });
}

// ---- by type ----

template <class T>
void fold_as(const Row& row, RowSums& sums) {
    sums.weighted != nullptr ? fold_row<true, T>(row, sums) : fold_row<false, T>(row, sums);
}

void fold_any(const Row& row, RowSums& sums) {
    switch (row.type) {
        case Scalar::kFloat32:
            return fold_as<Float32>(row, sums);
        case Scalar::kBfloat16:
            return fold_as<Bfloat16>(row, sums);
        case Scalar::kFloat16:
            return fold_as<Float16>(row, sums);
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
