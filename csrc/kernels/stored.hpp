// Types in which logits are stored, read and written a vector at a time (simd.hpp); what is read
// beyond the end is -inf.
#pragma once

#include "kernels/simd.hpp"

namespace malt::MALT_ISA {
namespace {

struct Float32 {
    using Stored = float;
    static Vec read(const Stored* from, std::size_t count) { return load<Vec>(from, count, -kInf); }
    static void write(Stored* to, std::size_t count, Vec v) { store(to, count, v); }
};

struct Bfloat16 {
    using Stored = std::uint16_t;
    static Vec read(const Stored* from, std::size_t count) {
        const auto halves = load<Halves>(from, count, Stored{0xff80});
        return same_bits<Vec>(__builtin_convertvector(halves, Bits) << 16);
    }
    // To nearest, ties to even; a NaN stays one.
    static void write(Stored* to, std::size_t count, Vec v) {
        const Bits bits = same_bits<Bits>(v);
        const Bits rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
        const Bits kept = v == v ? rounded : (bits >> 16) | 0x40U;
        store(to, count, __builtin_convertvector(kept, Halves));
    }
};

struct Float16 {
    using Stored = std::uint16_t;
    static Vec read(const Stored* from, std::size_t count) {
        const Bits bits = __builtin_convertvector(load<Halves>(from, count, Stored{0xfc00}), Bits);
        const Bits magnitude = (bits & 0x7fffU) << 13;
        // Exponents differ by 112; the product also makes subnormals right.
        const Bits finite = same_bits<Bits>(same_bits<Vec>(magnitude) * 0x1p112F);
        const Bits special = magnitude | 0x7f800000U;
        const Bits chosen = magnitude >= 0x0f800000U ? special : finite;
        return same_bits<Vec>(chosen | ((bits & 0x8000U) << 16));
    }
    static void write(Stored* to, std::size_t count, Vec v) {
        const Bits bits = same_bits<Bits>(v);
        const Bits sign = (bits >> 16) & 0x8000U;
        const Bits magnitude = bits & 0x7fffffffU;
        const Bits normal = (magnitude - (112U << 23) + 0xfffU + ((magnitude >> 13) & 1U)) >> 13;
        // Added to 0.5, a number below 2^-14 is rounded to multiples of 2^-24.
        const Bits small = same_bits<Bits>(same_bits<Vec>(magnitude) + 0.5F) - 0x3f000000U;
        Bits half = magnitude < 0x38800000U ? small : normal;
        half = magnitude >= 0x477ff000U ? Bits{} + 0x7c00U : half;
        half = magnitude > 0x7f800000U ? Bits{} + 0x7e00U : half;
        store(to, count, __builtin_convertvector(half | sign, Halves));
    }
};

// Of n values.
template <class T>
float largest_of(const typename T::Stored* in, std::size_t n) {
    Vec top[4] = {constant(-kInf), constant(-kInf), constant(-kInf), constant(-kInf)};
    in_fours(n, [&](std::size_t i, std::size_t lane, std::size_t count) {
        const Vec x = T::read(in + i, count);
        top[lane] = x > top[lane] ? x : top[lane];  // a NaN is passed over
    });
    return largest(top);
}

}  // namespace
}  // namespace malt::MALT_ISA
