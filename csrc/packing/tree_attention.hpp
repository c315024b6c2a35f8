// Attention over a pack of prefix trees (tree_layout.hpp) on the CPU: row q sees row k exactly when
// k <= q < end[k].
//
//     s = cap(scale q k^T),   p = softmax over the rows that q sees,   out = p v
//
// It works through blocks of queries within a tree, each against the keys that one of them sees, so
// that the cost follows what is visible; subtrees that have ended are stepped over. `groups` key
// heads serve heads / groups query heads each, which share a block's keys. Arithmetic is float32,
// results do not depend on the number of threads. The caller validates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace malt {

// [heads, rows, width]; the values of a row lie side by side.
struct Heads {
    float* data;
    std::ptrdiff_t head_stride, row_stride;

    [[nodiscard]] float* row(std::size_t head, std::size_t i) const {
        return data + static_cast<std::ptrdiff_t>(head) * head_stride +
               static_cast<std::ptrdiff_t>(i) * row_stride;
    }
};

struct Attention {
    Heads q, k, v;
    std::span<const std::int32_t> end;
    std::size_t heads, groups, width;
    float scale;
    float softcap;  // 0: none
};

// out as q; log_sum [heads, rows] = log sum exp s, which the gradient needs.
void tree_attention(const Attention& attention, Heads out, float* log_sum, std::string_view simd);

// dq as q, dk and dv as k: of sum(grad * out). `out` and `log_sum` are what tree_attention gave.
void tree_attention_gradient(const Attention& attention, Heads out, const float* log_sum,
                             Heads grad, Heads dq, Heads dk, Heads dv, std::string_view simd);

}  // namespace malt
