// exp and tanh without branches or library calls in fp32, so that loops over them become vector code.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/vector_clones.h"

namespace moleflow::cpu {

MOLEFLOW_INLINE float from_bits(int32_t bits) {
    return __builtin_bit_cast(float, bits);
}

// |relative error| < 2e-7 on [-87, 88], the arguments beyond are clamped; NaN stays NaN.
MOLEFLOW_INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are round(x / ln 2)
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * from_bits((static_cast<int32_t>(n) + 127) << 23);
}

MOLEFLOW_INLINE double exponential(double x) { return exp(x); }

// |relative error| < 3e-7, small arguments included.
MOLEFLOW_INLINE float hyperbolic_tangent(float x) {
    const float size = x < 0.0f ? -x : x;
    const float square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const float near_zero = p * square * x + x;
    const float far = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
    const float away = x < 0.0f ? -far : far;
    return size < 0.625f ? near_zero : away;
}

MOLEFLOW_INLINE double hyperbolic_tangent(double x) { return tanh(x); }

}  // namespace moleflow::cpu
