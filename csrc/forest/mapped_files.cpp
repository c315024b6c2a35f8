// Address space reserved for all files at once; each is then mapped over its part of it.
#include "forest/mapped_files.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace malt {
namespace {

std::size_t pages(std::size_t bytes) {
    return (bytes + MappedFiles::kPage - 1) / MappedFiles::kPage * MappedFiles::kPage;
}

[[noreturn]] void fail(const std::string& what) {
    throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

MappedFiles::MappedFiles(std::span<const std::string> paths, std::span<const std::size_t> sizes) {
    if (paths.size() != sizes.size())
        throw std::invalid_argument("paths and sizes differ in length");
    for (const std::size_t bytes : sizes) size_ += pages(bytes);
    if (size_ == 0) return;
    data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED) {
        data_ = nullptr;
        fail("address space");
    }
    try {
        auto* where = static_cast<std::byte*>(data_);
        for (std::size_t i = 0; i < paths.size(); where += pages(sizes[i++]))
            if (sizes[i] > 0) map(paths[i], sizes[i], where);
    } catch (...) {
        munmap(data_, size_);
        throw;
    }
}

MappedFiles::~MappedFiles() {
    if (data_ != nullptr) munmap(data_, size_);
}

void MappedFiles::map(const std::string& path, std::size_t bytes, std::byte* where) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(path);
    struct stat status{};
    errno = EIO;  // of a file that is shorter
    const bool whole = fstat(file, &status) == 0 && std::cmp_greater_equal(status.st_size, bytes);
    const bool mapped =
        whole && mmap(where, bytes, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) != MAP_FAILED;
    const int reason = errno;
    close(file);
    if (mapped) return;
    errno = reason;
    fail(path);
}

}  // namespace malt
