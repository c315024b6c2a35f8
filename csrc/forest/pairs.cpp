// Chosen and rejected outputs, in one loop over blocks; every policy is a choice among the pairs
// that a block allows.
#include "forest/pairs.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "forest/twins.hpp"

namespace malt {
namespace {

struct Candidate {
    NodeId id;
    Fraction value;
    bool positive;
};

struct CandidatePair {
    const Candidate* chosen;
    const Candidate* rejected;
};

bool same_text(const Nodes& nodes, NodeId a, NodeId b) {
    return nodes.token_len[a] == nodes.token_len[b] &&
           std::ranges::equal(nodes.tokens_of(a), nodes.tokens_of(b));
}

// Calls visit(candidates) for the valued children of every node above `level`, in ascending order.
template <class Visit>
void for_each_parent(const Nodes& nodes, const Credit& credit, Level level, Visit visit) {
    std::vector<Candidate> candidates;
    for (std::size_t next = 0; next < nodes.size();) {
        const auto first = static_cast<NodeId>(next);
        if (nodes.parent[first] == kNoNode) {
            ++next;
            continue;
        }
        next += nodes.n_children[nodes.parent[first]];
        if (nodes.level[first] != level) continue;
        candidates.clear();
        for (NodeId v = first; v < static_cast<NodeId>(next); ++v) {
            if (const Fraction value = credit.exact[v]; value.exists())
                candidates.push_back({v, value, credit.rule.positive(value)});
        }
        visit(std::span<const Candidate>{candidates});
    }
}

// The same for the children of twins together: outputs with the same tokens are one candidate, the
// first of them, with the mean of their values. In ascending order of the first twins.
template <class Visit>
void for_each_prompt(const Nodes& nodes, const Credit& credit, Level level, Visit visit) {
    const Twins twins = find_twins(nodes, credit, level);
    std::vector<Candidate> candidates;
    std::vector<Fraction> values;
    const auto add = [&](NodeId v) {
        values.clear();
        for (NodeId twin = v; twin != kNoNode; twin = twins.next[twin])
            values.push_back(credit.exact[twin]);
        const Fraction value = values.size() == 1 ? values.front() : mean_of(values);
        candidates.push_back({v, value, credit.rule.positive(value)});
    };
    for (NodeId first = 0; first < nodes.size(); ++first) {
        if (nodes.level[first] + 1 != level || twins.first[first] != first) continue;
        candidates.clear();
        for (NodeId parent = first; parent != kNoNode; parent = twins.next[parent]) {
            for (NodeId v = nodes.first_child[parent], i = 0; i < nodes.n_children[parent];
                 ++v, ++i) {
                if (twins.first[v] == v) add(v);
            }
        }
        visit(std::span<const Candidate>{candidates});
    }
}

template <class Visit>
void for_each_block(const Nodes& nodes, const Credit& credit, Level level, bool dedup,
                    Visit visit) {
    if (dedup)
        for_each_prompt(nodes, credit, level, visit);
    else
        for_each_parent(nodes, credit, level, visit);
}

Wide product(Wide a, Wide b) {
    Wide result = 0;
    if (__builtin_mul_overflow(a, b, &result))
        throw std::domain_error("min_margin cannot be compared exactly: use smaller integers");
    return result;
}

// a - b >= margin, over the common denominator of a and b.
bool apart(Fraction a, Fraction b, Fraction margin) {
    const std::int64_t shared = std::gcd(a.den, b.den);
    const Wide difference = Wide{a.num} * (b.den / shared) - Wide{b.num} * (a.den / shared);
    const Wide den = Wide{a.den} * (b.den / shared);
    return product(difference, margin.den) >= product(den, margin.num);
}

void collect_pairs(const Nodes& nodes, std::span<const Candidate> candidates, const PairRule& rule,
                   std::vector<CandidatePair>& pairs) {
    pairs.clear();
    for (const Candidate& chosen : candidates) {
        if (!chosen.positive) continue;
        for (const Candidate& rejected : candidates) {
            if (rejected.positive) continue;
            if (!rule.dedup && same_text(nodes, chosen.id, rejected.id)) continue;
            if (rule.min_margin.num > 0 && !apart(chosen.value, rejected.value, rule.min_margin))
                continue;
            pairs.push_back({&chosen, &rejected});
        }
    }
}

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
std::uint64_t mix(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15U;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9U;
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBU;
    return x ^ (x >> 31U);
}

std::uint64_t path_hash(const Nodes& nodes, NodeId v, std::uint64_t seed) {
    std::uint64_t hash = mix(seed ^ nodes.level[v]);
    for (NodeId p = nodes.parent[v]; p != kNoNode; v = p, p = nodes.parent[v])
        hash = mix(hash ^ (v - nodes.first_child[p]));
    return mix(hash ^ v);
}

NodeId root_of(const Nodes& nodes, NodeId v) {
    while (nodes.parent[v] != kNoNode) v = nodes.parent[v];
    return v;
}

// The pairs to keep among the (non-empty) pairs of a block.
std::span<const CandidatePair> choose(const Nodes& nodes, std::span<const CandidatePair> pairs,
                                      const PairRule& rule) {
    if (rule.policy == Policy::kAll) return pairs;
    if (rule.policy == Policy::kOne) {
        const NodeId parent = nodes.parent[pairs.front().chosen->id];
        return pairs.subspan(path_hash(nodes, parent, rule.seed) % pairs.size(), 1);
    }
    const auto worse = [](const CandidatePair& a, const CandidatePair& b) {
        if (less(a.chosen->value, b.chosen->value)) return true;
        if (less(b.chosen->value, a.chosen->value)) return false;
        return less(b.rejected->value, a.rejected->value);
    };
    const auto best = std::ranges::max_element(pairs, worse);  // the first of equals
    return {best, 1};
}

// Keeps at most `limit` pairs per question: those with the smallest hashes.
void limit_per_question(const Nodes& nodes, std::vector<Pair>& pairs, std::size_t limit,
                        std::uint64_t seed) {
    struct Draw {
        NodeId question;
        std::uint64_t hash;
        std::size_t index;
        auto operator<=>(const Draw&) const = default;
    };
    std::vector<Draw> draws(pairs.size());
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        const auto [chosen, rejected] = pairs[i];
        const std::uint64_t hash = path_hash(nodes, rejected, path_hash(nodes, chosen, seed));
        draws[i] = {root_of(nodes, chosen), hash, i};
    }
    std::ranges::sort(draws);
    std::vector<std::size_t> kept;
    std::size_t taken = 0;
    for (std::size_t i = 0; i < draws.size(); ++i) {
        taken = i > 0 && draws[i].question == draws[i - 1].question ? taken + 1 : 0;
        if (taken < limit) kept.push_back(draws[i].index);
    }
    std::ranges::sort(kept);
    for (std::size_t i = 0; i < kept.size(); ++i) pairs[i] = pairs[kept[i]];
    pairs.resize(kept.size());
}

void check(const Nodes& nodes, const Credit& credit, Level level) {
    if (credit.exact.size() != nodes.size())
        throw std::invalid_argument("the forest has grown since its credit was computed");
    if (level == 0)
        throw std::invalid_argument("level must be at least 1: questions are not trained on");
}

}  // namespace

std::vector<NodeId> find_examples(const Nodes& nodes, const Credit& credit, Level level,
                                  Source source, bool dedup) {
    check(nodes, credit, level);
    std::vector<NodeId> found;
    for_each_block(nodes, credit, level, dedup, [&](std::span<const Candidate> candidates) {
        if (source == Source::kPaired && std::ranges::all_of(candidates, &Candidate::positive))
            return;
        for (const Candidate& candidate : candidates) {
            if (candidate.positive) found.push_back(candidate.id);
        }
    });
    std::ranges::sort(found);  // cousins of a block may have smaller ids than the next block
    return found;
}

std::vector<Labelled> find_labelled(const Nodes& nodes, const Credit& credit, Level level,
                                    bool dedup) {
    check(nodes, credit, level);
    std::vector<Labelled> found;
    for_each_block(nodes, credit, level, dedup, [&](std::span<const Candidate> candidates) {
        for (const Candidate& candidate : candidates)
            found.push_back({candidate.id, candidate.positive});
    });
    std::ranges::sort(found, {}, &Labelled::id);
    return found;
}

std::vector<Pair> find_pairs(const Nodes& nodes, const Credit& credit, Level level,
                             const PairRule& rule) {
    check(nodes, credit, level);
    std::vector<Pair> found;
    std::vector<CandidatePair> allowed;
    for_each_block(nodes, credit, level, rule.dedup, [&](std::span<const Candidate> candidates) {
        collect_pairs(nodes, candidates, rule, allowed);
        if (allowed.empty()) return;
        for (const auto& [chosen, rejected] : choose(nodes, allowed, rule))
            found.push_back({chosen->id, rejected->id});
    });
    if (rule.max_per_question > 0)
        limit_per_question(nodes, found, rule.max_per_question, rule.seed);
    return found;
}

}  // namespace malt
