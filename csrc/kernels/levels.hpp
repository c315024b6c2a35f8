// Instruction sets: files of vector code are compiled once for each, and a call uses one of them.
#pragma once

#include <span>
#include <string_view>

namespace malt {

// The instruction sets this machine can run, best first.
[[nodiscard]] std::span<const std::string_view> simd_levels();

// `simd`, or the best one if it is empty. Throws std::invalid_argument for one this machine cannot
// run.
[[nodiscard]] std::string_view chosen_level(std::string_view simd);

template <class T>
const T& of_level(std::string_view simd, const T& avx512, const T& avx2, const T& portable) {
    const std::string_view level = chosen_level(simd);
    return level == "avx512" ? avx512 : level == "avx2" ? avx2 : portable;
}

}  // namespace malt

// The object `name` of the instruction set `simd`.
#ifdef MALT_X86
#define MALT_OF_LEVEL(simd, name) ::malt::of_level(simd, avx512::name, avx2::name, portable::name)
#else
#define MALT_OF_LEVEL(simd, name) \
    ::malt::of_level(simd, portable::name, portable::name, portable::name)
#endif
