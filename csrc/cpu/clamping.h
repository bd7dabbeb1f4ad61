// The scalar equations of an affine coupling, with both clampings in one form:
// log-scale = clamp * tanh(s_factor * s), shift = t_factor * t.
// AllInOne (base flow): s_factor = t_factor = 0.1. Task flow (DIA): s_factor = 1 / clamp, t_factor = 1.
#pragma once

#include "cpu/elementary.h"

namespace moleflow::cpu {

template <typename T>
struct Clamping {
    T clamp;
    T s_factor;
    T t_factor;
};

template <typename T>
MOLEFLOW_INLINE T log_scale(T s, const Clamping<T>& c) {
    return c.clamp * hyperbolic_tangent(c.s_factor * s);
}

// d log-scale / d s, from the log-scale itself.
template <typename T>
MOLEFLOW_INLINE T log_scale_slope(T log_scale, const Clamping<T>& c) {
    const T tangent = log_scale / c.clamp;
    return c.clamp * c.s_factor * (T(1) - tangent * tangent);
}

}  // namespace moleflow::cpu
