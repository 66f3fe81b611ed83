// Memory from the operating system.
#pragma once

#include <cstddef>

namespace cpm {

// A mapping of zeroed pages, huge pages where the system has them. Move-only. Throws std::bad_alloc.
class Memory {
public:
    Memory() = default;
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(Memory&& other) noexcept { *this = static_cast<Memory&&>(other); }
    Memory& operator=(Memory&& other) noexcept;

    char* data() const { return data_; }
    size_t size() const { return size_; }

    // Grow to at least `bytes`. The contents are lost if it grows.
    void reserve(size_t bytes);

private:
    char* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace cpm
