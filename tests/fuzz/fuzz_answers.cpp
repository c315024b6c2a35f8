// libFuzzer target: whatever a model writes, finding and comparing answers ends, raises nothing and
// is fair. The input is a grader, a gold answer and a completion, with a zero byte in between.
//
//     make fuzz                      # ten minutes; needs clang++ with libFuzzer
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "answers/answers.hpp"
#include "answers/extraction.hpp"

using malt::Grader, malt::Verdict;

namespace {

void check(bool condition) {
    if (!condition) std::abort();
}

void compare_both_ways(Grader grader, std::string_view gold, std::string_view answer) {
    const Verdict one = malt::compare_answers(grader, gold, answer);
    check(one == malt::compare_answers(grader, gold, answer));
    if (gold == answer && malt::can_read(grader, gold)) check(one == Verdict::kEqual);
    if (grader != Grader::kMath) check(one != Verdict::kUnknown);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 1) return 0;
    const auto grader = static_cast<Grader>(data[0] % 4);
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const std::size_t split = text.find('\0');
    const std::string_view gold = text.substr(0, split);
    const std::string_view completion =
        split == std::string_view::npos ? std::string_view() : text.substr(split + 1);
    const auto answer = malt::extract_answer(grader, completion);
    if (answer) {
        check(!malt::trimmed(*answer).empty());
        compare_both_ways(grader, gold, *answer);
    }
    const auto strict = malt::extract_answer(grader, completion, true);
    if (strict) check(strict == answer);
    const auto known = malt::extract_answer(grader, completion, false, malt::ChoiceTexts(gold));
    check(grader == Grader::kChoice || known == answer);
    compare_both_ways(grader, gold, completion);
    compare_both_ways(grader, completion, gold);
    return 0;
}
