// Attention over a pack of prefix trees (tree_layout.hpp) on the CPU: row q sees row k exactly when
// k <= q < end[k].
//
//     s = cap(scale q k^T),   p = softmax over the rows that q sees,   out = p v
//
// Works through blocks of queries within a tree, each against the keys that any of its queries
// sees, so that the cost follows what is visible; subtrees that have ended are skipped. `groups`
// key heads serve heads / groups query heads each, which share a block's keys. Arithmetic is
// float32; results do not depend on the number of threads. The caller validates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace malt {

// [heads, rows, width]; the values of a row are contiguous.
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

// The result, and what the gradient needs of it.
struct Attended {
    Heads out;       // as q
    float* log_sum;  // [heads, rows]: log sum exp s
};

struct AttentionGradient {
    Heads dq, dk, dv;  // as q, k, v
};

void tree_attention(const Attention& attention, const Attended& to, std::string_view simd);

// Of sum(grad * out), where `forward` is the result of tree_attention and grad is as out.
void tree_attention_gradient(const Attention& attention, const Attended& forward, Heads grad,
                             const AttentionGradient& to, std::string_view simd);

}  // namespace malt
