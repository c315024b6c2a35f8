// Vector code of tree_attention.hpp, compiled once per instruction set (simd.hpp).
//
// Scores are kept transposed, [keys, queries]: the queries of all heads of a group fill the lanes,
// keys are read where they are, and a softmax runs lane by lane.
#include "packing/tree_attention_blocks.hpp"

#include <cmath>

#include "kernels/simd.hpp"

namespace malt::MALT_ISA {
namespace {

// ---- a small matrix product ----

using Size = std::size_t;

// c [m, n] (+)= a [m, k] b [k, n]. Rows of b and c are contiguous.
struct Product {
    const float* a;
    std::ptrdiff_t a_row, a_column;
    const float* b;
    std::ptrdiff_t b_row;
    float* c;
    std::ptrdiff_t c_row;
    Size k;
    bool add;
};

constexpr Size kRows = 6;  // with two vectors per row: twelve sums and three operands

// `last` columns of c are there in the only vector, kLanes in each of several.
template <Size Rows, Size Vectors>
void tile(Product x, Size last) {
    Vec sums[Rows][Vectors] = {};
    for (Size p = 0; p < x.k; ++p, x.a += x.a_column, x.b += x.b_row) {
        Vec right[Vectors];
        for (Size j = 0; j < Vectors; ++j)
            right[j] = load<Vec>(x.b + j * kLanes, Vectors == 1 ? last : kLanes, 0.0F);
        for (Size i = 0; i < Rows; ++i) {
            const float left = x.a[static_cast<std::ptrdiff_t>(i) * x.a_row];
            for (Size j = 0; j < Vectors; ++j) sums[i][j] += left * right[j];
        }
    }
    for (Size i = 0; i < Rows; ++i, x.c += x.c_row)
        for (Size j = 0; j < Vectors; ++j) {
            const Size count = Vectors == 1 ? last : kLanes;
            float* to = x.c + j * kLanes;
            store(to, count, x.add ? sums[i][j] + load<Vec>(to, count, 0.0F) : sums[i][j]);
        }
}

template <Size Vectors>
void column(Product x, Size m, Size last) {
    constexpr auto kStep = static_cast<std::ptrdiff_t>(kRows);
    for (; m >= kRows; m -= kRows, x.a += kStep * x.a_row, x.c += kStep * x.c_row)
        tile<kRows, Vectors>(x, last);
    switch (m) {
        case 5:
            return tile<5, Vectors>(x, last);
        case 4:
            return tile<4, Vectors>(x, last);
        case 3:
            return tile<3, Vectors>(x, last);
        case 2:
            return tile<2, Vectors>(x, last);
        case 1:
            return tile<1, Vectors>(x, last);
        default:
            return;
    }
}

void multiply(Product x, Size m, Size n) {
    for (; n >= 2 * kLanes; n -= 2 * kLanes, x.b += 2 * kLanes, x.c += 2 * kLanes)
        column<2>(x, m, kLanes);
    for (; n > 0; n -= std::min(kLanes, n), x.b += kLanes, x.c += kLanes)
        column<1>(x, m, std::min(kLanes, n));
}

// ---- a block ----

// A block's queries, all heads of its group: query r is row first + r % queries of head
// group * shared + r / queries.
class Work {
  public:
    Work(const Attention& attention, const Block& block, Scratch& scratch)
        : attention_(attention),
          block_(block),
          scratch_(scratch),
          queries_(block.stop - block.first),
          shared_(attention.heads / attention.groups),
          rows(queries_ * shared_),
          lanes((rows + kLanes - 1) / kLanes * kLanes) {
        find_runs();
        scratch.weights.resize(keys * lanes);
        scratch.transposed.resize(attention.width * lanes);
        scratch.rows.resize(rows * attention.width);
        scratch.sums.resize(2 * lanes);
        scratch.queries.resize(lanes);
        for (Size r = 0; r < lanes; ++r)
            scratch.queries[r] = static_cast<std::int32_t>(block.first + r % queries_);
    }

    template <class Visit>  // visit(row of the first key, keys, their place among the block's keys)
    void for_runs(const Visit& visit) const {
        Size place = 0;
        for (Size i = 0; i < scratch_.runs.size(); i += 2) {
            const auto first = static_cast<Size>(scratch_.runs[i]);
            const Size n = static_cast<Size>(scratch_.runs[i + 1]) - first;
            visit(first, n, place);
            place += n;
        }
    }
    [[nodiscard]] float* row_of(const Heads& heads, Size r) const {
        return heads.row(head_of(r), block_.first + r % queries_);
    }
    [[nodiscard]] Size head_of(Size r) const { return block_.group * shared_ + r / queries_; }
    [[nodiscard]] Size sum_of(Size r) const {  // its place in log_sum
        return head_of(r) * attention_.end.size() + block_.first + r % queries_;
    }

    // The queries' rows of x, transposed: [width, lanes].
    const float* transpose(const Heads& x) {
        float* to = scratch_.transposed.data();
        for (Size r = 0; r < lanes; ++r) {
            const float* from = r < rows ? row_of(x, r) : nullptr;
            for (Size d = 0; d < attention_.width; ++d) to[d * lanes + r] = from ? from[d] : 0.0F;
        }
        return to;
    }
    // The queries' rows of x: [rows, width].
    const float* gather(const Heads& x) {
        for (Size r = 0; r < rows; ++r)
            std::copy_n(row_of(x, r), attention_.width,
                        scratch_.rows.data() + r * attention_.width);
        return scratch_.rows.data();
    }
    // to [keys, lanes] = the keys' rows of x times right [width, lanes].
    void against_keys(const Heads& x, const float* right, float* to) const {
        for_runs([&](Size key, Size n, Size place) {
            multiply({.a = x.row(block_.group, key),
                      .a_row = x.row_stride,
                      .a_column = 1,
                      .b = right,
                      .b_row = signed_lanes(),
                      .c = to + place * lanes,
                      .c_row = signed_lanes(),
                      .k = attention_.width,
                      .add = false},
                     n, lanes);
        });
    }
    // Row r of `to` = sum over keys of weights(key, r) x(key).
    void over_keys(const float* weights, const Heads& x, const Heads& to, const float* scale) {
        const Size width = attention_.width;
        float* sums = scratch_.rows.data();
        for_runs([&](Size key, Size n, Size place) {
            multiply({.a = weights + place * lanes,
                      .a_row = 1,
                      .a_column = signed_lanes(),
                      .b = x.row(block_.group, key),
                      .b_row = x.row_stride,
                      .c = sums,
                      .c_row = static_cast<std::ptrdiff_t>(width),
                      .k = n,
                      .add = place > 0},
                     rows, width);
        });
        for (Size r = 0; r < rows; ++r) {
            float* out = row_of(to, r);
            for (Size d = 0; d < width; ++d)
                out[d] = sums[r * width + d] * (scale ? scale[r] : 1.0F);
        }
    }
    // Row `key` of `to` += sum over queries of weights(key, r) right(r).
    void over_queries(const float* weights, const float* right, const Heads& to) const {
        const auto width = static_cast<std::ptrdiff_t>(attention_.width);
        for_runs([&](Size key, Size n, Size place) {
            multiply({.a = weights + place * lanes,
                      .a_row = signed_lanes(),
                      .a_column = 1,
                      .b = right,
                      .b_row = width,
                      .c = to.row(block_.group, key),
                      .c_row = to.row_stride,
                      .k = rows,
                      .add = true},
                     n, attention_.width);
        });
    }

    // Scores of row `key` for the queries from lane r on, -inf for queries that do not see it.
    [[nodiscard]] Vec hide(Vec scores, Size key, Size r) const {
        if (key < block_.first && static_cast<Size>(attention_.end[key]) >= block_.stop)
            return scores;
        const Int query = load<Int>(scratch_.queries.data() + r, kLanes, 0);
        const auto row = static_cast<std::int32_t>(key);
        const Int seen = (query >= row) & (query < attention_.end[key]);
        return seen ? scores : constant(-kInf);
    }
    // Capped scores of raw ones; `slope`, if given, takes their derivative.
    [[nodiscard]] Vec cap(Vec raw, float* slope) const {
        const float cap = attention_.softcap, scale = attention_.scale;
        if (cap == 0.0F) return raw * scale;
        const Vec share = tanh(raw * (scale / cap));
        if (slope) store(slope, kLanes, (1.0F - share * share) * scale);
        return share * cap;
    }

  private:
    // Keys that any query of the block sees. Where the subtree of a key ends before the block, the
    // whole subtree is skipped.
    void find_runs() {
        auto& runs = scratch_.runs;
        runs.clear();
        for (Size k = 0; k < block_.stop;) {
            const auto end = static_cast<Size>(attention_.end[k]);
            if (end <= block_.first) {
                k = end;
                continue;
            }
            const auto row = static_cast<std::int32_t>(k);
            if (runs.empty() || runs.back() != row) runs.insert(runs.end(), {row, row});
            ++runs.back();
            ++keys;
            ++k;
        }
    }
    [[nodiscard]] std::ptrdiff_t signed_lanes() const { return static_cast<std::ptrdiff_t>(lanes); }

    const Attention& attention_;
    const Block& block_;
    Scratch& scratch_;
    Size queries_, shared_;

  public:
    Size rows, lanes;  // queries, and rounded up to vectors
    Size keys = 0;
};

void forward(const Attention& attention, const Block& block, const Attended& to, Scratch& scratch) {
    Work work(attention, block, scratch);
    float *weights = scratch.weights.data(), *sums = scratch.sums.data();
    work.against_keys(attention.k, work.transpose(attention.q), weights);
    for (Size r = 0; r < work.lanes; r += kLanes) {
        Vec top = constant(-kInf), total{};
        work.for_runs([&](Size key, Size n, Size place) {
            for (Size i = 0; i < n; ++i) {
                float* at = weights + (place + i) * work.lanes + r;
                const Vec raw = load<Vec>(at, kLanes, 0.0F);
                const Vec score = work.hide(work.cap(raw, nullptr), key + i, r);
                top = score > top ? score : top;
                store(at, kLanes, score);
            }
        });
        for (Size key = 0; key < work.keys; ++key) {
            float* at = weights + key * work.lanes + r;
            const Vec weight = exp(load<Vec>(at, kLanes, 0.0F) - top);
            total += weight;
            store(at, kLanes, weight);
        }
        store(sums + r, kLanes, 1.0F / total);
        for (Size i = 0; i < kLanes && r + i < work.rows; ++i)
            to.log_sum[work.sum_of(r + i)] = top[i] + std::log(total[i]);
    }
    work.over_keys(weights, attention.v, to.out, sums);
}

void gradient(const Attention& attention, const Block& block, const Attended& forward, Heads grad,
              const AttentionGradient& to, Scratch& scratch) {
    Work work(attention, block, scratch);
    scratch.slopes.resize(2 * work.keys * work.lanes);
    float *weights = scratch.weights.data(), *slopes = scratch.slopes.data();
    float *changes = slopes + work.keys * work.lanes, *sums = scratch.sums.data();
    float* dots = sums + work.lanes;  // of grad and out, per query
    std::fill_n(sums, 2 * work.lanes, 0.0F);
    for (Size r = 0; r < work.rows; ++r) {
        sums[r] = forward.log_sum[work.sum_of(r)];
        const float *g = work.row_of(grad, r), *o = work.row_of(forward.out, r);
        for (Size d = 0; d < attention.width; ++d) dots[r] += g[d] * o[d];
    }
    work.against_keys(attention.k, work.transpose(attention.q), weights);
    work.against_keys(attention.v, work.transpose(grad), changes);
    work.for_runs([&](Size key, Size n, Size place) {
        for (Size i = 0; i < n; ++i)
            for (Size r = 0; r < work.lanes; r += kLanes) {
                const Size at = (place + i) * work.lanes + r;
                const Vec raw = load<Vec>(weights + at, kLanes, 0.0F);
                const Vec score = work.hide(work.cap(raw, slopes + at), key + i, r);
                const Vec weight = exp(score - load<Vec>(sums + r, kLanes, 0.0F));
                const Vec slope = attention.softcap == 0.0F ? constant(attention.scale)
                                                            : load<Vec>(slopes + at, kLanes, 0.0F);
                const Vec change = load<Vec>(changes + at, kLanes, 0.0F);
                store(weights + at, kLanes, weight);
                store(changes + at, kLanes,
                      weight * (change - load<Vec>(dots + r, kLanes, 0.0F)) * slope);
            }
    });
    work.over_queries(weights, work.gather(grad), to.dv);
    work.over_queries(changes, work.gather(attention.q), to.dk);
    work.over_keys(changes, attention.k, to.dq, nullptr);
}

}  // namespace

const AttentionKernels kAttentionKernels{&forward, &gradient};

}  // namespace malt::MALT_ISA
