#pragma once

#include <cstdint>

namespace moleflow::cpu {

// Number the 8-connected regions of a mask (height, width) from 1 in `regions` (same shape; 0 outside); returns how many.
int32_t label_regions(const uint8_t* mask, int32_t* regions, int height, int width);

}  // namespace moleflow::cpu
