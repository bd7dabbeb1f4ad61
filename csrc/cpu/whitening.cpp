#include "cpu/whitening.h"

#include <cmath>

namespace moleflow::cpu {
namespace {

template <typename T>
struct ForwardTask {
    const T *x, *gamma, *beta;
    T *y, *mean, *rstd;
    int64_t width;
    double eps;
};

template <typename T>
MOLEFLOW_INLINE void forward_rows(const ForwardTask<T>& a, int64_t begin, int64_t end, T* row, T* squares) {
    const int64_t width = a.width;
    for (int64_t n = begin; n < end; ++n) {
        const T* x = a.x + n * width;
        const T mean = lane_sum(x, width) / static_cast<T>(width);
#pragma GCC ivdep
        for (int64_t j = 0; j < width; ++j) {
            row[j] = x[j] - mean;
            squares[j] = row[j] * row[j];
        }
        const T variance = lane_sum(squares, width) / static_cast<T>(width);
        const T rstd = T(1) / std::sqrt(variance + static_cast<T>(a.eps));
        T* y = a.y + n * width;
#pragma GCC ivdep
        for (int64_t j = 0; j < width; ++j) y[j] = a.gamma[j] * (row[j] * rstd) + a.beta[j];
        a.mean[n] = mean;
        a.rstd[n] = rstd;
    }
}

template <typename T>
struct BackwardTask {
    const T *x, *gamma, *mean, *rstd, *dy;
    T* dx;
    int64_t width;
};

template <typename T>
MOLEFLOW_INLINE void backward_rows(const BackwardTask<T>& a, int64_t begin, int64_t end, ColumnSums<T>& dgamma,
                                   ColumnSums<T>& dbeta, T* normal, T* product) {
    const int64_t width = a.width;
    for (int64_t n = begin; n < end; ++n) {
        const T *x = a.x + n * width, *dy = a.dy + n * width;
        const T mean = a.mean[n], rstd = a.rstd[n];
        T *gamma_sum = dgamma.next_row(), *beta_sum = dbeta.next_row();
#pragma GCC ivdep
        for (int64_t j = 0; j < width; ++j) {
            normal[j] = (x[j] - mean) * rstd;
            gamma_sum[j] += dy[j] * normal[j];
            beta_sum[j] += dy[j];
        }
        if (!a.dx) continue;
        T* dx = a.dx + n * width;
#pragma GCC ivdep
        for (int64_t j = 0; j < width; ++j) {
            dx[j] = dy[j] * a.gamma[j];
            product[j] = dx[j] * normal[j];
        }
        const T along = lane_sum(product, width) / static_cast<T>(width);
        const T average = lane_sum(dx, width) / static_cast<T>(width);
#pragma GCC ivdep
        for (int64_t j = 0; j < width; ++j) dx[j] = rstd * (dx[j] - average - normal[j] * along);
    }
}

#define MOLEFLOW_CLONES_OF(T)                                                                                      \
    MOLEFLOW_VECTOR_CLONES void run(const ForwardTask<T>& a, int64_t begin, int64_t end, T* row, T* squares) {     \
        forward_rows(a, begin, end, row, squares);                                                                 \
    }                                                                                                              \
    MOLEFLOW_VECTOR_CLONES void run(const BackwardTask<T>& a, int64_t begin, int64_t end, ColumnSums<T>& dgamma,   \
                                    ColumnSums<T>& dbeta, T* normal, T* product) {                                 \
        backward_rows(a, begin, end, dgamma, dbeta, normal, product);                                              \
    }
MOLEFLOW_CLONES_OF(float)
MOLEFLOW_CLONES_OF(double)

}  // namespace

template <typename T>
void whitening_forward(const T* x, const T* gamma, const T* beta, T* y, T* mean, T* rstd, int64_t n, int64_t width,
                       double eps, int threads) {
    const ForwardTask<T> task{x, gamma, beta, y, mean, rstd, width, eps};
    share(n, threads, [&](int64_t begin, int64_t end, int) {
        std::vector<T> scratch(2 * width);
        run(task, begin, end, scratch.data(), scratch.data() + width);
    });
}

template <typename T>
void whitening_backward(const T* x, const T* gamma, const T* mean, const T* rstd, const T* dy, T* dx, T* dgamma,
                        T* dbeta, int64_t n, int64_t width, int threads) {
    const BackwardTask<T> task{x, gamma, mean, rstd, dy, dx, width};
    std::vector<ColumnSums<T>> gamma_sums(threads, ColumnSums<T>(width)), beta_sums = gamma_sums;
    share(n, threads, [&](int64_t begin, int64_t end, int k) {
        std::vector<T> scratch(2 * width);
        run(task, begin, end, gamma_sums[k], beta_sums[k], scratch.data(), scratch.data() + width);
    });
    std::fill(dgamma, dgamma + width, T(0));
    std::fill(dbeta, dbeta + width, T(0));
    for (int k = 0; k < threads; ++k) {
        gamma_sums[k].add_to(dgamma);
        beta_sums[k].add_to(dbeta);
    }
}

#define MOLEFLOW_INSTANTIATE(T)                                                                                      \
    template void whitening_forward(const T*, const T*, const T*, T*, T*, T*, int64_t, int64_t, double, int);         \
    template void whitening_backward(const T*, const T*, const T*, const T*, const T*, T*, T*, T*, int64_t, int64_t, \
                                     int);
MOLEFLOW_INSTANTIATE(float)
MOLEFLOW_INSTANTIATE(double)

}  // namespace moleflow::cpu
