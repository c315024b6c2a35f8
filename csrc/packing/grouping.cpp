// Units of connected sequences, packed bottom-up along the trie.
#include "packing/grouping.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "packing/binpack.hpp"

namespace malt {
namespace {

// Sequences that stay together, and the pairs that connect them.
struct Unit {
    std::vector<Index> members, links;
    std::int64_t size;  // tokens of its trie, from the root
    Index node;         // the lowest node that all of its sequences pass
};

class Grouping {
  public:
    Grouping(const Trie& trie, std::span<const Index> order, std::span<const Index> last,
             std::span<const std::int64_t> pairs, std::int64_t capacity)
        : trie_(trie),
          order_(order),
          last_(last),
          pairs_(pairs),
          capacity_(capacity),
          mark_(trie.size(), kNone) {}

    std::vector<PackMembers> run() {
        find_units();
        std::vector<PackMembers> packs;
        for (const std::vector<Index>& units : fill()) packs.push_back(members_of(units));
        return packs;
    }

  private:
    [[nodiscard]] Index sequence_of(std::size_t pair, std::size_t side) const {
        return static_cast<Index>(pairs_[2 * pair + side]);
    }

    // Marks the path of a sequence; returns the number of tokens not yet marked by `mark`.
    std::int64_t mark_path(Index sequence, Index mark) {
        std::int64_t added = 0;
        for (Index n = last_[at(sequence)]; n != kNone && mark_[at(n)] != mark;
             n = trie_[n].parent) {
            mark_[at(n)] = mark;
            added += trie_[n].len;
        }
        return added;
    }
    // The lowest node above both.
    [[nodiscard]] Index meet(Index a, Index b) const {
        while (a != b) {
            Index& lower = trie_[a].depth >= trie_[b].depth ? a : b;
            lower = trie_[lower].parent;
        }
        return a;
    }

    void find_units() {
        std::vector<Index> group(last_.size());
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
        std::vector<std::vector<Index>> links(last_.size());
        for (std::size_t p = 0; p < n_pairs; ++p)
            links[at(root(sequence_of(p, 0)))].push_back(static_cast<Index>(p));
        for (std::size_t i = 0; i < last_.size(); ++i) {
            const auto self = static_cast<Index>(i);
            if (root(self) != self) continue;
            if (links[i].empty())
                add_unit({self}, {}, mark_path(self, next_mark_++));
            else
                add_linked(links[i]);
        }
    }

    // One unit of all the pairs, or as many units as it takes for each to fit.
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
                members, {}, [&](Index i) { return trie_[last_[at(i)]].depth; });
            throw std::invalid_argument("sequence " + std::to_string(longest) + " needs " +
                                        std::to_string(size) + " tokens, a pack has " +
                                        std::to_string(capacity_));
        }
        Index top = last_[at(members[0])];
        for (const Index i : members) top = meet(top, last_[at(i)]);
        units_.push_back({std::move(members), std::move(links), size, top});
    }

    // ---- which units share a pack ----

    // A linked list of units that go together, and the tokens they take below their node.
    struct Item {
        std::int64_t size;
        Index first, last;  // units
        Index next;         // item of the same node
    };

    // Units of each pack. Children come before parents: items that fit together below a node become
    // one item of its parent, otherwise several, each with the node's own tokens.
    std::vector<std::vector<Index>> fill() {
        std::vector<Item> items;
        std::vector<Index> head(trie_.size(), kNone);  // items of each node
        following_.assign(units_.size(), kNone);
        const auto hang = [&](Index n, Item item) {
            item.next = head[at(n)];
            head[at(n)] = static_cast<Index>(items.size());
            items.push_back(item);
        };
        for (std::size_t u = units_.size(); u-- > 0;) {
            const Unit& unit = units_[u];
            const auto self = static_cast<Index>(u);
            hang(unit.node, {unit.size - trie_[unit.node].depth, self, self, kNone});
        }
        std::vector<Item> mine, bins;
        for (std::size_t i = order_.size(); i-- > 0;) {
            const Index n = order_[i];
            mine.clear();
            for (Index item = head[at(n)]; item != kNone; item = items[at(item)].next)
                mine.push_back(items[at(item)]);
            if (mine.empty()) continue;
            const TrieNode& here = trie_[n];
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

    PackMembers members_of(const std::vector<Index>& units) const {
        PackMembers pack;
        for (const Index u : units) {
            const Unit& unit = units_[at(u)];
            pack.sequences.insert(pack.sequences.end(), unit.members.begin(), unit.members.end());
            pack.pairs.insert(pack.pairs.end(), unit.links.begin(), unit.links.end());
        }
        std::ranges::sort(pack.sequences);
        pack.sequences.erase(std::ranges::unique(pack.sequences).begin(), pack.sequences.end());
        std::ranges::sort(pack.pairs);
        return pack;
    }

    const Trie& trie_;
    std::span<const Index> order_, last_;
    std::span<const std::int64_t> pairs_;
    std::int64_t capacity_;
    std::vector<Index> mark_;  // who visited a node last
    Index next_mark_ = 0;
    std::vector<Unit> units_;
    std::vector<Index> following_;  // the next unit of an item
};

}  // namespace

std::vector<PackMembers> group_into_packs(const Trie& trie, std::span<const Index> order,
                                          std::span<const Index> last,
                                          std::span<const std::int64_t> pairs,
                                          std::int64_t capacity) {
    return Grouping(trie, order, last, pairs, capacity).run();
}

}  // namespace malt
