#include "packing/tree_layout.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "packing/binpack.hpp"

namespace malt {
namespace {

using Index = std::int32_t;
constexpr Index kNone = -1;

std::size_t at(Index i) {
    return static_cast<std::size_t>(i);
}

// Room for n values. A large layout waits for its pages more than for anything else: the system is
// asked for huge ones.
void reserve_pages(std::vector<std::int32_t>& values, std::size_t n) {
    values.reserve(n);
#ifdef __linux__
    constexpr std::uintptr_t kHuge = std::uintptr_t{1} << 21U;
    const auto begin = reinterpret_cast<std::uintptr_t>(values.data());
    const std::uintptr_t first = (begin + kHuge - 1) & ~(kHuge - 1);
    const std::uintptr_t last = (begin + n * sizeof values[0]) & ~(kHuge - 1);
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// ---- a compressed trie over all sequences ----

// A run of tokens without a branch: arena[begin, begin + len).
struct Node {
    std::int64_t begin;
    Index len;
    Index depth;  // tokens from the root to its end
    Index parent = kNone, first_child = kNone, last_child = kNone, previous = kNone, next = kNone;
};

// Node by (parent, first token): open addressing, at most half full.
class Children {
  public:
    explicit Children(std::size_t n) : slots_(std::bit_ceil(2 * n + 2), {kEmpty, kNone}) {}

    // The entry of the child, kNone in it if there is none yet.
    Index& operator()(Index parent, std::int32_t token) {
        if (2 * used_ > slots_.size()) grow();
        const std::uint64_t key = std::uint64_t{static_cast<std::uint32_t>(parent)} << 32 |
                                  static_cast<std::uint32_t>(token);
        Slot& slot = find(key);
        if (slot.key == kEmpty) {
            slot.key = key;
            ++used_;
        }
        return slot.node;
    }

  private:
    struct Slot {
        std::uint64_t key;
        Index node;
    };
    static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // no node has the number 2^32 - 1

    Slot& find(std::uint64_t key) {
        const std::size_t mask = slots_.size() - 1;
        // The top bits: those below would not depend on the parent.
        std::size_t i = key * 0x9E3779B97F4A7C15 >> std::countl_zero(mask);
        while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & mask;
        return slots_[i];
    }
    void grow() {
        std::vector<Slot> old(2 * slots_.size(), {kEmpty, kNone});
        old.swap(slots_);
        for (const Slot& slot : old)
            if (slot.key != kEmpty) find(slot.key) = slot;
    }

    std::vector<Slot> slots_;
    std::size_t used_ = 0;
};

class Trie {
  public:
    explicit Trie(std::span<const std::int32_t> arena, std::size_t sequences)
        : arena_(arena), children_(sequences) {
        nodes.push_back({.begin = 0, .len = 0, .depth = 0});
    }

    // Goes on from the end of `node` by arena[begin, begin + len); the node that ends there.
    Index insert(Index node, std::int64_t begin, Index len) {
        while (len > 0) {
            Index child = children_(node, arena_[static_cast<std::size_t>(begin)]);
            if (child == kNone) return append(node, begin, len);
            const Index same =
                common(nodes[at(child)].begin, begin, std::min(nodes[at(child)].len, len));
            if (same < nodes[at(child)].len) child = split(child, same);
            node = child;
            begin += same;
            len -= same;
        }
        return node;
    }

    // All nodes, parents first, children in the order in which they came.
    [[nodiscard]] std::vector<Index> preorder() const {
        std::vector<Index> order;
        order.reserve(nodes.size());
        for (Index node = 0; node != kNone;) {
            order.push_back(node);
            if (nodes[at(node)].first_child != kNone) {
                node = nodes[at(node)].first_child;
                continue;
            }
            while (node != kNone && nodes[at(node)].next == kNone) node = nodes[at(node)].parent;
            if (node != kNone) node = nodes[at(node)].next;
        }
        return order;
    }

    std::vector<Node> nodes;

  private:
    [[nodiscard]] Index common(std::int64_t a, std::int64_t b, Index most) const {
        constexpr Index kStride = 16;
        const std::int32_t *x = arena_.data() + a, *y = arena_.data() + b;
        if (x == y) return most;
        Index n = 0;
        while (n + kStride <= most && std::memcmp(x + n, y + n, kStride * sizeof *x) == 0)
            n += kStride;
        while (n < most && x[n] == y[n]) ++n;
        return n;
    }
    Index append(Index parent, std::int64_t begin, Index len) {
        const auto node = static_cast<Index>(nodes.size());
        Node& above = nodes[at(parent)];
        const Index previous = above.last_child;
        (previous == kNone ? above.first_child : nodes[at(previous)].next) = node;
        above.last_child = node;
        const Index depth = above.depth + len;
        nodes.push_back(
            {.begin = begin, .len = len, .depth = depth, .parent = parent, .previous = previous});
        children_(parent, arena_[static_cast<std::size_t>(begin)]) = node;
        return node;
    }
    // A new node takes the first `len` tokens of `node`, and its place among its siblings. What
    // ends in `node` still does.
    Index split(Index node, Index len) {
        const auto upper = static_cast<Index>(nodes.size());
        nodes.push_back(nodes[at(node)]);
        Node &above = nodes.back(), &lower = nodes[at(node)];
        above.depth -= lower.len - len;
        above.len = len;
        above.first_child = above.last_child = node;
        Node& parent = nodes[at(above.parent)];
        (above.previous == kNone ? parent.first_child : nodes[at(above.previous)].next) = upper;
        (above.next == kNone ? parent.last_child : nodes[at(above.next)].previous) = upper;
        lower.parent = upper;
        lower.previous = lower.next = kNone;
        lower.begin += len;
        lower.len -= len;
        children_(above.parent, arena_[static_cast<std::size_t>(above.begin)]) = upper;
        children_(upper, arena_[static_cast<std::size_t>(lower.begin)]) = node;
        return upper;
    }

    std::span<const std::int32_t> arena_;
    Children children_;
};

// ---- what has to share a pack ----

// Sequences that stay together, and the pairs they are there for.
struct Unit {
    std::vector<Index> members, links;
    std::int64_t size;  // tokens of its trie, from the root
    Index node;         // the lowest one that all of its sequences pass
};

class Layout {
  public:
    Layout(const Sequences& sequences, std::span<const std::int64_t> pairs, std::int64_t capacity)
        : sequences_(sequences),
          pairs_(pairs),
          capacity_(capacity),
          trie_(sequences.tokens, sequences.size()),
          last_(sequences.size()) {}

    Packs run() {
        insert_all();
        order_ = trie_.preorder();
        rank_.resize(order_.size());
        for (std::size_t i = 0; i < order_.size(); ++i)
            rank_[at(order_[i])] = static_cast<Index>(i);
        mark_.assign(order_.size(), kNone);
        place_.resize(order_.size());
        stop_.resize(order_.size());
        find_units();
        std::vector<Pack> packs;
        for (const std::vector<Index>& units : fill()) packs.push_back(pack_of(units));
        return written(packs);
    }

  private:
    [[nodiscard]] Node& node(Index i) { return trie_.nodes[at(i)]; }
    [[nodiscard]] Index sequence_of(std::size_t pair, std::size_t side) const {
        return static_cast<Index>(pairs_[2 * pair + side]);
    }

    void insert_all() {
        std::unordered_map<std::uint64_t, Index> ends;  // of prompts
        for (std::size_t i = 0; i < sequences_.size(); ++i) {
            const std::int64_t begin = sequences_.prompt_begin[i];
            const Index len = sequences_.prompt_len[i];
            // Slices that begin alike and differ in length are told apart by the depth of the end.
            const auto [known, fresh] = ends.try_emplace(static_cast<std::uint64_t>(begin), 0);
            if (fresh || node(known->second).depth != len)
                known->second = trie_.insert(0, begin, len);
            last_[i] = trie_.insert(known->second, sequences_.completion_begin[i],
                                    sequences_.completion_len[i] - 1);
        }
    }

    // Marks the path of a sequence; the tokens that had not been marked by `mark`.
    std::int64_t mark_path(Index sequence, Index mark) {
        std::int64_t added = 0;
        for (Index n = last_[at(sequence)]; n != kNone && mark_[at(n)] != mark;
             n = node(n).parent) {
            mark_[at(n)] = mark;
            added += node(n).len;
        }
        return added;
    }
    [[nodiscard]] Index meet(Index a, Index b) {
        while (a != b) {
            Index& lower = node(a).depth >= node(b).depth ? a : b;
            lower = node(lower).parent;
        }
        return a;
    }

    void find_units() {
        std::vector<Index> group(sequences_.size());
        std::iota(group.begin(), group.end(), 0);
        const auto root = [&](Index i) {
            while (group[at(i)] != i) i = group[at(i)] = group[at(group[at(i)])];
            return i;
        };
        const std::size_t n_pairs = pairs_.size() / 2;
        for (std::size_t p = 0; p < n_pairs; ++p) {  // the smallest member stands for its group
            const auto [low, high] =
                std::minmax({root(sequence_of(p, 0)), root(sequence_of(p, 1))});
            group[at(high)] = low;
        }
        std::vector<std::vector<Index>> links(sequences_.size());
        for (std::size_t p = 0; p < n_pairs; ++p)
            links[at(root(sequence_of(p, 0)))].push_back(static_cast<Index>(p));
        for (std::size_t i = 0; i < sequences_.size(); ++i) {
            const auto self = static_cast<Index>(i);
            if (root(self) != self) continue;
            if (links[i].empty())
                add_unit({self}, {}, mark_path(self, next_mark_++));
            else
                add_linked(links[i]);
        }
    }

    // One unit of all pairs, or as many as it takes for each to fit.
    void add_linked(const std::vector<Index>& links) {
        std::vector<Index> members, part;
        std::int64_t size = 0;
        Index mark = next_mark_++;
        const auto add = [&](Index pair) {
            std::int64_t added = 0;
            for (const std::size_t side : {0, 1}) {
                const Index sequence = sequence_of(at(pair), side);
                added += mark_path(sequence, mark);
                members.push_back(sequence);
            }
            part.push_back(pair);
            return added;
        };
        for (const Index pair : links) {
            const std::int64_t added = add(pair);
            if (size + added <= capacity_ || part.size() == 1) {
                size += added;
                continue;
            }
            members.resize(members.size() - 2);
            part.pop_back();
            add_unit(std::move(members), std::move(part), size);
            members = {}, part = {}, mark = next_mark_++;
            size = add(pair);
        }
        add_unit(std::move(members), std::move(part), size);
    }

    void add_unit(std::vector<Index> members, std::vector<Index> links, std::int64_t size) {
        std::ranges::sort(members);
        members.erase(std::ranges::unique(members).begin(), members.end());
        if (size > capacity_) {
            const Index longest = *std::ranges::max_element(
                members, {}, [&](Index i) { return node(last_[at(i)]).depth; });
            throw std::invalid_argument("sequence " + std::to_string(longest) + " needs " +
                                        std::to_string(size) + " tokens, a pack has " +
                                        std::to_string(capacity_));
        }
        Index top = last_[at(members[0])];
        for (const Index i : members) top = meet(top, last_[at(i)]);
        units_.push_back({std::move(members), std::move(links), size, top});
    }

    // ---- which units share a pack ----

    // Units that go together, as a list, and the tokens they take below the node it hangs at.
    struct Item {
        std::int64_t size;
        Index first, last;  // units
        Index next;         // item of the same node
    };

    // Units of each pack. Children before parents: what fits together below a node becomes one item
    // of its parent, else as many as it takes, each with the node's own tokens.
    std::vector<std::vector<Index>> fill() {
        std::vector<Item> items;
        std::vector<Index> head(trie_.nodes.size(), kNone);  // items of each node
        following_.assign(units_.size(), kNone);
        const auto hang = [&](Index n, Item item) {
            item.next = head[at(n)];
            head[at(n)] = static_cast<Index>(items.size());
            items.push_back(item);
        };
        for (std::size_t u = units_.size(); u-- > 0;) {
            const Unit& unit = units_[u];
            const auto self = static_cast<Index>(u);
            hang(unit.node, {unit.size - node(unit.node).depth, self, self, kNone});
        }
        std::vector<Item> mine, bins;
        for (std::size_t i = order_.size(); i-- > 0;) {
            const Index n = order_[i];
            mine.clear();
            for (Index item = head[at(n)]; item != kNone; item = items[at(item)].next)
                mine.push_back(items[at(item)]);
            if (mine.empty()) continue;
            const Node& here = node(n);
            const std::int64_t above = here.depth - here.len;
            const std::int64_t all = total(mine);
            if (n != 0 && here.len + all <= capacity_ - above)
                bins.assign(1, join(mine));
            else
                pack(mine, capacity_ - here.depth, bins);
            if (n == 0) return lists(bins);
            for (std::size_t b = bins.size(); b-- > 0;) {
                bins[b].size += here.len;
                hang(here.parent, bins[b]);
            }
        }
        return {};
    }

    static std::int64_t total(std::span<const Item> items) {
        std::int64_t sum = 0;
        for (const Item& item : items) sum += item.size;
        return sum;
    }
    Item join(std::span<const Item> items) {
        Item all = items[0];
        for (const Item& item : items.subspan(1)) append(all, item);
        return all;
    }
    void append(Item& to, const Item& item) {
        following_[at(to.last)] = item.first;
        to.last = item.last;
        to.size += item.size;
    }
    void pack(std::span<const Item> items, std::int64_t capacity, std::vector<Item>& bins) {
        std::vector<std::int64_t> sizes(items.size());
        std::ranges::transform(items, sizes.begin(), &Item::size);
        std::vector<std::int32_t> bin(items.size());
        const std::int32_t n = best_fit_decreasing(sizes, capacity, bin);
        bins.assign(static_cast<std::size_t>(n), {0, kNone, kNone, kNone});
        for (std::size_t i = 0; i < items.size(); ++i) {
            Item& into = bins[at(bin[i])];
            if (into.first == kNone)
                into = items[i];
            else
                append(into, items[i]);
        }
    }
    std::vector<std::vector<Index>> lists(std::span<const Item> items) {
        std::vector<std::vector<Index>> out;
        for (const Item& item : items) {
            out.emplace_back();
            for (Index u = item.first; u != kNone; u = following_[at(u)]) {
                out.back().push_back(u);
                if (u == item.last) break;
            }
        }
        std::ranges::sort(out, {}, [&](const std::vector<Index>& units) {
            Index least = std::numeric_limits<Index>::max();
            for (const Index u : units) least = std::min(least, units_[at(u)].members[0]);
            return std::pair{
                least, units_[at(units[0])].links.empty() ? 0 : units_[at(units[0])].links[0]};
        });
        return out;
    }

    // ---- one pack ----

    struct Pack {
        std::vector<Index> members, links;  // ascending
        std::vector<Index> nodes;           // on the paths of its members, depth first
    };

    Pack pack_of(const std::vector<Index>& units) {
        Pack pack;
        for (const Index u : units) {
            const Unit& unit = units_[at(u)];
            pack.members.insert(pack.members.end(), unit.members.begin(), unit.members.end());
            pack.links.insert(pack.links.end(), unit.links.begin(), unit.links.end());
        }
        std::ranges::sort(pack.members);
        pack.members.erase(std::ranges::unique(pack.members).begin(), pack.members.end());
        std::ranges::sort(pack.links);
        pack.nodes = path_nodes(pack.members);
        return pack;
    }

    Packs written(std::span<const Pack> packs) {
        Packs out;
        reserve(packs, out);
        for (const Pack& pack : packs) {
            write_tokens(pack.nodes, out);
            for (const Index i : pack.members) write_targets(i, out);
            out.member.insert(out.member.end(), pack.members.begin(), pack.members.end());
            out.link.insert(out.link.end(), pack.links.begin(), pack.links.end());
            out.begin.push_back(static_cast<std::int64_t>(out.token.size()));
            out.target_begin.push_back(static_cast<std::int64_t>(out.row.size()));
            out.member_begin.push_back(static_cast<std::int64_t>(out.member.size()));
            out.link_begin.push_back(static_cast<std::int64_t>(out.link.size()));
        }
        return out;
    }

    void reserve(std::span<const Pack> packs, Packs& out) {
        std::size_t tokens = 0, targets = 0;
        for (const Pack& pack : packs) {
            for (const Index n : pack.nodes) tokens += at(node(n).len);
            for (const Index i : pack.members) targets += at(sequences_.completion_len[at(i)]);
        }
        for (auto* column : {&out.token, &out.position, &out.end}) reserve_pages(*column, tokens);
        for (auto* column : {&out.row, &out.target, &out.owner}) reserve_pages(*column, targets);
    }

    // Nodes on the paths of `members`, depth first.
    std::vector<Index> path_nodes(std::span<const Index> members) {
        const Index mark = next_mark_++;
        std::vector<Index> nodes;
        for (const Index i : members)
            for (Index n = last_[at(i)]; n != kNone && mark_[at(n)] != mark; n = node(n).parent) {
                mark_[at(n)] = mark;
                nodes.push_back(n);
            }
        std::ranges::sort(nodes, {}, [&](Index n) { return rank_[at(n)]; });
        return nodes;
    }

    void write_tokens(std::span<const Index> nodes, Packs& out) {
        Index rows = 0;
        for (const Index n : nodes) {
            place_[at(n)] = rows;
            rows += node(n).len;
            stop_[at(n)] = rows;
        }
        for (std::size_t i = nodes.size(); i-- > 1;) {  // children come after their parent
            Index& above = stop_[at(node(nodes[i]).parent)];
            above = std::max(above, stop_[at(nodes[i])]);
        }
        for (const Index n : nodes) {
            const Node& run = node(n);
            const std::int32_t* tokens = sequences_.tokens.data() + run.begin;
            out.token.insert(out.token.end(), tokens, tokens + run.len);
            out.end.insert(out.end.end(), at(run.len), stop_[at(n)]);
            out.position.resize(out.token.size());
            std::iota(out.position.end() - run.len, out.position.end(), run.depth - run.len);
        }
    }

    // Row p - 1 + i of the sequence's path predicts token i of its completion, p the prompt's
    // length.
    void write_targets(Index sequence, Packs& out) {
        const std::size_t i = at(sequence), n = at(sequences_.completion_len[i]);
        const Index first = sequences_.prompt_len[i] - 1;
        const std::size_t start = out.row.size();
        out.row.resize(start + n);
        for (Index v = last_[i]; v != kNone && node(v).depth > first; v = node(v).parent) {
            const Index from = std::max(first, node(v).depth - node(v).len);
            const auto to = out.row.begin() + static_cast<std::ptrdiff_t>(start) + (from - first);
            std::iota(to, to + (node(v).depth - from),
                      place_[at(v)] + from - (node(v).depth - node(v).len));
        }
        const auto* tokens = sequences_.tokens.data() + sequences_.completion_begin[i];
        out.target.insert(out.target.end(), tokens, tokens + n);
        out.owner.insert(out.owner.end(), n, sequence);
    }

    const Sequences& sequences_;
    std::span<const std::int64_t> pairs_;
    std::int64_t capacity_;
    Trie trie_;
    std::vector<Index> last_;          // [M] the node that ends a sequence
    std::vector<Index> order_;         // nodes depth first
    std::vector<Index> rank_;          // place of a node in order_
    std::vector<Index> mark_;          // who visited a node last
    std::vector<Index> place_, stop_;  // rows of a node and the end of its subtree, in this pack
    std::vector<Unit> units_;
    std::vector<Index> following_;  // the next unit of an item
    Index next_mark_ = 0;
};

// ---- bad input ----

[[noreturn]] void refuse(const std::string& problem) {
    throw std::invalid_argument(problem);
}

void check_slice(std::int64_t begin, std::int32_t len, std::size_t size, std::size_t i,
                 const char* what) {
    const auto named = [&] {
        return std::string("the ") + what + " of sequence " + std::to_string(i);
    };
    if (len <= 0) refuse(named() + " is empty");
    if (begin < 0 || begin > static_cast<std::int64_t>(size) - len)
        refuse(named() + " lies outside of tokens");
}

void check_input(const Sequences& s, std::span<const std::int64_t> pairs, std::int64_t capacity) {
    constexpr Index kMost = std::numeric_limits<Index>::max();
    const std::size_t n = s.size();
    if (s.prompt_len.size() != n || s.completion_begin.size() != n || s.completion_len.size() != n)
        refuse("prompts and completions differ in number");
    if (n > kMost / 4 || pairs.size() / 2 > kMost / 4)
        refuse("too many sequences or pairs for one call");
    if (capacity <= 0 || capacity > kMost) refuse("capacity must be in 1..2^31 - 1");
    for (std::size_t i = 0; i < n; ++i) {
        check_slice(s.prompt_begin[i], s.prompt_len[i], s.tokens.size(), i, "prompt");
        check_slice(s.completion_begin[i], s.completion_len[i], s.tokens.size(), i, "completion");
        if (s.prompt_len[i] > kMost - s.completion_len[i])
            refuse("sequence " + std::to_string(i) + " is too long");
    }
    if (pairs.size() % 2 != 0) refuse("pairs must hold two indices each");
    for (const std::int64_t i : pairs)
        if (i < 0 || i >= static_cast<std::int64_t>(n))
            refuse("pairs name sequence " + std::to_string(i) + " of " + std::to_string(n));
}

}  // namespace

Packs lay_out(const Sequences& sequences, std::span<const std::int64_t> pairs,
              std::int64_t capacity) {
    check_input(sequences, pairs, capacity);
    return sequences.size() ? Layout(sequences, pairs, capacity).run() : Packs{};
}

BlockMap block_map(std::span<const std::int32_t> end, std::int64_t block) {
    if (block <= 0) refuse("block must be positive");
    const auto size = static_cast<std::size_t>(block);
    const std::size_t n = (end.size() + size - 1) / size;
    std::vector<std::int32_t> least(n), most(n);
    for (std::size_t b = 0; b < n; ++b) {
        const auto part = end.subspan(b * size, std::min(size, end.size() - b * size));
        const auto [low, high] = std::ranges::minmax(part);
        least[b] = low;
        most[b] = high;
    }
    BlockMap map{.count = std::vector<std::int32_t>(n),
                 .index = std::vector<std::int32_t>(n * n),
                 .full_count = std::vector<std::int32_t>(n),
                 .full_index = std::vector<std::int32_t>(n * n)};
    for (std::size_t q = 0; q < n; ++q) {
        const auto first = static_cast<std::int64_t>(q * size);
        const auto stop = static_cast<std::int64_t>(std::min((q + 1) * size, end.size()));
        for (std::size_t k = 0; k <= q; ++k) {
            if (k < q && most[k] <= first) continue;
            const bool full = k < q && least[k] >= stop;
            auto& count = full ? map.full_count : map.count;
            (full ? map.full_index : map.index)[q * n + at(count[q]++)] =
                static_cast<std::int32_t>(k);
        }
    }
    return map;
}

}  // namespace malt
