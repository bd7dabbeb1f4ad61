// Gaussian smoothing as scipy.ndimage.gaussian_filter defines it (mode "reflect", truncate 4).
#pragma once

#include <cstdint>

namespace moleflow::cpu {

// in, out: (images, height, width), contiguous, not overlapping; sigma > 0 in pixels.
template <typename T>
void gaussian_smooth(const T* in, T* out, int64_t images, int height, int width, double sigma, int threads);

}  // namespace moleflow::cpu
