#include "cpu/linear.h"

namespace moleflow::cpu {
namespace {

template <typename T>
MOLEFLOW_INLINE void bias_relu_row(T* h, const T* bias, int64_t width) {
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j) {
        const T v = h[j] + bias[j];
        h[j] = v < T(0) ? T(0) : v;
    }
}

template <typename T>
MOLEFLOW_INLINE void relu_backward_row(T* dh, const T* h, T* sum, int64_t width) {
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j) {
        const T v = h[j] > T(0) ? dh[j] : T(0);
        dh[j] = v;
        sum[j] += v;
    }
}

#define MOLEFLOW_CLONES_OF(T)                                                                                   \
    MOLEFLOW_VECTOR_CLONES void forward(Rows<T> h, const T* bias, int64_t begin, int64_t end, int64_t width) {  \
        for (int64_t n = begin; n < end; ++n) bias_relu_row(h[n], bias, width);                                 \
    }                                                                                                           \
    MOLEFLOW_VECTOR_CLONES void backward(Rows<T> dh, Rows<const T> h, ColumnSums<T>& sums, int64_t begin,       \
                                         int64_t end, int64_t width) {                                          \
        for (int64_t n = begin; n < end; ++n) relu_backward_row(dh[n], h[n], sums.next_row(), width);           \
    }
MOLEFLOW_CLONES_OF(float)
MOLEFLOW_CLONES_OF(double)

}  // namespace

template <typename T>
void bias_relu(Rows<T> h, const T* bias, int64_t n, int64_t width, int threads) {
    share(n, threads, [&](int64_t begin, int64_t end, int) { forward(h, bias, begin, end, width); });
}

template <typename T>
void relu_backward(Rows<T> dh, Rows<const T> h, T* sum, int64_t n, int64_t width, int threads) {
    std::vector<ColumnSums<T>> sums(threads, ColumnSums<T>(width));
    share(n, threads, [&](int64_t begin, int64_t end, int k) { backward(dh, h, sums[k], begin, end, width); });
    for (ColumnSums<T>& s : sums) s.add_to(sum);
}

template void bias_relu(Rows<float>, const float*, int64_t, int64_t, int);
template void bias_relu(Rows<double>, const double*, int64_t, int64_t, int);
template void relu_backward(Rows<float>, Rows<const float>, float*, int64_t, int64_t, int);
template void relu_backward(Rows<double>, Rows<const double>, double*, int64_t, int64_t, int);

}  // namespace moleflow::cpu
