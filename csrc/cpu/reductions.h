// Sums that do not depend on the number of threads: fp32 is added up in fp64.
#pragma once

#include <cstdint>

namespace moleflow::cpu {

double dot(const float* a, const float* b, int64_t n);
double dot(const double* a, const double* b, int64_t n);

template <typename T>
double sum_squares(const T* a, int64_t n) {
    return dot(a, a, n);
}

}  // namespace moleflow::cpu
