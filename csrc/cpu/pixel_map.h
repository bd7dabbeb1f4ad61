// From patch maps to pixel maps: resize and smoothing as one matrix per axis.
#pragma once

#include <cstdint>

namespace moleflow::cpu {

struct PixelMapShape {
    int64_t images;
    int height, width, size;
};

// out (images, size, size) = rows (size, height) @ map (height, width) @ columns (width, size), each contiguous.
// Only the span from the first to the last value that is not zero is read of a row of `rows` and of `columns`.
template <typename T>
void pixel_map(const T* maps, const T* rows, const T* columns, T* out, const PixelMapShape& shape, int threads);

}  // namespace moleflow::cpu
