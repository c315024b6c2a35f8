// One block of queries of tree_attention.hpp, compiled once per instruction set
// (tree_attention_blocks.cpp).
#pragma once

#include <vector>

#include "packing/tree_attention.hpp"

namespace malt {

// Queries first .. stop - 1 of the heads that share key head `group`.
struct Block {
    std::size_t group, first, stop;
};

// Memory that a thread reuses from block to block.
struct Scratch {
    std::vector<std::int32_t> runs;     // first and last + 1 of each run of keys
    std::vector<std::int32_t> queries;  // row of each lane
    std::vector<float> weights, slopes;
    std::vector<float> transposed, rows, sums;
};

struct AttentionKernels {
    void (*forward)(const Attention& attention, const Block& block, const Attended& to,
                    Scratch& scratch);
    void (*gradient)(const Attention& attention, const Block& block, const Attended& forward,
                     Heads grad, const AttentionGradient& to, Scratch& scratch);
};

namespace portable {
extern const AttentionKernels kAttentionKernels;
}
namespace avx2 {
extern const AttentionKernels kAttentionKernels;
}
namespace avx512 {
extern const AttentionKernels kAttentionKernels;
}

}  // namespace malt
