// Rational functions modulo primes: exact at any size, and wrong with a chance of about 1e-15.
#include <array>
#include <cstdint>
#include <utility>

#include "answers/values.hpp"

namespace malt {
namespace {

__extension__ typedef unsigned __int128 Wide;

// Each is 1 modulo 4, so that -1 has a root.
constexpr std::array<std::uint64_t, kPrimes> kModuli{2305842989601552589u, 2305842988655488661u,
                                                     2305842975556166857u};
constexpr std::array<std::uint64_t, kPrimes> kImaginary{60230507475807616u, 2240438512211811536u,
                                                        940166040831624721u};
constexpr std::int64_t kMaxFactorial = 2000;
constexpr int kMaxCalls = 8;  // factorials of one formula

struct Value {
    Fraction at;
    std::optional<std::int64_t> whole;  // the integer, where it is a small one
};

struct Evaluator {
    const Expression& in;
    int prime, point, sign;
    bool integers;  // symbols stand for small integers, so that they have factorials
    int calls = 0;

    using Maybe = std::optional<Value>;

    [[nodiscard]] std::uint64_t modulus() const { return kModuli[static_cast<std::size_t>(prime)]; }
    [[nodiscard]] std::uint64_t times(std::uint64_t a, std::uint64_t b) const {
        return multiply(a, b, prime);
    }
    [[nodiscard]] std::uint64_t plus(std::uint64_t a, std::uint64_t b) const {
        return (a + b) % modulus();
    }

    [[nodiscard]] Value integer(std::int64_t n) const {
        const auto p = static_cast<std::int64_t>(modulus());
        return {{static_cast<std::uint64_t>((n % p + p) % p), 1}, n};
    }

    [[nodiscard]] std::uint64_t power(std::uint64_t base, std::uint64_t n) const {
        std::uint64_t out = 1;
        for (; n; n >>= 1, base = times(base, base))
            if (n & 1) out = times(out, base);
        return out;
    }

    Maybe operator()(Node node) {
        const auto& [op, text, parts] = in[node];
        switch (op) {
            case Op::kNumber:
                return number(text);
            case Op::kSymbol:
                return symbol(text);
            case Op::kQuantity:
                return (*this)(parts[0]);
            case Op::kNegate: {
                auto x = (*this)(parts[0]);
                return x ? Maybe(negated(*x)) : x;
            }
            case Op::kAdd:
            case Op::kMultiply:
            case Op::kDivide:
                return binary(op, parts);
            case Op::kSigns: {
                auto x = (*this)(parts.back());
                if (!x) return {};
                if (sign < 0) x = negated(*x);
                const auto first = parts.size() > 1 ? (*this)(parts[0]) : integer(0);
                return first ? Maybe(sum(*first, *x)) : Maybe();
            }
            case Op::kPower:
                return power_of(parts);
            case Op::kFactorial:
                return factorial((*this)(parts[0]));
            case Op::kBinomial:
                return binomial((*this)(parts[0]), (*this)(parts[1]));
            case Op::kRoot:
                return root(node);
            default:
                return {};
        }
    }

    [[nodiscard]] Maybe number(const std::string& digits) const {
        Value out = integer(0);
        bool point_seen = false;
        for (const char c : digits) {
            if (c == '.') {
                point_seen = true;
                continue;
            }
            out.at.top = plus(times(out.at.top, 10), static_cast<std::uint64_t>(c - '0'));
            if (point_seen) out.at.bottom = times(out.at.bottom, 10);
        }
        out.whole.reset();
        if (!point_seen && digits.size() <= 6) out.whole = std::stoll(digits);
        return out;
    }

    // pi and e are transcendental: no formula with rational coefficients cancels them.
    [[nodiscard]] Maybe symbol(const std::string& name) const {
        if (name == "i") return Value{{kImaginary[static_cast<std::size_t>(prime)], 1}, {}};
        if (name == "dots") return {};
        std::uint64_t h = 0xcbf29ce484222325u + static_cast<std::uint64_t>(point * 7919 + prime);
        for (const char c : name)
            h = (h ^ static_cast<unsigned char>(c)) * 0xff51afd7ed558ccdu, h ^= h >> 32;
        h = (h ^ (h >> 29)) * 0xc4ceb9fe1a85ec53u;
        h ^= h >> 32;
        if (integers) return integer(3 + static_cast<std::int64_t>(h % 60));
        return Value{{h % modulus(), 1}, {}};
    }

    [[nodiscard]] Value negated(Value x) const {
        x.at.top = x.at.top ? modulus() - x.at.top : 0;
        if (x.whole) x.whole = -*x.whole;
        return x;
    }

    static std::optional<std::int64_t> small(std::int64_t n) {
        return n < 1'000'000 && n > -1'000'000 ? std::optional(n) : std::nullopt;
    }

    [[nodiscard]] Value sum(const Value& a, const Value& b) const {
        Value out{{plus(times(a.at.top, b.at.bottom), times(b.at.top, a.at.bottom)),
                   times(a.at.bottom, b.at.bottom)},
                  {}};
        if (a.whole && b.whole) out.whole = small(*a.whole + *b.whole);
        return out;
    }

    [[nodiscard]] Value product(const Value& a, const Value& b) const {
        Value out{{times(a.at.top, b.at.top), times(a.at.bottom, b.at.bottom)}, {}};
        if (a.whole && b.whole) out.whole = small(*a.whole * *b.whole);
        return out;
    }

    [[nodiscard]] Maybe quotient(const Value& a, const Value& b) const {
        if (b.at.top == 0) return {};
        Value out{{times(a.at.top, b.at.bottom), times(a.at.bottom, b.at.top)}, {}};
        if (a.whole && b.whole && *b.whole && *a.whole % *b.whole == 0)
            out.whole = *a.whole / *b.whole;
        return out;
    }

    Maybe binary(Op op, const std::vector<Node>& parts) {
        const auto a = (*this)(parts[0]);
        const auto b = a ? (*this)(parts[1]) : a;
        if (!a || !b) return {};
        if (op == Op::kAdd) return sum(*a, *b);
        return op == Op::kMultiply ? Maybe(product(*a, *b)) : quotient(*a, *b);
    }

    Maybe power_of(const std::vector<Node>& parts) {
        const auto base = (*this)(parts[0]);
        if (!base) return {};
        std::optional<std::int64_t> n;
        if (const auto exponent = exact(in, parts[1], sign)) {
            constexpr Integer most = 1'000'000'000'000'000'000;
            if (exponent->den == 1 && exponent->num <= most && exponent->num >= -most)
                n = static_cast<std::int64_t>(exponent->num);
        } else if (integers) {
            const auto exponent_here = (*this)(parts[1]);
            if (exponent_here) n = exponent_here->whole;
        }
        if (!n || (*n < 0 && base->at.top == 0)) return {};
        const auto size = static_cast<std::uint64_t>(*n < 0 ? -*n : *n);
        Fraction out{power(base->at.top, size), power(base->at.bottom, size)};
        if (*n < 0) std::swap(out.top, out.bottom);
        Value value{out, {}};
        if (base->whole && *n >= 0 && *n <= 6) {
            std::optional<std::int64_t> whole = 1;
            for (std::int64_t k = 0; k < *n && whole; ++k) whole = small(*whole * *base->whole);
            value.whole = whole;
        }
        return value;
    }

    Maybe factorial(const Maybe& n) {
        if (!n || !n->whole || *n->whole < 0 || *n->whole > kMaxFactorial) return {};
        if (++calls > kMaxCalls) return {};
        Value out = integer(1);
        for (std::int64_t k = 2; k <= *n->whole; ++k)
            out.at.top = times(out.at.top, static_cast<std::uint64_t>(k));
        if (*n->whole > 9) {
            out.whole.reset();
        } else {
            out.whole = static_cast<std::int64_t>(out.at.top);
        }
        return out;
    }

    Maybe binomial(const Maybe& n, const Maybe& k) {
        if (!n || !k || !n->whole || !k->whole) return {};
        if (*k->whole < 0 || *n->whole < 0) return {};
        if (*k->whole > *n->whole) return integer(0);
        const auto top = factorial(n), low = factorial(k);
        const auto rest = factorial(integer(*n->whole - *k->whole));
        if (!top || !low || !rest) return {};
        return quotient(*top, product(*low, *rest));
    }

    // Of a rational square, or of minus one.
    Maybe root(Node node) {
        if (const auto value = exact(in, node, sign)) return rational(*value);
        const auto under =
            in[node].parts.size() == 1 ? exact(in, in[node].parts[0], sign) : std::nullopt;
        if (!under || under->num >= 0) return {};
        const auto size = malt::root({-under->num, under->den}, 2);
        return size ? Maybe(product(*rational(*size), *symbol("i"))) : Maybe();
    }

    [[nodiscard]] Maybe rational(const Rational& x) const {
        const auto p = static_cast<Integer>(modulus());
        return Value{{static_cast<std::uint64_t>((x.num % p + p) % p),
                      static_cast<std::uint64_t>(x.den % p)},
                     {}};
    }
};

}  // namespace

std::uint64_t multiply(std::uint64_t a, std::uint64_t b, int prime) {
    return static_cast<std::uint64_t>(Wide{a} * b % kModuli[static_cast<std::size_t>(prime)]);
}

std::uint64_t subtract(std::uint64_t a, std::uint64_t b, int prime) {
    const std::uint64_t p = kModuli[static_cast<std::size_t>(prime)];
    return (a + p - b) % p;
}

std::optional<Fraction> modular(const Expression& in, Node node, int prime, int point, int sign,
                                bool integers) {
    const auto out = Evaluator{in, prime, point, sign, integers}(node);
    return out && out->at.bottom ? std::optional(out->at) : std::nullopt;
}

bool counts_symbols(const Expression& in, Node node) {
    return any_part(in, node, [&](Node part) {
        const bool counts = in[part].op == Op::kFactorial || in[part].op == Op::kBinomial;
        return counts && any_part(in, part, [&](Node below) { return is_variable(in, below); });
    });
}

}  // namespace malt
