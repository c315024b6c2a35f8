// Vectors of floats on the compiler's vector types, with no intrinsics: files that include this are
// compiled once per instruction set, MALT_ISA names the namespace and MALT_LANES the number of
// floats per vector. exp is within 2 ulp, tanh within 4; both were fitted for this file.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace malt::MALT_ISA {
namespace {

constexpr std::size_t kLanes = MALT_LANES;
constexpr float kInf = std::numeric_limits<float>::infinity();

using Vec [[gnu::vector_size(kLanes * 4)]] = float;
using Int [[gnu::vector_size(kLanes * 4)]] = std::int32_t;
using Bits [[gnu::vector_size(kLanes * 4)]] = std::uint32_t;
using Halves [[gnu::vector_size(kLanes * 2)]] = std::uint16_t;

// `count` values of T from memory; lanes beyond are `rest`.
template <class V, class T>
V load(const T* from, std::size_t count, T rest) {
    T lanes[kLanes];
    if (count < kLanes) {
        std::fill(std::begin(lanes), std::end(lanes), rest);
        std::memcpy(lanes, from, count * sizeof(T));
        from = lanes;
    }
    V v;
    std::memcpy(&v, from, sizeof(V));
    return v;
}

template <class V, class T>
void store(T* to, std::size_t count, V v) {
    std::memcpy(to, &v, std::min(count, kLanes) * sizeof(T));
}

template <class To, class From>
To same_bits(From v) {
    static_assert(sizeof(To) == sizeof(From));
    To out;
    std::memcpy(&out, &v, sizeof(out));
    return out;
}

inline Vec constant(float x) {
    return Vec{} + x;
}

// e^x; 0 below -87.3, where float32 would be subnormal, and any number above 88.
inline Vec exp(Vec x) {
    constexpr float kLow = -87.3F;
    const Vec y = x < kLow ? constant(kLow) : x;  // a NaN stays
    constexpr float kRound = 0x1.8p23F;           // adding it rounds to an integer
    const Vec shifted = y * 0x1.715476p0F + kRound;
    const Vec n = shifted - kRound;
    const Vec r = (y - n * 0x1.62e4p-1F) - n * 0x1.7f7d1cp-20F;  // y - n ln 2, |r| <= ln 2 / 2
    Vec p = constant(0x1.6a23cep-10F);  // relative error of the polynomial 3e-9
    p = p * r + 0x1.123a2p-7F;
    p = p * r + 0x1.5558f2p-5F;
    p = p * r + 0x1.555492p-3F;
    p = p * r + 0x1.fffffcp-2F;
    p = p * r * r + r + 1.0F;
    const Bits exponent = (same_bits<Bits>(shifted) << 23) + 0x3f800000U;  // low bits hold n
    const Vec result = p * same_bits<Vec>(exponent);
    return x < kLow ? Vec{} : result;
}

// Below 0.6 the continued fraction of tanh, cut after 11; above, by exp.
inline Vec tanh(Vec x) {
    const Vec a = x < 0.0F ? -x : x;
    const Vec s = x * x;
    const Vec near = x * (((21.0F * s) + 1260.0F) * s + 10395.0F) /
                     (((s + 210.0F) * s + 4725.0F) * s + 10395.0F);
    const Vec bounded = a > 10.0F ? constant(10.0F) : a;  // tanh(10) is 1
    const Vec far = 1.0F - 2.0F / (exp(2.0F * bounded) + 1.0F);
    return a < 0.6F ? near : (x < 0.0F ? -far : far);
}

inline float largest(Vec v) {
    float out = -kInf;
    for (std::size_t i = 0; i < kLanes; ++i) out = std::max(out, v[i]);
    return out;
}

inline float sum(Vec v) {
    float out = 0.0F;
    for (std::size_t i = 0; i < kLanes; ++i) out += v[i];
    return out;
}

// Of four accumulators, as in_fours() fills them.
inline float largest(const Vec (&v)[4]) {
    Vec top = v[0];
    for (std::size_t lane = 1; lane < 4; ++lane) top = v[lane] > top ? v[lane] : top;
    return largest(top);
}

inline float sum(const Vec (&v)[4]) {
    return sum((v[0] + v[1]) + (v[2] + v[3]));
}

// step(i, lane, count) for every vector of n values: `count` values from i on, for accumulator
// `lane` of four, so that no step waits for the one before.
template <class Step>
void in_fours(std::size_t n, const Step& step) {
    std::size_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes)
        for (std::size_t lane = 0; lane < 4; ++lane) step(i + lane * kLanes, lane, kLanes);
    for (; i < n; i += kLanes) step(i, 0, std::min(kLanes, n - i));
}

}  // namespace
}  // namespace malt::MALT_ISA
