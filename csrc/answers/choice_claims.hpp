// What a text says of the choice that it names.
#pragma once

#include "answers/choice_tokens.hpp"

namespace malt {

// Does a text keep to a choice that it names before tokens[at]? In the rest of the sentence, and in
// the next one, nothing may deny or judge it, ask, or name another choice, unless that stands
// behind a reason or is itself denied. Where the choices are not `known`, words behind `B:` or `B)`
// may be those of the choice.
[[nodiscard]] bool is_kept(const ChoiceTokens& tokens, std::size_t at, char letter, bool known);

// Does a text below a line that chooses name no other choice, and take nothing back?
[[nodiscard]] bool is_quiet(const ChoiceTokens& tokens, char letter);

// Does a text deny or judge what follows it, or leave it open: Wrong:  Everything but  A, C or
[[nodiscard]] bool is_negative(const ChoiceTokens& tokens);

// Words that may follow a letter without a sign between: B is, B because.
[[nodiscard]] bool goes_on(const ChoiceToken& token);

}  // namespace malt
