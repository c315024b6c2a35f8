// A recursive-descent parser with a cap on its depth. One class, as its rules call each other.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "answers/expression.hpp"

namespace malt {

class Parser {
  public:
    explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
        out_.all.reserve(tokens_.size());
    }

    Expression run();

  private:
    // ---- tokens and nodes ----

    [[nodiscard]] const Token& token(std::size_t ahead = 0) const {
        return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
    }
    [[nodiscard]] Kind kind(std::size_t ahead = 0) const { return token(ahead).kind; }
    [[nodiscard]] bool is_word(std::string_view text, std::size_t ahead = 0) const {
        return kind(ahead) == Kind::kWord && token(ahead).text == text;
    }
    bool accept(Kind wanted) {
        if (kind() != wanted) return false;
        ++at_;
        return true;
    }
    void expect(Kind wanted) {
        if (!accept(wanted)) failed_ = true;
    }
    Node fail() {
        failed_ = true;
        return make(Op::kWords, {});
    }
    Node make(Op op, std::vector<Node> parts, std::string text = {}) {
        out_.all.push_back({op, std::move(text), std::move(parts)});
        return static_cast<Node>(out_.all.size() - 1);
    }
    Expression::Part& part(Node node) { return out_.all[static_cast<std::size_t>(node)]; }
    [[nodiscard]] Op op(Node node) const { return out_[node].op; }

    // ---- collections and relations: parse_relations.cpp ----

    Node labelled();
    Node list(Kind end);
    Node residues(std::vector<Node> items);
    bool bounds();
    Node relation();
    Node congruence(std::vector<Node> operands);
    Node sets();
    Node ratio();
    Node set();
    Node condition();
    [[nodiscard]] bool begins_condition() const;
    Node brackets(Kind open);
    Node matrix();
    Node cases();

    // ---- sums, products, quantities: parse_terms.cpp ----

    Node sum();
    [[nodiscard]] bool begins_factor() const;
    [[nodiscard]] bool after_letter_unit() const;
    Node term();
    Node signed_factor();
    Node quantity(Node value);
    Node factor();
    Node degrees(Node value);
    Node exponent();
    Node argument(bool single = false);

    // ---- numbers, names, functions: parse_atoms.cpp ----

    Node primary();
    Node two_arguments(Op made, bool single);
    Node absolute();
    Node rounded(std::string name, Kind close);
    [[nodiscard]] std::size_t proper_fraction() const;
    Node number(const Token& now);
    Node repeating(const std::string& digits);
    std::string raw_argument();
    Node symbol(const Token& now);
    Node named(const std::string& what);
    [[nodiscard]] bool begins_argument(std::string_view name) const;
    Node argument_of(const std::string& name);
    Node words(const Token& now);
    Node root(const Token& now);
    Node call(const Token& now);

    std::vector<Token> tokens_;
    std::size_t at_ = 0;
    int depth_ = 0, bars_ = 0;
    bool failed_ = false;
    Expression out_;
};

constexpr int kMaxDepth = 48;

}  // namespace malt
