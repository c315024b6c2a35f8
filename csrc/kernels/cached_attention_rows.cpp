// Vector code of cached_attention.hpp, compiled once per instruction set (simd.hpp).
//
// Blocks of columns pass through the cache once: their scores for all queries that read them, the
// queries' softmax, then their values. Scores are [queries, columns], with columns in the lanes.
#include "kernels/cached_attention_rows.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/simd.hpp"
#include "kernels/stored.hpp"

namespace malt::MALT_ISA {
namespace {

using Size = std::size_t;

constexpr Size kColumns = 64;                    // in a block
constexpr Size kTile = 6;                        // queries whose sums are in registers,
constexpr Size kVectors = kLanes == 16 ? 4 : 2;  // with so many vectors of values each

Size padded(Size n) {
    return (n + kLanes - 1) / kLanes * kLanes;
}

// ---- sums of many vectors ----

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define MALT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef MALT_SHUFFLE
#define MALT_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Int{__VA_ARGS__})
#endif

// Each run of `Width` lanes, of a and then of b, becomes one of half as many: its halves' sum.
template <Size Width, Size... Lane>
Vec halved(Vec a, Vec b, std::index_sequence<Lane...>) {
    constexpr Size kHalf = Width / 2;
    return MALT_SHUFFLE(a, b, (Lane / kHalf * Width + Lane % kHalf)...) +
           MALT_SHUFFLE(a, b, (Lane / kHalf * Width + Lane % kHalf + kHalf)...);
}

// Lane i of the result is the sum of the lanes of v[i]; v is overwritten.
template <Size Width = kLanes>
[[gnu::always_inline]] inline Vec sums(Vec* v) {
    for (Size i = 0; i < Width / 2; ++i)
        v[i] = halved<Width>(v[2 * i], v[2 * i + 1], std::make_index_sequence<kLanes>());
    if constexpr (Width > 2) return sums<Width / 2>(v);
    return v[0];
}

template <Size Apart, Size... Lane>
Vec moved(Vec v, std::index_sequence<Lane...>) {
    return MALT_SHUFFLE(v, v, (Lane ^ Apart)...);
}

// The largest lane, in every lane.
template <Size Apart = kLanes / 2>
Vec highest(Vec v) {
    const Vec other = moved<Apart>(v, std::make_index_sequence<kLanes>());
    const Vec higher = v > other ? v : other;
    if constexpr (Apart > 1) return highest<Apart / 2>(higher);
    return higher;
}

template <Size... Lane>
constexpr Int numbered(std::index_sequence<Lane...>) {
    return Int{static_cast<std::int32_t>(Lane)...};
}

// ---- a block of columns ----

// Keys or values of consecutive columns.
template <class T>
struct Columns {
    const typename T::Stored* data;
    std::ptrdiff_t stride;
    Size n, width;

    [[nodiscard]] const typename T::Stored* at(Size column) const {
        return data + static_cast<std::ptrdiff_t>(column) * stride;
    }
};

// Asks memory, which is slower than the arithmetic, for `n` values of a column from d on.
template <class T>
void fetch(const Columns<T>& columns, Size column, Size d, Size n) {
    for (Size i = 0; i < n; i += 64 / sizeof(typename T::Stored))
        __builtin_prefetch(columns.at(column) + d + i);
}

// to [queries, kColumns] = q [queries, padded width] times the keys, while `values` of as many
// columns are fetched. Some keys at a time go to `scratch` [padded width / kLanes, kLanes keys,
// kLanes], which is zero behind `width`.
template <class T>
void scores(const Columns<T>& keys, const Columns<T>& values, const float* q, Size queries,
            float* scratch, float* to) {
    const Size width = padded(keys.width), whole = keys.width / kLanes * kLanes;
    for (Size first = 0; first < keys.n; first += kLanes) {
        for (Size k = 0; k < std::min(kLanes, keys.n - first); ++k) {
            const auto* from = keys.at(first + k);
            float* key = scratch + k * kLanes;
            fetch(values, first + k, 0, values.width);
            for (Size d = 0; d < whole; d += kLanes)
                store(key + d * kLanes, kLanes, T::read(from + d, kLanes));
            if (const Size rest = keys.width - whole; rest > 0)
                store(key + whole * kLanes, rest, T::read(from + whole, rest));
        }
        for (Size r = 0; r < queries; ++r) {
            Vec products[kLanes] = {};
            for (Size d = 0; d < width; d += kLanes) {
                const Vec part = load<Vec>(q + r * width + d, kLanes, 0.0F);
                const float* key = scratch + d * kLanes;
                for (Size k = 0; k < kLanes; ++k)
                    products[k] += part * load<Vec>(key + k * kLanes, kLanes, 0.0F);
            }
            store(to + r * kColumns + first, kLanes, sums(products));
        }
    }
}

// `last` values are there in the only vector, kLanes in each of several.
template <class T, Size Rows, Size Vectors>
void add_tile(const Columns<T>& values, const Columns<T>& next, Size d, Size last,
              const float* weights, const float* factor, float* out) {
    const Size width = padded(values.width);
    Vec total[Rows][Vectors];
    for (Size r = 0; r < Rows; ++r)
        for (Size j = 0; j < Vectors; ++j)
            total[r][j] = factor[r] * load<Vec>(out + r * width + d + j * kLanes, kLanes, 0.0F);
    for (Size k = 0; k < values.n; ++k) {
        if (k < next.n) fetch(next, k, d, Vectors * kLanes);
        Vec value[Vectors];
        for (Size j = 0; j < Vectors; ++j)
            value[j] = T::read(values.at(k) + d + j * kLanes, Vectors == 1 ? last : kLanes);
        for (Size r = 0; r < Rows; ++r) {
            const float weight = weights[r * kColumns + k];
            for (Size j = 0; j < Vectors; ++j) total[r][j] += weight * value[j];
        }
    }
    for (Size r = 0; r < Rows; ++r)
        for (Size j = 0; j < Vectors; ++j)
            store(out + r * width + d + j * kLanes, kLanes, total[r][j]);
}

template <class T, Size Rows>
void add_rows(const Columns<T>& values, const Columns<T>& next, const float* weights,
              const float* factor, float* out) {
    Size d = 0;
    for (; d + kVectors * kLanes <= values.width; d += kVectors * kLanes)
        add_tile<T, Rows, kVectors>(values, next, d, kLanes, weights, factor, out);
    for (; d < values.width; d += kLanes)
        add_tile<T, Rows, 1>(values, next, d, std::min(kLanes, values.width - d), weights, factor,
                             out);
}

// out [queries, padded width] = factor [queries] out + weights [queries, kColumns] times values,
// while the `next` keys, of at most kColumns, are fetched.
template <class T>
void add_values(const Columns<T>& values, const Columns<T>& next, const float* weights,
                const float* factor, Size queries, float* out) {
    const Size width = padded(values.width);
    for (; queries >= kTile; queries -= kTile) {
        add_rows<T, kTile>(values, next, weights, factor, out);
        weights += kTile * kColumns, factor += kTile, out += kTile * width;
    }
    switch (queries) {
        case 5:
            return add_rows<T, 5>(values, next, weights, factor, out);
        case 4:
            return add_rows<T, 4>(values, next, weights, factor, out);
        case 3:
            return add_rows<T, 3>(values, next, weights, factor, out);
        case 2:
            return add_rows<T, 2>(values, next, weights, factor, out);
        case 1:
            return add_rows<T, 1>(values, next, weights, factor, out);
        default:
            return;
    }
}

// ---- rows ----

template <class T>
class Work {
  public:
    Work(const CachedAttention& attention, std::span<const std::int32_t> rows, Size group,
         RowsScratch& scratch)
        : a_(attention),
          rows_(rows),
          group_(group),
          heads_(attention.heads / attention.groups),
          width_(padded(attention.keys.width)),
          out_width_(padded(attention.values.width)),
          s_(scratch) {
        const Size n = rows.size() * heads_;
        s_.q.assign(n * width_, 0.0F);
        s_.out.assign(n * out_width_, 0.0F);
        s_.keys.assign(kLanes * width_, 0.0F);
        s_.weights.resize(n * kColumns);
        // Finite, so that a query that has seen nothing yet has no difference of infinities.
        s_.top.assign(n, std::numeric_limits<float>::lowest());
        s_.total.assign(n, 0.0F);
        s_.factor.resize(padded(n));
        s_.added.resize(padded(n) * kLanes);
        s_.first.resize(n);
        const float scale = a_.softcap == 0.0F ? a_.scale : a_.scale / a_.softcap;
        for (Size r = 0; r < n; ++r) {
            s_.first[r] = first_of(rows[r / heads_]);
            const float* from = a_.q + place(r) * a_.keys.width;
            for (Size d = 0; d < a_.keys.width; ++d) s_.q[r * width_ + d] = scale * from[d];
        }
    }

    void run() {
        const std::int32_t shared = a_.shared[at(rows_[0])];
        std::int32_t first = shared;
        for (const std::int32_t row : rows_) first = std::min(first, first_of(row));
        read(a_.lead[at(rows_[0])], first, shared, 0, rows_.size() * heads_);
        for (Size i = 0; i < rows_.size(); ++i) {
            const std::int32_t row = rows_[i];
            read(a_.slot[at(row)], std::max(shared, first_of(row)), a_.end[at(row)], i * heads_,
                 heads_);
        }
        for (Size r = 0; r < s_.total.size(); ++r) {
            float* to = a_.out + place(r) * a_.values.width;
            const float total = s_.total[r] == 0.0F ? 1.0F : s_.total[r];
            for (Size d = 0; d < a_.values.width; ++d) to[d] = s_.out[r * out_width_ + d] / total;
        }
    }

  private:
    static Size at(std::int32_t row) { return static_cast<Size>(row); }
    [[nodiscard]] std::int32_t first_of(std::int32_t row) const {
        return a_.window == 0 ? 0 : std::max(0, a_.end[at(row)] - a_.window);
    }
    [[nodiscard]] Size place(Size r) const {  // of query r, in q and out
        return at(rows_[r / heads_]) * a_.heads + group_ * heads_ + r % heads_;
    }
    [[nodiscard]] Columns<T> columns(const Cached& x, std::int32_t slot, std::int32_t first,
                                     Size n) const {
        const auto* data = static_cast<const typename T::Stored*>(x.data);
        return {data + slot * x.slot_stride + static_cast<std::ptrdiff_t>(group_) * x.group_stride +
                    first * x.column_stride,
                x.column_stride, n, x.width};
    }

    // Columns begin .. end - 1 of a slot, for the `n` queries from r on.
    void read(std::int32_t slot, std::int32_t begin, std::int32_t end, Size r, Size n) {
        for (; begin < end; begin += static_cast<std::int32_t>(kColumns)) {
            const Size count = std::min(kColumns, static_cast<Size>(end - begin));
            const auto rest = static_cast<Size>(end - begin) - count;
            const Columns<T> values = columns(a_.values, slot, begin, count);
            const Columns<T> next = columns(a_.keys, slot, begin + static_cast<std::int32_t>(count),
                                            std::min(kColumns, rest));
            scores(columns(a_.keys, slot, begin, count), values, s_.q.data() + r * width_, n,
                   s_.keys.data(), s_.weights.data());
            weigh(begin, count, r, n);
            add_values(values, next, s_.weights.data(), s_.factor.data(), n,
                       s_.out.data() + r * out_width_);
        }
    }

    // Scores of `count` columns from `begin` on become weights, of the `n` queries from r on.
    void weigh(std::int32_t begin, Size count, Size r, Size n) {
        const Size stop = padded(count);
        for (Size i = 0; i < n; ++i) {
            float* weights = s_.weights.data() + i * kColumns;
            const Int lane = numbered(std::make_index_sequence<kLanes>());
            const std::int32_t first = s_.first[r + i] - begin;
            Vec best = constant(s_.top[r + i]);
            for (Size c = 0; c < stop; c += kLanes) {
                Vec score = load<Vec>(weights + c, kLanes, 0.0F);
                if (a_.softcap != 0.0F) score = a_.softcap * tanh(score);
                const Int column = lane + static_cast<std::int32_t>(c);
                const Int seen = (column >= first) & (column < static_cast<std::int32_t>(count));
                score = seen ? score : constant(-kInf);
                best = score > best ? score : best;
                store(weights + c, kLanes, score);
            }
            best = highest(best);
            Vec total{};
            for (Size c = 0; c < stop; c += kLanes) {
                const Vec weight = exp(load<Vec>(weights + c, kLanes, 0.0F) - best);
                total += weight;
                store(weights + c, kLanes, weight);
            }
            s_.factor[i] = s_.top[r + i] - best[0];
            s_.top[r + i] = best[0];
            store(s_.added.data() + i * kLanes, kLanes, total);
        }
        for (Size i = 0; i < n; i += kLanes) {
            const Size some = std::min(kLanes, n - i);
            Vec added[kLanes];
            for (Size k = 0; k < kLanes; ++k)
                added[k] = load<Vec>(s_.added.data() + (i + k) * kLanes, kLanes, 0.0F);
            const Vec factor = exp(load<Vec>(s_.factor.data() + i, some, 0.0F));
            float* total = s_.total.data() + r + i;
            store(total, some, load<Vec>(total, some, 0.0F) * factor + sums(added));
            store(s_.factor.data() + i, kLanes, factor);
        }
    }

    const CachedAttention& a_;
    std::span<const std::int32_t> rows_;
    Size group_, heads_, width_, out_width_;
    RowsScratch& s_;
};

void attend(const CachedAttention& attention, std::span<const std::int32_t> rows, Size group,
            RowsScratch& scratch) {
    switch (attention.type) {
        case Scalar::kFloat32:
            return Work<Float32>(attention, rows, group, scratch).run();
        case Scalar::kBfloat16:
            return Work<Bfloat16>(attention, rows, group, scratch).run();
        case Scalar::kFloat16:
            return Work<Float16>(attention, rows, group, scratch).run();
    }
}

}  // namespace

const RowsAttention kRowsAttention = &attend;

}  // namespace malt::MALT_ISA
