// The sigmoid loss of many margins, compiled once per instruction set (dpo_margins.cpp).
#pragma once

#include <span>

namespace malt {

// loss = -(1 - e) log sigma(m) - e log sigma(-m) of each margin m, with e = `smoothing`, and
// slope = d loss / d m. Within a few ulp of float32 for margins of any size.
using SigmoidLosses = void (*)(std::span<const double> margin, double smoothing,
                               std::span<float> loss, std::span<float> slope);

namespace portable {
extern const SigmoidLosses kSigmoidLosses;
}
namespace avx2 {
extern const SigmoidLosses kSigmoidLosses;
}
namespace avx512 {
extern const SigmoidLosses kSigmoidLosses;
}

}  // namespace malt
