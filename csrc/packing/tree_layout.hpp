// Packs for training: prefix trees laid out depth first in one token sequence, each shared prefix
// once.
//
// A sequence is a prompt and a completion. Two sequences [a b c d .] and [a b e f .] (the last
// token predicts nothing and is left out) become
//
//     row        0  1  2  3  4  5
//     token      a  b  c  d  e  f
//     position   0  1  2  3  2  3
//     end        6  6  4  4  6  6     the end of the subtree of the token's segment
//
// so that row q sees row k exactly when k <= q < end[k]. With a prompt of [a b] row 1 has two
// targets, c and e.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace malt {

// M sequences over one arena; equal prompts are best given as the same slice.
struct Sequences {
    std::span<const std::int32_t> tokens;
    std::span<const std::int64_t> prompt_begin;
    std::span<const std::int32_t> prompt_len;
    std::span<const std::int64_t> completion_begin;
    std::span<const std::int32_t> completion_len;

    [[nodiscard]] std::size_t size() const { return prompt_begin.size(); }
};

// P packs. Rows and ends count from the start of their pack.
struct Packs {
    std::vector<std::int64_t> begin{0};         // [P + 1] into the next three
    std::vector<std::int32_t> token;            // input
    std::vector<std::int32_t> position;         // from the root of the tree
    std::vector<std::int32_t> end;              // of the subtree
    std::vector<std::int64_t> target_begin{0};  // [P + 1] into the next three
    std::vector<std::int32_t> row;              // the row that predicts
    std::vector<std::int32_t> target;           // this token
    std::vector<std::int32_t> owner;            // of this sequence; in the order of member
    std::vector<std::int64_t> member_begin{0};  // [P + 1]
    std::vector<std::int32_t> member;           // a pack's sequences, ascending
    std::vector<std::int64_t> link_begin{0};    // [P + 1]
    std::vector<std::int32_t> link;             // a pack's pairs, ascending
};

// Lays every sequence, and every pair with both of its sequences, into packs of at most `capacity`
// tokens (grouping.hpp). pairs [2 L]: indices of sequences. Throws std::invalid_argument for slices
// outside the arena, empty prompts or completions, and what does not fit in a pack alone.
Packs lay_out(const Sequences& sequences, std::span<const std::int64_t> pairs,
              std::int64_t capacity);

}  // namespace malt
