// Both matrices are packed into panels (bf16_panels.hpp). A panel of rows of a and one of columns
// of b make a square of 32 x 32 sums, by the instructions at hand; squares are collected in blocks
// that stay, with their panels, in the second-level cache.
#include "kernels/bf16_product.hpp"

#include <stdexcept>
#include <string>

#ifdef MALT_X86
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/bf16_panels.hpp"

namespace malt {
namespace {

constexpr std::size_t kChunks = 16;  // of a panel, that the first-level cache holds

// Panels of a block: kChunks of each and the sums are 0.9 MiB, of which the next block shares what
// is of b.
constexpr std::size_t kDown = 4, kAcross = 16;
constexpr std::size_t kHeight = kDown * kSide, kWidth = kAcross * kSide;
// Rows of its sums do not lie a power of two apart, which would share few sets of the caches.
constexpr std::size_t kStride = kWidth + kTile;

// ---- squares ----

// out [kSide, kSide] = a b, or += if `add`, of two panels of so many chunks; rows of out beyond
// `rows` may stay as they are.
using Multiply = void(const Pairs* a, const Pairs* b, std::size_t chunks, std::size_t rows,
                      float* out, std::size_t stride, bool add);

__attribute__((target("avx512f,avx512bf16"))) void multiply_by_avx512(
    const Pairs* a, const Pairs* b, std::size_t chunks, std::size_t rows, float* out,
    std::size_t stride, bool add) {
    constexpr std::size_t kRows = 8;  // whose sums stay in registers
    for (std::size_t row = 0; row < std::min(rows, kSide); row += kRows, out += kRows * stride) {
        const Pairs* own = a + row;
        __m512 sums[kRows][2];
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kRows; ++i)
            for (std::size_t half = 0; half < 2; ++half)
                sums[i][half] =
                    add ? _mm512_loadu_ps(out + i * stride + kTile * half) : _mm512_setzero_ps();
        for (std::size_t chunk = 0; chunk < chunks; ++chunk)
            for (std::size_t p = 0; p < kTile; ++p) {
                const Pairs* of_b = b + chunk * kChunk + p;
                const auto left = reinterpret_cast<__m512bh>(_mm512_load_si512(of_b));
                const auto right = reinterpret_cast<__m512bh>(_mm512_load_si512(of_b + kTile));
#pragma GCC unroll 8
                for (std::size_t i = 0; i < kRows; ++i) {
                    const auto pair = reinterpret_cast<__m512bh>(
                        _mm512_set1_epi32(static_cast<int>(own[chunk * kChunk + i].of[p])));
                    sums[i][0] = _mm512_dpbf16_ps(sums[i][0], pair, left);
                    sums[i][1] = _mm512_dpbf16_ps(sums[i][1], pair, right);
                }
            }
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kRows; ++i)
            for (std::size_t half = 0; half < 2; ++half)
                _mm512_storeu_ps(out + i * stride + kTile * half, sums[i][half]);
    }
}

// Tiles 0 to 3 hold the sums, 4 and 5 rows of a, 6 and 7 columns of b.
__attribute__((target("amx-tile,amx-bf16"))) void multiply_by_amx(const Pairs* a, const Pairs* b,
                                                                  std::size_t chunks,
                                                                  std::size_t /*rows*/, float* out,
                                                                  std::size_t stride, bool add) {
    float* lower = out + kTile * stride;
    const std::size_t step = stride * sizeof(float);
    if (add) {
        _tile_loadd(0, out, step);
        _tile_loadd(1, out + kTile, step);
        _tile_loadd(2, lower, step);
        _tile_loadd(3, lower + kTile, step);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (std::size_t chunk = 0; chunk < chunks; ++chunk, a += kChunk, b += kChunk) {
        _tile_loadd(6, b, sizeof(Pairs));
        _tile_loadd(4, a, sizeof(Pairs));
        _tile_loadd(7, b + kTile, sizeof(Pairs));
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + kTile, sizeof(Pairs));
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, step);
    _tile_stored(1, out + kTile, step);
    _tile_stored(2, lower, step);
    _tile_stored(3, lower + kTile, step);
}

// ---- instruction sets ----

// What LDTILECFG reads: eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, unused[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);
constexpr TileConfig kTileConfig;

__attribute__((target("amx-tile,amx-bf16"))) void configure_tiles() {
    _tile_loadconfig(&kTileConfig);
}

__attribute__((target("amx-tile,amx-bf16"))) void release_tiles() {
    _tile_release();
}

// Whether the processor has AMX, and the kernel lets this process keep tiles from now on.
bool may_use_amx() {
    constexpr unsigned kTiles = 1U << 24, kBfloat16 = 1U << 22;  // of EDX
    constexpr int kRequest = 0x1023, kTileData = 18;             // ARCH_REQ_XCOMP_PERM
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kTiles) != 0 &&
           (edx & kBfloat16) != 0 && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

struct Level {
    Multiply* multiply;
    void (*start)();  // of a thread's work
    void (*stop)();
};

void nothing() {}

Level level_of(std::string_view simd) {
    const std::span<const std::string_view> levels = bf16_levels();
    const auto level = simd.empty() ? levels.begin() : std::ranges::find(levels, simd);
    if (level == levels.end())
        throw std::invalid_argument("bfloat16 products by '" + std::string(simd) +
                                    "' cannot run on this machine: multiply float32");
    if (*level == "amx") return {&multiply_by_amx, &configure_tiles, &release_tiles};
    return {&multiply_by_avx512, &nothing, &nothing};
}

// ---- blocks ----

struct Packed {
    Lines lines;
    std::size_t panels, size;  // size: rows of a panel
    std::unique_ptr<Pairs[]> rows;

    explicit Packed(const Lines& from)
        : lines(from),
          panels(from.panels()),
          size(from.chunks() * kChunk),
          rows(std::make_unique_for_overwrite<Pairs[]>(panels * size)) {}
    [[nodiscard]] Pairs* panel(std::size_t i) const { return rows.get() + i * size; }
};

// sums [kHeight, kWidth] = the products of a block's panels of a and b, from panels i and j on.
void multiply_block(Multiply* multiply, const Packed& a, const Packed& b, std::size_t i,
                    std::size_t j, float* sums) {
    const std::size_t down = std::min(kDown, a.panels - i);
    const std::size_t across = std::min(kAcross, b.panels - j);
    std::size_t begin = 0;
    do {  // once at least: sums of nothing are zero
        const std::size_t chunks = std::min(kChunks, a.lines.chunks() - begin);
        for (std::size_t q = 0; q < across; ++q)
            for (std::size_t p = 0; p < down; ++p)
                multiply(a.panel(i + p) + begin * kChunk, b.panel(j + q) + begin * kChunk, chunks,
                         a.lines.count - (i + p) * kSide, sums + (p * kStride + q) * kSide, kStride,
                         begin > 0);
        begin += kChunks;
    } while (begin < a.lines.chunks());
}

// to = from, or += if `add`.
__attribute__((target("avx512f"))) void write_row(const float* from, std::size_t count, bool add,
                                                  float* to) {
    for (std::size_t c = 0; c < count; c += kTile) {
        const std::size_t left = std::min(kTile, count - c);
        const auto given = static_cast<__mmask16>((1U << left) - 1);
        __m512 row = _mm512_loadu_ps(from + c);
        if (add) row = _mm512_add_ps(row, _mm512_maskz_loadu_ps(given, to + c));
        _mm512_mask_storeu_ps(to + c, given, row);
    }
}

}  // namespace

std::span<const std::string_view> bf16_levels() {
    static const std::vector<std::string_view> found = [] {
        std::vector<std::string_view> list;
        __builtin_cpu_init();
        if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512bw") ||
            !__builtin_cpu_supports("avx512vl"))
            return list;
        if (may_use_amx()) list.emplace_back("amx");
        list.emplace_back("avx512bf16");
        return list;
    }();
    return found;
}

void bf16_product(const Bfloat16Matrix& a, const Bfloat16Matrix& b, float* out,
                  std::size_t out_stride, bool add, std::string_view simd) {
    const Level level = level_of(simd);
    const Packed left({a.values, a.row_stride, a.column_stride, a.rows, a.columns, false});
    const Packed right({b.values, b.column_stride, b.row_stride, b.columns, b.rows, true});
    const auto panels = static_cast<std::ptrdiff_t>(left.panels + right.panels);
    const std::size_t down = (left.panels + kDown - 1) / kDown;
    const std::size_t across = (right.panels + kAcross - 1) / kAcross;
    const auto blocks = static_cast<std::ptrdiff_t>(down * across);
#pragma omp parallel
    {
#pragma omp for
        for (std::ptrdiff_t n = 0; n < panels; ++n) {
            const auto i = static_cast<std::size_t>(n);
            const Packed& own = i < left.panels ? left : right;
            const std::size_t panel = i < left.panels ? i : i - left.panels;
            pack_panel(own.lines, panel, own.panel(panel));
        }
        const auto memory = std::make_unique_for_overwrite<Pairs[]>(kHeight * kStride / kTile);
        auto* sums = reinterpret_cast<float*>(memory.get());
        level.start();
#pragma omp for schedule(dynamic)
        for (std::ptrdiff_t n = 0; n < blocks; ++n) {
            const std::size_t i = static_cast<std::size_t>(n) % down * kDown;
            const std::size_t j = static_cast<std::size_t>(n) / down * kAcross;
            multiply_block(level.multiply, left, right, i, j, sums);
            const std::size_t row = i * kSide, column = j * kSide;
            for (std::size_t r = 0; r < std::min(kHeight, a.rows - row); ++r)
                write_row(sums + r * kStride, std::min(kWidth, b.columns - column), add,
                          out + (row + r) * out_stride + column);
        }
        level.stop();
    }
}

}  // namespace malt

#else

namespace malt {

std::span<const std::string_view> bf16_levels() {
    return {};
}

void bf16_product(const Bfloat16Matrix&, const Bfloat16Matrix&, float*, std::size_t, bool,
                  std::string_view) {
    throw std::invalid_argument("this machine does not multiply bfloat16: multiply float32");
}

}  // namespace malt

#endif
