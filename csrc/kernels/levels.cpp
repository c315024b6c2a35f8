// Finds the instruction sets of the processor.
#include "kernels/levels.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace malt {

std::span<const std::string_view> simd_levels() {
    static const std::vector<std::string_view> found = [] {
        std::vector<std::string_view> list;
#ifdef MALT_X86
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            list.emplace_back("avx512");
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
            list.emplace_back("avx2");
#endif
        list.emplace_back("portable");
        return list;
    }();
    return found;
}

std::string_view chosen_level(std::string_view simd) {
    const std::span<const std::string_view> levels = simd_levels();
    if (simd.empty()) return levels.front();
    const auto level = std::ranges::find(levels, simd);
    if (level == levels.end())
        throw std::invalid_argument("simd '" + std::string(simd) + "' cannot run on this machine");
    return *level;
}

}  // namespace malt
