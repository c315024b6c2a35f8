// Softmax over rows of logits, on the CPU: the two row operations behind kernels/linear_logprob.py
// and kernels/logprob_from_logits.py, which never need a row as a whole, and the draw of a token.
//
// A logit is z = cap(raw + bias) / T, where cap(x) = c tanh(x / c) if there is a soft cap c.
//
//   fold       takes the next tile of columns into each row's running softmax. A row keeps an
//              offset near its largest logit so far, total = sum exp(z - offset) and, for the
//              entropy, weighted = sum exp(z - offset) (z - offset). The offset moves only when a
//              logit exceeds it by more than kMargin; earlier sums are scaled then.
//   gradient   turns a tile of logits into d(sum g logp)/d raw, given the normaliser of the
//              softmax.
//   draw       draws a token of each row; takes whole rows, and needs no targets.
//
// Each row may have several targets: those of row r are token[start[r]..start[r + 1]), distinct.
// SIMD is chosen at run time; arithmetic is float32; NaN in a row makes that row NaN. Caller
// validates; rows run on OpenMP threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace malt {

// exp(kMargin) = 2981 leaves room in float16, the narrowest type that takes exp(z - offset).
inline constexpr float kMargin = 8.0F;

enum class Scalar : std::uint8_t { kFloat32, kBfloat16, kFloat16 };

[[nodiscard]] constexpr std::size_t bytes_of(Scalar type) {
    return type == Scalar::kFloat32 ? 4 : 2;
}

// [rows, cols] of raw logits, row r at data + r * stride elements, holding the columns from
// `first`.
struct Tile {
    void* data = nullptr;
    Scalar type = Scalar::kFloat32;
    std::size_t rows = 0;
    std::size_t cols = 0;
    std::size_t stride = 0;
    std::int64_t first = 0;
};

struct Transform {
    const float* bias = nullptr;         // [vocabulary], or none
    const float* temperature = nullptr;  // [rows], or none
    float softcap = 0.0F;                // 0: none
};

struct Targets {
    const std::int64_t* start = nullptr;  // [rows + 1]
    const std::int64_t* token = nullptr;  // [start[rows]]
};

struct Running {
    float* offset = nullptr;        // [rows], -inf before the first tile
    float* total = nullptr;         // [rows]
    float* weighted = nullptr;      // [rows], or none: no entropy is wanted
    float* target_logit = nullptr;  // [start[rows]]: z of each target, set when its column comes
    float* residual = nullptr;      // [rows, width], or none: values scaled along with the total
    std::size_t width = 0;
};

// `weights`: none, or of the tile's shape, float32 (maybe the tile itself) or bfloat16; becomes
// exp(z - offset) d cap/d raw, 0 at targets.
void fold(const Tile& tile, const Transform& transform, const Targets& targets,
          const Running& running, const Tile* weights, std::string_view simd);

struct Upstream {
    const float* log_total = nullptr;  // [rows]: log sum exp z
    const float* target = nullptr;     // [start[rows]]: g of each target
    const float* row = nullptr;        // [rows]: their sum
};

// out (same shape and type, may be the tile itself) = d cap/d raw (g onehot - sum g softmax(z)) /
// T.
void gradient(const Tile& tile, const Tile& out, const Transform& transform, const Targets& targets,
              const Upstream& upstream, std::string_view simd);

struct Draws {
    const float* temperature = nullptr;  // [rows], 0: the first of the largest logits
    const double* uniform = nullptr;     // [rows] in [0, 1)
    std::int64_t* token = nullptr;       // [rows]
    float* logprob = nullptr;            // [rows]: of the token under softmax(raw)
};

// The token at which the distribution function of softmax(raw / temperature) exceeds `uniform`. It
// follows from the row's own logits and numbers alone and never has weight 0. A row with a NaN or
// without a finite largest logit gives a log-prob NaN and any token of the row.
void draw(const Tile& tile, const Draws& draws, std::string_view simd);

}  // namespace malt
