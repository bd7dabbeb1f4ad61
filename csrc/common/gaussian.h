// Gaussian smoothing as scipy.ndimage.gaussian_filter defines it (mode "reflect", truncate 4), shared by CPU and CUDA.
#pragma once

#include <cmath>

#include "common/host_device.h"

namespace moleflow {

constexpr double kTruncate = 4.0;

MOLEFLOW_HD int gaussian_radius(double sigma) { return static_cast<int>(kTruncate * sigma + 0.5); }

// Not normalised: weights are divided by their sum over -radius..radius.
MOLEFLOW_HD double gaussian_weight(int offset, double sigma) { return exp(-0.5 * offset * offset / (sigma * sigma)); }

// d c b a | a b c d | d c b a, for any distance beyond the edge.
MOLEFLOW_HD int reflect(int i, int n) {
    const int period = 2 * n;
    i %= period;
    if (i < 0) i += period;
    return i < n ? i : period - 1 - i;
}

}  // namespace moleflow
