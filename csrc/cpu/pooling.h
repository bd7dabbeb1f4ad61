// Which inputs one output of a pooling or resize reads, as PyTorch defines it.
#pragma once

#include <cstdint>

#include "cpu/vector_clones.h"

namespace moleflow::cpu {

struct Window {
    int64_t begin, end;
};

// The values [begin, end) of `inputs` whose mean is output i of adaptive average pooling to `outputs`.
MOLEFLOW_INLINE Window pooling_window(int64_t i, int64_t inputs, int64_t outputs) {
    return {i * inputs / outputs, ((i + 1) * inputs + outputs - 1) / outputs};
}

struct Blend {
    int first, second;
    double share;  // output = (1 - share) * in[first] + share * in[second]
};

// Output i of a bilinear resize along one axis, align_corners=False.
MOLEFLOW_INLINE Blend bilinear_source(int i, int inputs, int outputs) {
    const double centre = (i + 0.5) * inputs / outputs - 0.5;
    const double source = centre > 0 ? centre : 0;
    const int first = source < inputs - 1 ? static_cast<int>(source) : inputs - 1;
    return {first, first < inputs - 1 ? first + 1 : first, source - first};
}

}  // namespace moleflow::cpu
