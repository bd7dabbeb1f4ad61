// 8-connected regions of masks: of defective pixels for metrics, and of pixels above a threshold.
#pragma once

#include <cstdint>
#include <vector>

namespace moleflow::cpu {

// Number the 8-connected regions of a mask (height, width) from 1 in `regions` (same shape; 0 outside); returns how many.
int32_t label_regions(const uint8_t* mask, int32_t* regions, int height, int width);

struct DefectivePixels {
    std::vector<int64_t> places;   // in (images, height, width), ascending
    std::vector<double> weights;  // 1 / (size of the pixel's region * number of regions)
};

// `right` and `bottom` lie just outside.
struct Region {
    int left, top, right, bottom;
    int64_t area;
    double peak;
};

// The regions of a mask (height, width), by their first pixels; peaks are of `values`, of the mask's shape.
template <typename T>
std::vector<Region> find_regions(const T* values, const uint8_t* mask, int height, int width);

DefectivePixels defective_pixels(const uint8_t* masks, int64_t images, int height, int width, int threads);

}  // namespace moleflow::cpu
