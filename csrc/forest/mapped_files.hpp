// Files as one array: mapped read-only one after the other, each at the beginning of a page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace malt {

class MappedFiles {
  public:
    static constexpr std::size_t kPage = std::size_t{1}
                                         << 16;  // a multiple of every page size in use

    // Maps sizes[i] bytes of paths[i]; file i begins after the last page of the one before. A size
    // of 0 maps nothing. Throws std::system_error for a file that cannot be mapped or is shorter.
    MappedFiles(std::span<const std::string> paths, std::span<const std::size_t> sizes);
    ~MappedFiles();
    MappedFiles(const MappedFiles&) = delete;
    MappedFiles& operator=(const MappedFiles&) = delete;

    [[nodiscard]] std::span<const std::int32_t> words() const {
        return {static_cast<const std::int32_t*>(data_), size_ / sizeof(std::int32_t)};
    }

  private:
    void map(const std::string& path, std::size_t bytes, std::byte* where);

    void* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace malt
