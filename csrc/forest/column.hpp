// Column<T>: an append-only array whose elements never move.
//
// Address space for `capacity` elements is reserved once and made writable as the column grows, so
// a pointer (a NumPy view) taken at any time stays valid for the life of the column. Reserved but
// untouched pages cost nothing; used ones are committed in steps that grow with the column.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>

namespace malt {

// A range of reserved address space, writable up to commit()'s last argument. Linux and macOS.
class AddressRange {
  public:
    explicit AddressRange(std::size_t bytes);  // reserves less under a limit such as `ulimit -v`
    ~AddressRange();
    AddressRange(const AddressRange&) = delete;
    AddressRange& operator=(const AddressRange&) = delete;

    void commit(
        std::size_t bytes);  // throws std::bad_alloc when the range or the memory is used up
    [[nodiscard]] void* data() const { return data_; }

  private:
    void* data_ = nullptr;
    std::size_t reserved_ = 0;
    std::size_t committed_ = 0;
};

template <class T>
class Column {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    explicit Column(std::size_t capacity) : range_(capacity * sizeof(T)) {}

    // Makes sure that n more elements fit, so that the extend() after it cannot fail.
    void ensure(std::size_t n) { range_.commit((size_ + n) * sizeof(T)); }
    // Appends n elements; they are zero until written.
    std::span<T> extend(std::size_t n) {
        ensure(n);
        const std::span<T> fresh{data() + size_, n};
        size_ += n;
        return fresh;
    }
    void append(std::span<const T> values) {
        std::copy(values.begin(), values.end(), extend(values.size()).begin());
    }
    T& operator[](std::size_t i) { return data()[i]; }
    const T& operator[](std::size_t i) const { return data()[i]; }
    [[nodiscard]] std::size_t size() const { return size_; }
    [[nodiscard]] std::size_t nbytes() const { return size_ * sizeof(T); }
    [[nodiscard]] std::span<const T> view() const { return {data(), size_}; }

  private:
    [[nodiscard]] T* data() const { return static_cast<T*>(range_.data()); }

    AddressRange range_;
    std::size_t size_ = 0;
};

}  // namespace malt
