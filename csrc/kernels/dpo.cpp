// One pass over pairs forward, in blocks whose margins the vector code takes at once; one backward.
#include "kernels/dpo.hpp"

#include <algorithm>

#include "kernels/dpo_margins.hpp"
#include "kernels/levels.hpp"

namespace malt {
namespace {

constexpr std::size_t kBlock = 256;  // pairs at a time, kept in the first-level cache

struct Block {
    double margin[kBlock];
    double chosen_scale[kBlock];  // d margin / d policy
    double rejected_scale[kBlock];
    float slope[kBlock];  // d loss / d margin
};

void hinge(Block& block, std::span<float> loss) {
    for (std::size_t i = 0; i < loss.size(); ++i) {
        const double below = 1 - block.margin[i];
        loss[i] = below <= 0 ? 0.0F : static_cast<float>(below);  // a NaN stays
        block.slope[i] = below <= 0 ? 0.0F : -1.0F;
    }
}

void ipo(Block& block, double beta, std::span<float> loss) {
    for (std::size_t i = 0; i < loss.size(); ++i) {
        const double error = block.margin[i] - 1 / (2 * beta);
        loss[i] = static_cast<float>(error * error);
        block.slope[i] = static_cast<float>(2 * error);
    }
}

struct Side {
    double ratio;  // log of policy / reference
    double scale;  // times ratio: its share in the margin
};

Side side_of(const Completions& completions, std::int64_t completion, const PreferenceRule& rule) {
    const auto c = static_cast<std::size_t>(completion);
    const double ratio = double{completions.policy[c]} - double{completions.reference[c]};
    if (rule.loss != Preference::kIpo) return {ratio, rule.beta};
    return {ratio, 1 / static_cast<double>(completions.length[c])};
}

// Margins of some pairs, and their rewards from `chosen` and `rejected` on.
void read_pairs(const Completions& completions, std::span<const std::int64_t> pairs,
                const PreferenceRule& rule, Block& block, float* chosen, float* rejected) {
    for (std::size_t i = 0; i < pairs.size() / 2; ++i) {
        const Side c = side_of(completions, pairs[2 * i], rule);
        const Side d = side_of(completions, pairs[2 * i + 1], rule);
        block.margin[i] = c.scale * c.ratio - d.scale * d.ratio;
        block.chosen_scale[i] = c.scale;
        block.rejected_scale[i] = d.scale;
        chosen[i] = static_cast<float>(rule.beta * c.ratio);
        rejected[i] = static_cast<float>(rule.beta * d.ratio);
    }
}

void add_nll(std::span<const float> policy, std::span<const std::int64_t> pairs, double weight,
             const PairLosses& out) {
    for (std::size_t p = 0; p < out.loss.size(); ++p) {
        const double logp = policy[static_cast<std::size_t>(pairs[2 * p])];
        out.loss[p] = static_cast<float>(out.loss[p] - weight * logp);
        out.slope[p] = static_cast<float>(out.slope[p] - weight);
    }
}

}  // namespace

void pair_losses(const Completions& completions, std::span<const std::int64_t> pairs,
                 const PreferenceRule& rule, const PairLosses& out, std::string_view simd) {
    const SigmoidLosses sigmoid = MALT_OF_LEVEL(simd, kSigmoidLosses);
    const std::size_t count = pairs.size() / 2;
    Block block;
    for (std::size_t begin = 0; begin < count; begin += kBlock) {
        const std::size_t n = std::min(kBlock, count - begin);
        float* reward = &out.reward[begin];
        read_pairs(completions, pairs.subspan(2 * begin, 2 * n), rule, block, reward,
                   reward + count);
        const std::span<float> loss = out.loss.subspan(begin, n);
        switch (rule.loss) {
            case Preference::kHinge:
                hinge(block, loss);
                break;
            case Preference::kIpo:
                ipo(block, rule.beta, loss);
                break;
            case Preference::kSigmoid:
                sigmoid({block.margin, n}, rule.smoothing, loss, {block.slope, n});
                break;
        }
        for (std::size_t i = 0; i < n; ++i) {
            const double slope = block.slope[i];
            out.slope[begin + i] = static_cast<float>(slope * block.chosen_scale[i]);
            out.slope[count + begin + i] = static_cast<float>(-slope * block.rejected_scale[i]);
        }
    }
    if (rule.nll != 0) add_nll(completions.policy, pairs, rule.nll, out);
}

void add_gradient(std::span<const float> grad, std::span<const float> slope,
                  std::span<const std::int64_t> pairs, std::span<float> out) {
    const std::size_t count = grad.size();
    for (std::size_t p = 0; p < count; ++p) {
        out[static_cast<std::size_t>(pairs[2 * p])] += grad[p] * slope[p];
        out[static_cast<std::size_t>(pairs[2 * p + 1])] += grad[p] * slope[count + p];
    }
}

}  // namespace malt
