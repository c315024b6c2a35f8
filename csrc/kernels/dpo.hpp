// DPO and related losses on log-probs of completions: loss, rewards and gradient of each pair in
// one pass, on the CPU. The formulas are in kernels/dpo_loss.py.
//
// Stored as float32. Margins, hinge and ipo are computed in double; exp and log of the sigmoid loss
// in float32 (dpo_margins.hpp), with SIMD chosen at run time. There are thousands of pairs at most:
// one thread suffices. The caller validates.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace malt {

enum class Preference : std::uint8_t { kSigmoid, kHinge, kIpo };

struct PreferenceRule {
    Preference loss = Preference::kSigmoid;
    double beta = 0.1;
    double smoothing = 0.0;  // share of flipped labels, for kSigmoid
    double nll = 0.0;        // weight of -policy[chosen]
};

// [C] each: sums over the tokens of a completion.
struct Completions {
    std::span<const float> policy;
    std::span<const float> reference;
    std::span<const std::int64_t> length;  // read for kIpo
};

// Row 0: chosen, row 1: rejected.
struct PairLosses {
    std::span<float> loss;    // [P]
    std::span<float> reward;  // [2, P]
    std::span<float> slope;   // [2, P]: d loss / d policy
};

// pairs [P, 2]: (chosen, rejected).
void pair_losses(const Completions& completions, std::span<const std::int64_t> pairs,
                 const PreferenceRule& rule, const PairLosses& out, std::string_view simd);

// out [C] += d(sum grad loss) / d policy, pair after pair; grad [P].
void add_gradient(std::span<const float> grad, std::span<const float> slope,
                  std::span<const std::int64_t> pairs, std::span<float> out);

}  // namespace malt
