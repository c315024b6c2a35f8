// Attention of decoded rows, one query token each, over a key-value cache on the CPU:
//
//     s = cap(scale q k^T),   out = softmax(s) v   over a row's columns first .. end - 1
//
// Rows may begin alike: those with the same `lead` and `shared` read their first `shared` columns
// from the slot `lead`, once for all of them, and only the rest from their own. The softmax is
// online, so the parts are merged as they are read. `groups` key heads serve heads / groups query
// heads each. Arithmetic is float32; results do not depend on the number of threads. The caller
// validates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/logprob.hpp"

namespace malt {

// Keys or values [slots, groups, columns, width]; those of a column are contiguous.
struct Cached {
    const void* data;
    std::ptrdiff_t slot_stride, group_stride, column_stride;  // in elements
    std::size_t width;
};

struct CachedAttention {
    const float* q;  // [rows, heads, width of keys]
    float* out;      // [rows, heads, width of values]
    Cached keys, values;
    Scalar type;  // of keys and values
    std::size_t heads, groups;
    std::span<const std::int32_t> slot, end, lead, shared;  // [rows]; shared <= end
    std::int32_t window;                                    // first = end - window; 0: none
    float scale;
    float softcap;  // 0: none
};

// A row without columns gets zeros.
void cached_attention(const CachedAttention& attention, std::string_view simd);

}  // namespace malt
