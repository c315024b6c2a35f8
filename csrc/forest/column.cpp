// Address space by mmap: reserved without access rights, then made readable and writable piecewise.
#include "forest/column.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace malt {
namespace {

constexpr std::size_t kPage = std::size_t{1} << 16;  // a multiple of every page size in use
constexpr std::size_t kLarge = std::size_t{1} << 22;
constexpr std::size_t kLargestStep = std::size_t{1} << 30;

std::size_t round_up(std::size_t bytes) {
    return (bytes + kPage - 1) / kPage * kPage;
}

}  // namespace

AddressRange::AddressRange(std::size_t bytes) : reserved_(round_up(bytes)) {
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    while (true) {
        data_ = mmap(nullptr, reserved_, PROT_NONE, kFlags, -1, 0);
        if (data_ != MAP_FAILED) return;
        if (reserved_ <= kPage) throw std::bad_alloc();
        reserved_ = round_up(reserved_ / 2);  // a limit such as `ulimit -v` may be set
    }
}

AddressRange::~AddressRange() {
    munmap(data_, reserved_);
}

void AddressRange::commit(std::size_t bytes) {
    if (bytes <= committed_) return;
    if (bytes > reserved_) throw std::bad_alloc();
    const std::size_t step = std::min(committed_, kLargestStep);  // doubles, then grows linearly
    const std::size_t target = std::min(reserved_, round_up(std::max(bytes, committed_ + step)));
    if (mprotect(data_, target, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    // First use of memory is what growing costs, and half of that is page faults. Only a large
    // column asks for 2 MiB pages, since it may leave most of the last one unused.
    if (target >= kLarge)
        madvise(static_cast<std::byte*>(data_) + committed_, target - committed_, MADV_HUGEPAGE);
#endif
    committed_ = target;
}

}  // namespace malt
