// Vector code of adapters.hpp, compiled once per instruction set (simd.hpp).
#include "kernels/adapters_rows.hpp"

#include "kernels/simd.hpp"
#include "kernels/stored.hpp"

namespace malt::MALT_ISA {
namespace {

using Size = std::size_t;

// Sums of left [Rows, k] times `count` columns of right [k, n], in registers.
template <class T, Size Rows, Size Vectors>
struct Tile {
    Vec sums[Rows][Vectors] = {};

    Tile(const float* left, Size k, const typename T::Stored* right, Size n, Size count) {
        for (Size p = 0; p < k; ++p, right += n) {
            Vec some[Vectors];
            for (Size j = 0; j < Vectors; ++j)
                some[j] = T::read(right + j * kLanes, Vectors == 1 ? count : kLanes);
            for (Size i = 0; i < Rows; ++i)
                for (Size j = 0; j < Vectors; ++j) sums[i][j] += left[i * k + p] * some[j];
        }
    }
};

// take(row, column, count, sums) for the product of left [Rows, k] and right [k, n], by vectors.
template <class T, Size Rows, class Take>
void multiply(const float* left, Size k, const typename T::Stored* right, Size n,
              const Take& take) {
    Size j = 0;
    for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
        const Tile<T, Rows, 2> tile(left, k, right + j, n, kLanes);
        for (Size i = 0; i < Rows; ++i) {
            take(i, j, kLanes, tile.sums[i][0]);
            take(i, j + kLanes, kLanes, tile.sums[i][1]);
        }
    }
    for (; j < n; j += kLanes) {
        const Size count = std::min(kLanes, n - j);
        const Tile<T, Rows, 1> tile(left, k, right + j, n, count);
        for (Size i = 0; i < Rows; ++i) take(i, j, count, tile.sums[i][0]);
    }
}

template <class T, Size Rows>
void add(const Adapters& a, const std::int32_t* rows, std::vector<float>& scratch) {
    using Stored = typename T::Stored;
    scratch.resize(Rows * (a.in + a.rank));
    float* const x = scratch.data();
    float* const low = x + Rows * a.in;
    for (Size i = 0; i < Rows; ++i) {
        const auto* from = static_cast<const Stored*>(a.x) + static_cast<Size>(rows[i]) * a.in;
        for (Size d = 0; d < a.in; d += kLanes) {
            const Size count = std::min(kLanes, a.in - d);
            store(x + i * a.in + d, count, T::read(from + d, count));
        }
    }
    const auto k = static_cast<Size>(a.adapter[static_cast<Size>(rows[0])]);
    multiply<T, Rows>(
        x, a.in, static_cast<const Stored*>(a.a) + k * a.in * a.rank, a.rank,
        [&](Size i, Size j, Size count, Vec sums) { store(low + i * a.rank + j, count, sums); });
    multiply<T, Rows>(low, a.rank, static_cast<const Stored*>(a.b) + k * a.rank * a.outputs,
                      a.outputs, [&](Size i, Size j, Size count, Vec sums) {
                          auto* to = static_cast<Stored*>(a.out) +
                                     static_cast<Size>(rows[i]) * a.outputs + j;
                          T::write(to, count, T::read(to, count) + sums);
                      });
}

template <class T>
void add_some(const Adapters& a, std::span<const std::int32_t> rows, std::vector<float>& scratch) {
    switch (rows.size()) {
        case 1:
            return add<T, 1>(a, rows.data(), scratch);
        case 2:
            return add<T, 2>(a, rows.data(), scratch);
        case 3:
            return add<T, 3>(a, rows.data(), scratch);
        case 4:
            return add<T, 4>(a, rows.data(), scratch);
        case 5:
            return add<T, 5>(a, rows.data(), scratch);
        default:
            return add<T, kAdapterRows>(a, rows.data(), scratch);
    }
}

void add_rows(const Adapters& adapters, std::span<const std::int32_t> rows,
              std::vector<float>& scratch) {
    switch (adapters.type) {
        case Scalar::kFloat32:
            return add_some<Float32>(adapters, rows, scratch);
        case Scalar::kBfloat16:
            return add_some<Bfloat16>(adapters, rows, scratch);
        case Scalar::kFloat16:
            return add_some<Float16>(adapters, rows, scratch);
    }
}

}  // namespace

const RowsOfAdapter kRowsOfAdapter = &add_rows;

}  // namespace malt::MALT_ISA
