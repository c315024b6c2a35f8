// The core used by many threads at once, for the sanitizers: writers, readers and views of one
// forest that outlive it, files that are mapped and dropped, and the functions without a state.
//
//     make sanitize                  # under the address and under the thread sanitizer
//     stress_forest ROUNDS
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "answers/answers.hpp"
#include "answers/extraction.hpp"
#include "forest/credit.hpp"
#include "forest/forest.hpp"
#include "forest/mapped_files.hpp"
#include "forest/pairs.hpp"
#include "packing/binpack.hpp"
#include "packing/tree_layout.hpp"

using namespace malt;

namespace {

constexpr std::size_t kReaders = 3;
constexpr std::size_t kWriters = 2;
constexpr std::size_t kTreesEach = 200;
const std::vector<std::int32_t> kShape{-1, -1, -1, 0, 0, 0, 1, 1, 2};

void check(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "stress_forest: %s\n", what);
    std::abort();
}

// What node `id` says: known to every thread, so that whoever reads can tell.
std::int32_t token_of(NodeId id, std::size_t j) {
    return static_cast<std::int32_t>(id * 131 + j);
}
std::size_t length_of(NodeId id) {
    return id % 7;
}

template <class Work>
void in_threads(std::size_t n, const Work& work) {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < n; ++i) threads.emplace_back([&work, i] { work(i); });
}

// Grows trees batch by batch; every third node fails, leaves are graded.
void write(Forest& forest, unsigned seed) {
    std::minstd_rand random(seed);
    for (std::size_t tree = 0; tree < kTreesEach; ++tree) {
        std::vector<NodeId> ids(kShape.size());
        {
            const std::scoped_lock lock(forest.mutex);
            std::iota(ids.begin(), ids.end(), forest.add_trees(1, kShape) + 1);
        }
        std::shuffle(ids.begin(), ids.end(), random);
        for (const NodeId id : ids) {
            std::vector<std::int32_t> tokens(length_of(id));
            for (std::size_t j = 0; j < tokens.size(); ++j) tokens[j] = token_of(id, j);
            const std::int64_t offsets[] = {0, static_cast<std::int64_t>(tokens.size())};
            const std::uint8_t stop = 0;
            const auto outcome = static_cast<std::uint8_t>(id % 2);
            const std::scoped_lock lock(forest.mutex);
            if (id % 3 == 0) {
                forest.fail({&id, 1});
                continue;
            }
            forest.complete({&id, 1}, tokens, offsets, {&stop, 1});
            if (forest.nodes().n_children[id] == 0) forest.set_outcomes({&id, 1}, {&outcome, 1});
        }
        const std::scoped_lock lock(forest.mutex);
        const NodeId root = forest.add_questions(1);
        const std::uint16_t two = 2;
        NodeId first = 0;
        forest.reserve({&root, 1}, {&two, 1}, {&first, 1});
        check(first == root + 1, "a reserved block is not where it should be");
    }
}

// A view as Python has it: spans of one moment, and what keeps the forest.
struct View {
    std::shared_ptr<Forest> forest;
    Nodes nodes;
    std::vector<NodeId> done;
};

View view(const std::shared_ptr<Forest>& forest) {
    View view{forest, {}, {}};
    const std::scoped_lock lock(forest->mutex);
    view.nodes = forest->nodes();
    for (NodeId id = 0; id < view.nodes.size(); ++id)
        if (view.nodes.level[id] > 0 && view.nodes.state[id] == State::kDone)
            view.done.push_back(id);
    return view;
}

// Reads without the lock, which forest.hpp allows of what was there when the view was taken.
void read(const View& view) {
    for (const NodeId id : view.done) {
        const auto tokens = view.nodes.tokens_of(id);
        check(tokens.size() == length_of(id), "a length changed");
        for (std::size_t j = 0; j < tokens.size(); ++j)
            check(tokens[j] == token_of(id, j), "a token changed");
    }
    for (NodeId id = 0; id < view.nodes.size(); ++id) {
        const NodeId parent = view.nodes.parent[id];
        const auto above = static_cast<Level>(parent == kNoNode ? 0 : view.nodes.level[parent] + 1);
        check(view.nodes.level[id] == above, "a level changed");
    }
}

void analyse(Forest& forest) {
    const std::scoped_lock lock(forest.mutex);
    const Nodes nodes = forest.nodes();
    const Credit credit = assign_credit(nodes, {});
    for (const Pair pair : find_pairs(nodes, credit, 1, {}))
        check(credit.label[pair.chosen] == Label::kPositive, "a pair's chosen node is not good");
    check(find_examples(nodes, credit, 1, Source::kAll, true).size() <= nodes.size(),
          "more examples than nodes");
    std::vector<NodeId> roots(nodes.size());
    find_roots(nodes, roots);
    for (const NodeId root : roots) check(nodes.level[root] == 0, "a root is no question");
}

void stress_forest(unsigned round) {
    auto forest = std::make_shared<Forest>();
    std::atomic<std::size_t> writing{kWriters};
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < kWriters; ++i)
        threads.emplace_back([forest, &writing, seed = round * 10 + i] {
            write(*forest, seed);
            --writing;
        });
    for (std::size_t i = 0; i < kReaders; ++i)
        threads.emplace_back([forest, &writing] {
            const View early = view(forest);
            while (writing > 0) {
                read(view(forest));
                read(early);
                analyse(*forest);
            }
            const View last = view(forest);
            read(last);
        });
    forest.reset();  // the last of the threads ends it
}

// Columns of a few megabytes, so that views see the column grow by several steps.
void stress_growth() {
    auto forest = std::make_shared<Forest>();
    forest->add_trees(10, kShape);
    const View early = view(forest);
    in_threads(kReaders, [&](std::size_t i) {
        for (int step = 0; step < 5; ++step) {
            if (i == 0) {
                const std::scoped_lock lock(forest->mutex);
                forest->add_trees(20'000, kShape);
            } else {
                read(early);
                read(view(forest));
            }
        }
    });
    forest.reset();
    read(early);
}

void stress_mapped(const std::filesystem::path& folder) {
    const std::string path = folder / "words";
    std::vector<std::int32_t> words(50'000);
    for (std::size_t i = 0; i < words.size(); ++i) words[i] = token_of(1, i);
    const std::size_t bytes = words.size() * sizeof(std::int32_t);
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(words.data()), static_cast<std::streamsize>(bytes));
    const std::vector<std::string> paths{path, path};
    const std::vector<std::size_t> sizes{bytes, bytes - 4};
    const auto shared = std::make_shared<const MappedFiles>(paths, sizes);
    in_threads(kReaders, [&](std::size_t) {
        for (int turn = 0; turn < 20; ++turn) {
            const auto own = std::make_shared<const MappedFiles>(paths, sizes);
            auto forest = std::make_unique<Forest>();
            const NodeId question = forest->add_questions(1);
            const std::uint16_t two = 2;
            NodeId first = 0;
            forest->reserve({&question, 1}, {&two, 1}, {&first, 1});
            const std::vector<NodeId> ids{first, first + 1};
            const auto arena = (turn % 2 == 0 ? own : shared)->words();
            const auto second = static_cast<std::uint64_t>(
                (bytes + MappedFiles::kPage - 1) / MappedFiles::kPage * MappedFiles::kPage / 4);
            const std::vector<std::uint64_t> begin{0, second};
            const auto all = static_cast<std::uint32_t>(words.size());
            const std::vector<std::uint32_t> length{all, all - 1};
            forest->lend(arena, turn % 2 == 0 ? own : shared, ids, begin, length,
                         std::vector<std::uint8_t>{0, 0});
            for (const NodeId id : ids) {
                const auto tokens = forest->nodes().tokens_of(id);
                check(std::equal(tokens.begin(), tokens.end(), words.begin()), "a word changed");
            }
        }
    });
    std::filesystem::remove(path);  // a mapping outlives its file's name
    check(shared->words()[words.size() - 1] == words.back(), "a removed file's words changed");
}

// What many threads say at once is what one says alone.
template <class Function>
void same_in_threads(const Function& function) {
    const auto expected = function();
    in_threads(4, [&](std::size_t) {
        for (int turn = 0; turn < 5; ++turn)
            check(function() == expected, "threads disagree with one");
    });
}

void stress_functions() {
    same_in_threads([] {
        std::vector<Verdict> verdicts;
        for (const char* answer : {"\\frac{1}{2}", "0.5", "(1, 2]", "\\{1, 2\\}", "two", "x + 1"})
            for (const Grader grader : {Grader::kNumber, Grader::kMath, Grader::kExact})
                verdicts.push_back(compare_answers(grader, "1/2", answer));
        return verdicts;
    });
    same_in_threads([] { return extract_answer(Grader::kMath, "so it is \\boxed{\\sqrt{2}}."); });
    same_in_threads([] {
        const std::vector<std::int64_t> sizes{5, 3, 8, 2, 2, 7, 1};
        std::vector<std::int32_t> bins(sizes.size());
        best_fit_decreasing(sizes, 10, bins);
        return bins;
    });
    same_in_threads([] {
        const std::vector<std::int32_t> tokens{1, 2, 3, 4, 5, 1, 2, 6, 7};
        const std::vector<std::int64_t> prompts{0, 0}, completions{2, 7};
        const std::vector<std::int32_t> prompt_len{2, 2}, completion_len{3, 2};
        const Packs packs = lay_out({tokens, prompts, prompt_len, completions, completion_len},
                                    std::vector<std::int64_t>{0, 1}, 16);
        return packs.token;
    });
}

}  // namespace

int main(int argc, char** argv) {
    const unsigned rounds = argc > 1 ? static_cast<unsigned>(std::stoul(argv[1])) : 20;
    std::string pattern = std::filesystem::temp_directory_path() / "stress_forest.XXXXXX";
    check(mkdtemp(pattern.data()) != nullptr, "no folder for its files");
    for (unsigned round = 0; round < rounds; ++round) {
        stress_forest(round);
        stress_growth();
        stress_mapped(pattern);
        stress_functions();
    }
    std::filesystem::remove_all(pattern);
    std::printf("stress_forest: %u rounds\n", rounds);
}
