// Affine couplings between the matrix products: bias, clamping, affine map, log-determinant, and for the base flow the
// global affine map and the hard permutation, in one pass over the tokens.
#pragma once

#include "cpu/clamping.h"
#include "cpu/rows.h"

namespace moleflow::cpu {

// What the networks say: raw products s, t (n, width) without their biases (width), which may be null.
template <typename T>
struct ScaleAndShift {
    Rows<const T> s, t;
    const T *s_bias, *t_bias;
};

// After the coupling: channel i of the result is scale[p] * v[p] + offset[p], p = source[i], v = [x1, y2]; written to
// column i, or i + gap from the first `split` channels on (room for the next block's context channels).
template <typename T>
struct GlobalAffine {
    const T *scale, *offset;
    const int32_t* source;
    int64_t split, channels, gap;
};

// y2 = x2 * exp(log-scale) + shift; logdet[row] += sum of log-scales. y2 may be x2.
template <typename T>
void coupling_forward(const ScaleAndShift<T>& net, Rows<const T> x2, Rows<T> y2, T* logdet, int64_t n, int64_t width,
                      Clamping<T> clamping, int threads);

// The same with the global affine map and permutation: x, y have columns [x1 | gap | x2]. y may be x.
template <typename T>
void base_coupling_forward(const ScaleAndShift<T>& net, Rows<const T> x, Rows<T> y, T* logdet, int64_t n,
                           const GlobalAffine<T>& affine, int64_t out_gap, Clamping<T> clamping, int threads);

// Gradients of coupling_forward. dy2 (n, width) becomes dx2 in place; ds, dt (n, width) are those of the raw products;
// ds_sum, dt_sum (width) get their column sums added (the biases' gradients).
template <typename T>
void coupling_backward(const ScaleAndShift<T>& net, Rows<const T> x2, Rows<T> dy2, const T* dlogdet, Rows<T> ds,
                       Rows<T> dt, T* ds_sum, T* dt_sum, int64_t n, int64_t width, Clamping<T> clamping, int threads);

// Gradients of base_coupling_forward without those of scale and offset. dy (n, channels) without gap becomes
// [dx1 | dx2] in place, dx1 without the part that comes through the networks. x2: the driven half of the input.
template <typename T>
void base_coupling_backward(const ScaleAndShift<T>& net, Rows<const T> x2, Rows<T> dy, const T* dlogdet, Rows<T> ds,
                            Rows<T> dt, T* ds_sum, T* dt_sum, int64_t n, const GlobalAffine<T>& affine,
                            Clamping<T> clamping, int threads);

}  // namespace moleflow::cpu
