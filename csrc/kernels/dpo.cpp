// One loop over pairs forward, one backward.
#include "kernels/dpo.hpp"

#include <algorithm>
#include <cmath>

namespace malt {
namespace {

struct LossAndSlope {
    double loss;
    double slope;  // d loss / d margin
};

// log(1 + exp(x)) = -log sigma(-x), for x of any size.
double softplus(double x) {
    return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}

double sigma(double x) {
    return 1 / (1 + std::exp(-x));
}

LossAndSlope sigmoid(double margin, double smoothing) {
    const LossAndSlope plain{softplus(-margin), -sigma(-margin)};
    if (smoothing == 0) return plain;  // 0 times an infinite loss is no number
    return {(1 - smoothing) * plain.loss + smoothing * softplus(margin),
            (1 - smoothing) * plain.slope + smoothing * sigma(margin)};
}

LossAndSlope hinge(double margin) {
    if (margin >= 1) return {0, 0};
    return {1 - margin, -1};
}

LossAndSlope ipo(double margin, double beta) {
    const double error = margin - 1 / (2 * beta);
    return {error * error, 2 * error};
}

LossAndSlope loss_of(double margin, const PreferenceRule& rule) {
    switch (rule.loss) {
        case Preference::kHinge:
            return hinge(margin);
        case Preference::kIpo:
            return ipo(margin, rule.beta);
        case Preference::kSigmoid:
            break;
    }
    return sigmoid(margin, rule.smoothing);
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

}  // namespace

void pair_losses(const Completions& completions, std::span<const std::int64_t> pairs,
                 const PreferenceRule& rule, const PairLosses& out) {
    const std::size_t count = pairs.size() / 2;
    for (std::size_t p = 0; p < count; ++p) {
        const Side chosen = side_of(completions, pairs[2 * p], rule);
        const Side rejected = side_of(completions, pairs[2 * p + 1], rule);
        auto [loss, slope] =
            loss_of(chosen.scale * chosen.ratio - rejected.scale * rejected.ratio, rule);
        double chosen_slope = slope * chosen.scale;
        if (rule.nll != 0) {
            const auto c = static_cast<std::size_t>(pairs[2 * p]);
            loss -= rule.nll * double{completions.policy[c]};
            chosen_slope -= rule.nll;
        }
        out.loss[p] = static_cast<float>(loss);
        out.reward[p] = static_cast<float>(rule.beta * chosen.ratio);
        out.reward[count + p] = static_cast<float>(rule.beta * rejected.ratio);
        out.slope[p] = static_cast<float>(chosen_slope);
        out.slope[count + p] = static_cast<float>(-slope * rejected.scale);
    }
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
