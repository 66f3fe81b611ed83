#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "ops.h"

namespace cpm {

constexpr size_t HUGE_PAGE = size_t(1) << 21;

// Pages take no physical memory until they are written to.
Memory::Memory(size_t bytes) : size_(std::max(round_up(bytes, HUGE_PAGE), (long)HUGE_PAGE)) {
    int flags = MAP_PRIVATE | MAP_ANON;
#if defined(__linux__)
    flags |= MAP_NORESERVE;
#endif
    // one huge page more, to align the start: huge pages begin at multiples of their size
    char* mapped = static_cast<char*>(mmap(nullptr, size_ + HUGE_PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    data_ = reinterpret_cast<char*>(round_up(reinterpret_cast<long>(mapped), HUGE_PAGE));
    if (data_ > mapped) munmap(mapped, data_ - mapped);
    if (data_ < mapped + HUGE_PAGE) munmap(data_ + size_, mapped + HUGE_PAGE - data_);
#if defined(__linux__)
    madvise(data_, size_, MADV_HUGEPAGE);
#endif
}

Memory::~Memory() {
    if (data_) munmap(data_, size_);
}

Memory& Memory::operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

void Memory::reserve(size_t bytes) {
    if (size_ >= bytes) return;
    *this = Memory();  // free the old mapping first, so that both are never held at once
    *this = Memory(bytes);
}

}  // namespace cpm
