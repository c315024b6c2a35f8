// Inserting into the trie, and walking it depth first.
#include "packing/trie.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace malt {
namespace {

constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // no node has the number 2^32 - 1

}  // namespace

ChildTable::ChildTable(std::size_t n) : slots_(std::bit_ceil(2 * n + 2), {kEmpty, kNone}) {}

Index& ChildTable::operator()(Index parent, std::int32_t token) {
    if (2 * used_ > slots_.size()) grow();
    const std::uint64_t key =
        std::uint64_t{static_cast<std::uint32_t>(parent)} << 32 | static_cast<std::uint32_t>(token);
    Slot& slot = find(key);
    if (slot.key == kEmpty) {
        slot.key = key;
        ++used_;
    }
    return slot.node;
}

ChildTable::Slot& ChildTable::find(std::uint64_t key) {
    const std::size_t mask = slots_.size() - 1;
    // Multiplication hashes well in the top bits only: the low ones do not depend on the parent.
    std::size_t i = key * 0x9E3779B97F4A7C15 >> std::countl_zero(mask);
    while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & mask;
    return slots_[i];
}

void ChildTable::grow() {
    std::vector<Slot> old(2 * slots_.size(), {kEmpty, kNone});
    old.swap(slots_);
    for (const Slot& slot : old)
        if (slot.key != kEmpty) find(slot.key) = slot;
}

Trie::Trie(std::span<const std::int32_t> arena, std::size_t sequences)
    : arena_(arena), children_(sequences) {
    nodes_.push_back({.begin = 0, .len = 0, .depth = 0});
}

Index Trie::insert(Index node, std::int64_t begin, Index len) {
    while (len > 0) {
        Index child = children_(node, arena_[static_cast<std::size_t>(begin)]);
        if (child == kNone) return append(node, begin, len);
        const Index same =
            common(nodes_[at(child)].begin, begin, std::min(nodes_[at(child)].len, len));
        if (same < nodes_[at(child)].len) child = split(child, same);
        node = child;
        begin += same;
        len -= same;
    }
    return node;
}

std::vector<Index> Trie::preorder() const {
    std::vector<Index> order;
    order.reserve(nodes_.size());
    for (Index node = 0; node != kNone;) {
        order.push_back(node);
        if (nodes_[at(node)].first_child != kNone) {
            node = nodes_[at(node)].first_child;
            continue;
        }
        while (node != kNone && nodes_[at(node)].next == kNone) node = nodes_[at(node)].parent;
        if (node != kNone) node = nodes_[at(node)].next;
    }
    return order;
}

// Length of the common prefix of arena[a...] and arena[b...], at most `most`.
Index Trie::common(std::int64_t a, std::int64_t b, Index most) const {
    constexpr Index kStride = 16;
    const std::int32_t *x = arena_.data() + a, *y = arena_.data() + b;
    if (x == y) return most;
    Index n = 0;
    while (n + kStride <= most && std::memcmp(x + n, y + n, kStride * sizeof *x) == 0) n += kStride;
    while (n < most && x[n] == y[n]) ++n;
    return n;
}

Index Trie::append(Index parent, std::int64_t begin, Index len) {
    const auto node = static_cast<Index>(nodes_.size());
    TrieNode& above = nodes_[at(parent)];
    const Index previous = above.last_child;
    (previous == kNone ? above.first_child : nodes_[at(previous)].next) = node;
    above.last_child = node;
    const Index depth = above.depth + len;
    nodes_.push_back(
        {.begin = begin, .len = len, .depth = depth, .parent = parent, .previous = previous});
    children_(parent, arena_[static_cast<std::size_t>(begin)]) = node;
    return node;
}

// A new node takes the first `len` tokens of `node` and its place among its siblings. Sequences
// that end in `node` still do.
Index Trie::split(Index node, Index len) {
    const auto upper = static_cast<Index>(nodes_.size());
    nodes_.push_back(nodes_[at(node)]);
    TrieNode &above = nodes_.back(), &lower = nodes_[at(node)];
    above.depth -= lower.len - len;
    above.len = len;
    above.first_child = above.last_child = node;
    TrieNode& parent = nodes_[at(above.parent)];
    (above.previous == kNone ? parent.first_child : nodes_[at(above.previous)].next) = upper;
    (above.next == kNone ? parent.last_child : nodes_[at(above.next)].previous) = upper;
    lower.parent = upper;
    lower.previous = lower.next = kNone;
    lower.begin += len;
    lower.len -= len;
    children_(above.parent, arena_[static_cast<std::size_t>(above.begin)]) = upper;
    children_(upper, arena_[static_cast<std::size_t>(lower.begin)]) = node;
    return upper;
}

}  // namespace malt
