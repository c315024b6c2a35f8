// A token of one row (draw() of logprob.hpp), compiled once per instruction set (simd.hpp).
//
// One pass finds the largest logit, a second adds up weights exp((x - largest) / temperature) block
// by block. The block in which the draw falls is then walked token by token; so only few blocks'
// sums, in double, are kept, and no weights.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/logprob_rows.hpp"
#include "kernels/stored.hpp"

namespace malt::MALT_ISA {
namespace {

constexpr std::size_t kBlocks = 256;   // at most, in a row
constexpr std::size_t kColumns = 256;  // at least, in a block: it stays in the first-level cache

template <class T>
struct Weights {
    const typename T::Stored* in;  // [cols]
    std::size_t cols, width;       // of the row and of a block
    float top;                     // the row's largest logit

    // exp(scale (x - top)) of the vector at `i`; scale x alone might overflow.
    [[nodiscard]] Vec at(std::size_t i, std::size_t count, float scale) const {
        return exp((T::read(in + i, count) - top) * scale);
    }

    [[nodiscard]] std::size_t columns(std::size_t from) const {
        return std::min(width, cols - from);
    }

    [[nodiscard]] float add_up(std::size_t from, float scale) const {
        Vec total[4] = {};
        in_fours(columns(from), [&](std::size_t i, std::size_t lane, std::size_t count) {
            total[lane] += at(from + i, count, scale);
        });
        return sum(total);
    }

    // The token with which the block's weights exceed `point`. Their sum here and in add_up()
    // differ by rounding: where they end below it, the last token that has any weight.
    [[nodiscard]] std::size_t walk(std::size_t from, float scale, double point) const {
        const std::size_t end = from + columns(from);
        double passed = 0.0;
        std::size_t last = from;
        for (std::size_t i = from; i < end; i += kLanes) {
            const std::size_t count = std::min(kLanes, end - i);
            const Vec weights = at(i, count, scale);
            for (std::size_t lane = 0; lane < count; ++lane) {
                if (!(weights[lane] > 0.0F)) continue;
                last = i + lane;
                passed += double{weights[lane]};
                if (passed > point) return last;
            }
        }
        return last;
    }
};

template <class T>
Drawn draw_from(const Row& row, double uniform) {
    const auto* in = static_cast<const typename T::Stored*>(row.in);
    const std::size_t width = std::max(kColumns, (row.cols + kBlocks - 1) / kBlocks);
    Weights<T> weights{in, row.cols, width, -kInf};
    std::size_t chosen = 0;  // first column of the block with the largest logit, then the token
    for (std::size_t from = 0; from < row.cols; from += width) {
        const float top = largest_of<T>(in + from, weights.columns(from));
        if (top > weights.top) chosen = from;
        weights.top = std::max(weights.top, top);
    }
    if (!std::isfinite(weights.top)) return {0, std::numeric_limits<float>::quiet_NaN()};

    // Finite, so that the largest logit keeps weight 1 at any temperature.
    const float scale = std::min(1.0F / row.temperature, std::numeric_limits<float>::max());
    double sums[kBlocks];
    double untempered = 0.0;
    double total = 0.0;
    for (std::size_t b = 0; b * width < row.cols; ++b) {
        const float plain = weights.add_up(b * width, 1.0F);
        const bool same = row.temperature == 1.0F || row.temperature == 0.0F;
        sums[b] = double{same ? plain : weights.add_up(b * width, scale)};
        untempered += double{plain};
        total += sums[b];
    }
    const double normaliser = double{weights.top} + std::log(untempered);  // NaN if a logit is

    const auto logit = [&](std::size_t i) { return T::read(in + i, 1)[0]; };
    if (row.temperature == 0.0F) {
        while (logit(chosen) != weights.top) ++chosen;
    } else {
        // Below the total even when rounded, since uniform is below 1, and the same sums in the
        // same order reach the total: some block exceeds it. After a NaN no sum compares as less.
        const double point = uniform * total;
        double passed = 0.0;
        std::size_t b = 0;
        while (passed + sums[b] <= point) passed += sums[b++];
        chosen = weights.walk(b * width, scale, point - passed);
    }
    const auto logprob = static_cast<float>(double{logit(chosen)} - normaliser);
    return {static_cast<std::int64_t>(chosen), logprob};
}

}  // namespace

Drawn draw_row(const Row& row, double uniform) {
    switch (row.type) {
        case Scalar::kBfloat16:
            return draw_from<Bfloat16>(row, uniform);
        case Scalar::kFloat16:
            return draw_from<Float16>(row, uniform);
        case Scalar::kFloat32:
            break;
    }
    return draw_from<Float32>(row, uniform);
}

}  // namespace malt::MALT_ISA
