#include "cpu/reductions.h"

#include "cpu/vector_clones.h"

namespace moleflow::cpu {

MOLEFLOW_VECTOR_CLONES double dot(const float* a, const float* b, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
}

MOLEFLOW_VECTOR_CLONES double dot(const double* a, const double* b, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
}

}  // namespace moleflow::cpu
