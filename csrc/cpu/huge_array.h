// An array in pages of 2 MiB, where the system has them, that nothing has touched yet.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace moleflow::cpu {

// For what is scattered to thousands of places at once, more than the processor keeps addresses of small pages: sorting
// 7.5 million scores takes 150 ms with these and 400 ms with pages of 4 KiB. The threads that fill it have them made.
template <typename T>
class HugeArray {
    static_assert(std::is_trivial_v<T>, "elements are not constructed");

public:
    explicit HugeArray(int64_t n) : items_(allocated(n)), size_(n) {}

    T& operator[](int64_t i) { return items_.get()[i]; }
    const T& operator[](int64_t i) const { return items_.get()[i]; }
    int64_t size() const { return size_; }
    void swap(HugeArray& other) { items_.swap(other.items_); }  // of one size

private:
    struct Free {
        void operator()(T* items) const { std::free(items); }
    };

    static T* allocated(int64_t n) {
        constexpr size_t kPage = size_t{2} << 20, kSmall = size_t{4} << 10;
        const size_t wanted = n * sizeof(T), page = wanted < kPage ? kSmall : kPage;
        const size_t bytes = (wanted / page + 1) * page;
        void* items = std::aligned_alloc(page, bytes);
        if (!items) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (page == kPage) madvise(items, bytes, MADV_HUGEPAGE);  // advice: small pages do as well, only slower
#endif
        return static_cast<T*>(items);
    }

    std::unique_ptr<T, Free> items_;
    int64_t size_;
};

}  // namespace moleflow::cpu
