// Packs for training: prefix trees laid out depth first in one token sequence, shared prefixes
// once.
//
// Sequences are a prompt and a completion each. Two sequences [a b c d .] and [a b e f .] (the last
// token predicts nothing and is left out) become
//
//     row        0  1  2  3  4  5
//     token      a  b  c  d  e  f
//     position   0  1  2  3  2  3
//     end        6  6  4  4  6  6     the end of the subtree of the token's segment
//
// so that row q may see row k exactly when k <= q < end[k]. With a prompt of [a b] row 1 has two
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
    std::vector<std::int32_t> row;              // predicts
    std::vector<std::int32_t> target;           // this token
    std::vector<std::int32_t> owner;            // of this sequence; in the order of member
    std::vector<std::int64_t> member_begin{0};  // [P + 1]
    std::vector<std::int32_t> member;           // a pack's sequences, ascending
    std::vector<std::int64_t> link_begin{0};    // [P + 1]
    std::vector<std::int32_t> link;             // a pack's pairs, ascending
};

// Every sequence, and every pair with both of its sequences, into packs of at most `capacity`
// tokens. pairs: [2 L] indices of sequences. Sequences that pairs connect stay together where they
// fit; else their pairs are divided, and a sequence is repeated where pairs in two packs need it.
// A tree that is larger than a pack is cut into subtrees, their path repeated; packs are filled by
// best fit decreasing. Throws std::invalid_argument for slices outside of the arena, empty prompts
// or completions, and what does not fit a pack alone.
Packs lay_out(const Sequences& sequences, std::span<const std::int64_t> pairs,
              std::int64_t capacity);

// The blocks of a pack of N tokens, n = ceil(N / block): a block of queries sees count[i] blocks of
// keys in part, listed in index[i * n ...], and full_count[i] whole; FlexAttention's layout.
struct BlockMap {
    std::vector<std::int32_t> count, index, full_count, full_index;
};
BlockMap block_map(std::span<const std::int32_t> end, std::int64_t block);

}  // namespace malt
