// y = gamma * LayerNorm(x) + beta over channels.
#pragma once

#include "cpu/rows.h"

namespace moleflow::cpu {

// x, y (n, width) contiguous; gamma, beta (width); mean, rstd (n): what backward needs.
template <typename T>
void whitening_forward(const T* x, const T* gamma, const T* beta, T* y, T* mean, T* rstd, int64_t n, int64_t width,
                       double eps, int threads);

// dx (n, width) may be null where it is not wanted; dgamma, dbeta (width) are overwritten.
template <typename T>
void whitening_backward(const T* x, const T* gamma, const T* mean, const T* rstd, const T* dy, T* dx, T* dgamma,
                        T* dbeta, int64_t n, int64_t width, int threads);

}  // namespace moleflow::cpu
