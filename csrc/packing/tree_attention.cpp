// Chooses the instruction set and spreads blocks, or whole trees, over threads.
#include "packing/tree_attention.hpp"

#include <algorithm>
#include <vector>

#include "kernels/levels.hpp"
#include "packing/tree_attention_blocks.hpp"

namespace malt {
namespace {

constexpr std::size_t kQueries = 32;  // per block; larger blocks waste more work on hidden keys

// The blocks of each tree, for each group; trees are independent.
std::vector<std::vector<Block>> blocks_of_trees(const Attention& attention) {
    std::vector<std::vector<Block>> out;
    const std::size_t n = attention.end.size();
    for (std::size_t root = 0; root < n;) {
        const auto stop = static_cast<std::size_t>(attention.end[root]);
        for (std::size_t group = 0; group < attention.groups; ++group) {
            out.emplace_back();
            for (std::size_t q = root; q < stop; q += kQueries)
                out.back().push_back({group, q, std::min(q + kQueries, stop)});
        }
        root = stop;
    }
    return out;
}

}  // namespace

void tree_attention(const Attention& attention, const Attended& to, std::string_view simd) {
    const AttentionKernels& kernels = MALT_OF_LEVEL(simd, kAttentionKernels);
    std::vector<Block> blocks;
    for (const std::vector<Block>& tree : blocks_of_trees(attention))
        blocks.insert(blocks.end(), tree.begin(), tree.end());
    const auto n = static_cast<std::ptrdiff_t>(blocks.size());
#pragma omp parallel
    {
        Scratch scratch;
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t i = 0; i < n; ++i)
            kernels.forward(attention, blocks[static_cast<std::size_t>(i)], to, scratch);
    }
}

void tree_attention_gradient(const Attention& attention, const Attended& forward, Heads grad,
                             const AttentionGradient& to, std::string_view simd) {
    const AttentionKernels& kernels = MALT_OF_LEVEL(simd, kAttentionKernels);
    // Blocks of a tree add to the gradients of the same keys: one thread takes them in order.
    const std::vector<std::vector<Block>> trees = blocks_of_trees(attention);
    const auto n = static_cast<std::ptrdiff_t>(trees.size());
#pragma omp parallel
    {
        Scratch scratch;
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const std::vector<Block>& blocks = trees[static_cast<std::size_t>(i)];
            for (std::size_t row = blocks.front().first; row < blocks.back().stop; ++row) {
                std::fill_n(to.dk.row(blocks.front().group, row), attention.width, 0.0F);
                std::fill_n(to.dv.row(blocks.front().group, row), attention.width, 0.0F);
            }
            for (const Block& block : blocks)
                kernels.gradient(attention, block, forward, grad, to, scratch);
        }
    }
}

}  // namespace malt
