// Depthwise convolution of channels-last images, zero padding (kernel - 1) / 2, stride 1, odd kernel.
#pragma once

#include "cpu/rows.h"

namespace moleflow::cpu {

struct Grid {
    int64_t images, height, width;
};

// Row n of x and y is the token (image, y, x) in that order. taps: (kernel * kernel, channels); bias (channels) or null.
// y = bias + sum of taps, or y += that with `accumulate`. y may not overlap x.
template <typename T>
void depthwise_forward(Rows<const T> x, const T* taps, const T* bias, Rows<T> y, Grid grid, int64_t channels,
                       int kernel, bool accumulate, int threads);

// d taps (kernel * kernel, channels) and d bias (channels), which get the sums over all tokens added.
template <typename T>
void depthwise_backward_taps(Rows<const T> x, Rows<const T> dy, T* dtaps, T* dbias, Grid grid, int64_t channels,
                             int kernel, int threads);

}  // namespace moleflow::cpu
