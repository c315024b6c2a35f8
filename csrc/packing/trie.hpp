// A compressed trie over the sequences of a layout: each shared prefix is stored once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace malt {

using Index = std::int32_t;  // of a node, a sequence or a pair
inline constexpr Index kNone = -1;

inline std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

// A run of tokens without a branch: arena[begin, begin + len).
struct TrieNode {
    std::int64_t begin;
    Index len;
    Index depth;  // tokens from the root to its end
    Index parent = kNone, first_child = kNone, last_child = kNone, previous = kNone, next = kNone;
};

// Node by (parent, first token): open addressing, at most half full.
class ChildTable {
  public:
    explicit ChildTable(std::size_t n);

    // The entry of the child, kNone if there is none yet.
    Index& operator()(Index parent, std::int32_t token);

  private:
    struct Slot {
        std::uint64_t key;
        Index node;
    };
    Slot& find(std::uint64_t key);
    void grow();

    std::vector<Slot> slots_;
    std::size_t used_ = 0;
};

class Trie {
  public:
    Trie(std::span<const std::int32_t> arena, std::size_t sequences);

    // Continues from the end of `node` with arena[begin, begin + len); returns the node that ends
    // there.
    Index insert(Index node, std::int64_t begin, Index len);
    // All nodes, parents first, children in the order of their insertion.
    [[nodiscard]] std::vector<Index> preorder() const;

    [[nodiscard]] const TrieNode& operator[](Index node) const { return nodes_[at(node)]; }
    [[nodiscard]] std::size_t size() const { return nodes_.size(); }

  private:
    [[nodiscard]] Index common(std::int64_t a, std::int64_t b, Index most) const;
    Index append(Index parent, std::int64_t begin, Index len);
    Index split(Index node, Index len);

    std::span<const std::int32_t> arena_;
    ChildTable children_;
    std::vector<TrieNode> nodes_;
};

}  // namespace malt
