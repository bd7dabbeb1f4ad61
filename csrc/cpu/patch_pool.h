// From feature maps to patch features: 3x3 neighbourhoods, pooled to `dim` values, resized and averaged over layers.
#pragma once

#include <cstdint>
#include <vector>

namespace moleflow::cpu {

// (batch, channels, height, width), or (batch, height, width, channels) if channels_last; contiguous.
template <typename T>
struct FeatureMap {
    const T* values;
    int channels, height, width;
    bool channels_last;
};

// out, contiguous.
struct PatchGrid {
    int64_t batch;
    int height, width, dim;
};

// out (batch, height, width, dim).
template <typename T>
void patch_pool(const std::vector<FeatureMap<T>>& maps, T* out, const PatchGrid& grid, int threads);

}  // namespace moleflow::cpu
