// Strided rows, and dividing them among threads.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/vector_clones.h"

namespace moleflow::cpu {

// A matrix whose rows are contiguous and `stride` elements apart; `data` may be null for an absent operand.
template <typename T>
struct Rows {
    T* data;
    int64_t stride;

    T* operator[](int64_t row) const { return data + row * stride; }
};

// Call part(begin, end, thread) for contiguous shares of 0..n.
template <typename Part>
void share(int64_t n, int threads, Part part) {
#ifdef _OPENMP
    const int team = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, n)));
#pragma omp parallel num_threads(team)
    {
        const int64_t k = omp_get_thread_num(), all = omp_get_num_threads();
        part(k * n / all, (k + 1) * n / all, static_cast<int>(k));
    }
#else
    static_cast<void>(threads);
    part(0, n, 0);
#endif
}

// Sum of n values, in 16 lanes: vector code, and a smaller rounding error than one running sum.
template <typename T>
MOLEFLOW_INLINE T lane_sum(const T* values, int64_t n) {
    T lanes[16] = {};
    int64_t j = 0;
    for (; j + 16 <= n; j += 16) {
        for (int k = 0; k < 16; ++k) lanes[k] += values[j + k];
    }
    for (int k = 0; j < n; ++j, ++k) lanes[k] += values[j];
    for (int width = 8; width > 0; width /= 2) {
        for (int k = 0; k < width; ++k) lanes[k] += lanes[k + width];
    }
    return lanes[0];
}

// Column sums over many rows: short fp32 runs, flushed into double. One per thread, added up in thread order.
template <typename T>
class ColumnSums {
  public:
    explicit ColumnSums(int64_t width) : run_(width), total_(width) {}

    T* next_row() {
        if (++rows_ > kRun) flush();
        return run_.data();
    }

    void add_to(T* out) {
        flush();
        for (size_t j = 0; j < total_.size(); ++j) out[j] = static_cast<T>(out[j] + total_[j]);
    }

  private:
    static constexpr int kRun = 64;

    void flush() {
        for (size_t j = 0; j < total_.size(); ++j) {
            total_[j] += run_[j];
            run_[j] = 0;
        }
        rows_ = 1;
    }

    std::vector<T> run_;
    std::vector<double> total_;
    int rows_ = 0;
};

}  // namespace moleflow::cpu
