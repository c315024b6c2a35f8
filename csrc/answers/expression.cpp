// Answers as trees.
#include "answers/expression.hpp"

#include "answers/parser.hpp"

namespace malt {

Expression Parser::run() {
    Node root = labelled();
    if (root < 0) root = list(Kind::kEnd);
    if (!failed_ && kind() == Kind::kEnd && at_ > 0) out_.root = root;
    return std::move(out_);
}

Expression parse(std::string_view answer) {
    return Parser(tokens_of(answer)).run();
}

bool is_scalar(Op op) {
    return op != Op::kWords && op != Op::kBased && op < Op::kTuple;
}

bool is_variable(const Expression& in, Node node) {
    const auto& [op, text, parts] = in[node];
    if (op == Op::kCall) return text.ends_with("()");
    return op == Op::kSymbol && text != "pi" && text != "e" && text != "i";
}

}  // namespace malt
