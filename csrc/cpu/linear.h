// What follows a matrix product in a two-layer network.
#pragma once

#include "cpu/rows.h"

namespace moleflow::cpu {

// h (n, width) <- max(h + bias, 0) in place; NaN stays NaN.
template <typename T>
void bias_relu(Rows<T> h, const T* bias, int64_t n, int64_t width, int threads);

// dh (n, width) <- dh where h > 0, else 0, in place; sum (width) gets the column sums of the result added.
template <typename T>
void relu_backward(Rows<T> dh, Rows<const T> h, T* sum, int64_t n, int64_t width, int threads);

}  // namespace moleflow::cpu
