// From sequences to a trie, from the trie to packs, from packs to columns.
#include "packing/tree_layout.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "packing/grouping.hpp"
#include "packing/trie.hpp"

namespace malt {
namespace {

// Room for n values, in huge pages: page faults are most of the cost of a large layout.
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

class Layout {
  public:
    Layout(const Sequences& sequences, std::span<const std::int64_t> pairs, std::int64_t capacity)
        : sequences_(sequences), trie_(sequences.tokens, sequences.size()) {
        insert_all();
        const std::vector<Index> order = trie_.preorder();
        rank_.resize(order.size());
        for (std::size_t i = 0; i < order.size(); ++i) rank_[at(order[i])] = static_cast<Index>(i);
        mark_.assign(order.size(), kNone);
        place_.resize(order.size());
        stop_.resize(order.size());
        for (PackMembers& members : group_into_packs(trie_, order, last_, pairs, capacity)) {
            std::vector<Index> nodes = path_nodes(members.sequences);
            packs_.push_back({std::move(members), std::move(nodes)});
        }
    }

    Packs write() {
        Packs out;
        reserve(out);
        for (const Pack& pack : packs_) {
            const auto& [sequences, pairs] = pack.members;
            write_tokens(pack.nodes, out);
            for (const Index i : sequences) write_targets(i, out);
            out.member.insert(out.member.end(), sequences.begin(), sequences.end());
            out.link.insert(out.link.end(), pairs.begin(), pairs.end());
            out.begin.push_back(static_cast<std::int64_t>(out.token.size()));
            out.target_begin.push_back(static_cast<std::int64_t>(out.row.size()));
            out.member_begin.push_back(static_cast<std::int64_t>(out.member.size()));
            out.link_begin.push_back(static_cast<std::int64_t>(out.link.size()));
        }
        return out;
    }

  private:
    struct Pack {
        PackMembers members;
        std::vector<Index> nodes;  // on the paths of its sequences, depth first
    };

    void insert_all() {
        std::unordered_map<std::uint64_t, Index> ends;  // of prompts, by their begin
        last_.reserve(sequences_.size());
        for (std::size_t i = 0; i < sequences_.size(); ++i) {
            const std::int64_t begin = sequences_.prompt_begin[i];
            const Index len = sequences_.prompt_len[i];
            // Slices with the same begin and different lengths differ in the depth of their end.
            const auto [known, fresh] = ends.try_emplace(static_cast<std::uint64_t>(begin), 0);
            if (fresh || trie_[known->second].depth != len)
                known->second = trie_.insert(0, begin, len);
            last_.push_back(trie_.insert(known->second, sequences_.completion_begin[i],
                                         sequences_.completion_len[i] - 1));
        }
    }

    void reserve(Packs& out) const {
        std::size_t tokens = 0, targets = 0;
        for (const Pack& pack : packs_) {
            for (const Index n : pack.nodes) tokens += at(trie_[n].len);
            for (const Index i : pack.members.sequences)
                targets += at(sequences_.completion_len[at(i)]);
        }
        for (auto* column : {&out.token, &out.position, &out.end}) reserve_pages(*column, tokens);
        for (auto* column : {&out.row, &out.target, &out.owner}) reserve_pages(*column, targets);
    }

    // Nodes on the paths of `members`, depth first.
    std::vector<Index> path_nodes(std::span<const Index> members) {
        const Index mark = next_mark_++;
        std::vector<Index> nodes;
        for (const Index i : members)
            for (Index n = last_[at(i)]; n != kNone && mark_[at(n)] != mark; n = trie_[n].parent) {
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
            rows += trie_[n].len;
            stop_[at(n)] = rows;
        }
        for (std::size_t i = nodes.size(); i-- > 1;) {  // children come after their parent
            Index& above = stop_[at(trie_[nodes[i]].parent)];
            above = std::max(above, stop_[at(nodes[i])]);
        }
        for (const Index n : nodes) {
            const TrieNode& run = trie_[n];
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
        for (Index v = last_[i]; v != kNone && trie_[v].depth > first; v = trie_[v].parent) {
            const Index from = std::max(first, trie_[v].depth - trie_[v].len);
            const auto to = out.row.begin() + static_cast<std::ptrdiff_t>(start) + (from - first);
            std::iota(to, to + (trie_[v].depth - from),
                      place_[at(v)] + from - (trie_[v].depth - trie_[v].len));
        }
        const auto* tokens = sequences_.tokens.data() + sequences_.completion_begin[i];
        out.target.insert(out.target.end(), tokens, tokens + n);
        out.owner.insert(out.owner.end(), n, sequence);
    }

    const Sequences& sequences_;
    Trie trie_;
    std::vector<Index> last_;          // [M] the node that ends a sequence
    std::vector<Index> rank_;          // place of a node in depth-first order
    std::vector<Index> mark_;          // who visited a node last
    std::vector<Index> place_, stop_;  // rows of a node and the end of its subtree, in this pack
    std::vector<Pack> packs_;
    Index next_mark_ = 0;
};

// ---- invalid input ----

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
        refuse(named() + " lies outside tokens");
}

void check_input(const Sequences& s, std::span<const std::int64_t> pairs, std::int64_t capacity) {
    constexpr Index kMost = std::numeric_limits<Index>::max();
    const std::size_t n = s.size();
    if (s.prompt_len.size() != n || s.completion_begin.size() != n || s.completion_len.size() != n)
        refuse("prompts and completions must have the same number");
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
    return sequences.size() ? Layout(sequences, pairs, capacity).write() : Packs{};
}

}  // namespace malt
