// Vector code of dpo.hpp, compiled once per instruction set (simd.hpp).
#include "kernels/dpo_margins.hpp"

#include <algorithm>

#include "kernels/simd.hpp"

namespace malt::MALT_ISA {
namespace {

// log(1 + y) for 0 <= y <= 1, as 2 artanh(t) = 2 (t + t^3 / 3 + t^5 / 5 + ...), t = y / (2 + y).
// t is at most 1/3, and the first term left out is 2e-9 of the sum.
Vec log1p(Vec y) {
    const Vec t = y / (2.0F + y);
    const Vec s = t * t;
    Vec series = constant(1.0F / 15.0F);
    for (const float term : {13.0F, 11.0F, 9.0F, 7.0F, 5.0F, 3.0F}) series = series * s + 1 / term;
    return 2.0F * (t + t * s * series);
}

Vec narrow(const double* from, std::size_t count) {
    float lanes[kLanes] = {};
    for (std::size_t i = 0; i < count; ++i) lanes[i] = static_cast<float>(from[i]);
    return load<Vec>(lanes, kLanes, 0.0F);
}

void sigmoid_losses(std::span<const double> margin, double smoothing, std::span<float> loss,
                    std::span<float> slope) {
    const auto flipped = static_cast<float>(smoothing);
    const auto kept = static_cast<float>(1 - smoothing);
    const Vec one = constant(1.0F);
    for (std::size_t i = 0; i < margin.size(); i += kLanes) {
        const std::size_t count = std::min(kLanes, margin.size() - i);
        const Vec m = narrow(&margin[i], count);
        const Vec small = exp(m < 0.0F ? m : -m);  // e^-|m| serves all four functions of m
        const Vec log = log1p(small);
        const Vec share = 1.0F / (1.0F + small);
        const Vec wrong = (m < 0.0F ? one : small) * share;  // sigma(-m)
        Vec l = (m < 0.0F ? -m : Vec{}) + log;               // -log sigma(m)
        Vec d = -wrong;
        if (smoothing != 0) {  // 0 times an infinite loss is no number
            const Vec right = (m < 0.0F ? small : one) * share;
            l = kept * l + flipped * ((m < 0.0F ? Vec{} : m) + log);
            d = flipped * right - kept * wrong;
        }
        store(&loss[i], count, l);
        store(&slope[i], count, d);
    }
}

}  // namespace

const SigmoidLosses kSigmoidLosses = &sigmoid_losses;

}  // namespace malt::MALT_ISA
