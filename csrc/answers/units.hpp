// Units of quantities: cm^2, square feet, miles per hour, dollars, apples.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace malt {

class Unit {
  public:
    // The next word, raised to a power; words such as `square` and `per` concern what follows.
    void add(std::string_view word, int power = 1);
    void divide() { below_ = !below_; }  // the next word stands below a fraction bar

    // The powers of known units by name, then other nouns behind a `#`.
    [[nodiscard]] std::string text() const;

  private:
    std::map<std::string, int> powers_;
    std::string nouns_;
    int next_ = 1;
    bool below_ = false;
};

// Letters that mean a unit behind a number: mg, in, Hz.
[[nodiscard]] bool is_unit_symbol(std::string_view letters);

// A letter that may be a unit, as the m of `5 m`.
[[nodiscard]] bool is_unit_letter(std::string_view letter);

// Do two units name different things? Text of Unit::text(); an empty one contradicts none.
[[nodiscard]] bool contradict(std::string_view a, std::string_view b);

// Is it more than a noun?
[[nodiscard]] bool is_known_unit(std::string_view text);

}  // namespace malt
