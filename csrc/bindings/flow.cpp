#include "bindings/subjects.h"
#include "cpu/coupling.h"
#include "cpu/depthwise.h"
#include "cpu/linear.h"
#include "cpu/whitening.h"

namespace moleflow {
namespace {

using Address = uintptr_t;

template <typename T>
cpu::ScaleAndShift<T> network(Address s, int64_t s_stride, Address t, int64_t t_stride, Address s_bias, Address t_bias) {
    return {{at<const T>(s), s_stride}, {at<const T>(t), t_stride}, at<const T>(s_bias), at<const T>(t_bias)};
}

template <typename T>
Clamping<T> clamping(double clamp, double s_factor, double t_factor) {
    return {static_cast<T>(clamp), static_cast<T>(s_factor), static_cast<T>(t_factor)};
}

template <typename T>
void coupling_forward(Address s, int64_t s_stride, Address t, int64_t t_stride, Address s_bias, Address t_bias,
                      Address x2, int64_t x2_stride, Address y2, int64_t y2_stride, Address logdet, int64_t n,
                      int64_t width, double clamp, double s_factor, double t_factor, int threads) {
    cpu::coupling_forward<T>(network<T>(s, s_stride, t, t_stride, s_bias, t_bias), {at<const T>(x2), x2_stride},
                             {at<T>(y2), y2_stride}, at<T>(logdet), n, width, clamping<T>(clamp, s_factor, t_factor),
                             threads);
}

template <typename T>
void coupling_backward(Address s, int64_t s_stride, Address s_bias, Address x2, int64_t x2_stride, Address dy2,
                       int64_t dy2_stride, Address dlogdet, Address ds, int64_t ds_stride, Address dt,
                       int64_t dt_stride, Address ds_sum, Address dt_sum, int64_t n, int64_t width, double clamp,
                       double s_factor, double t_factor, int threads) {
    cpu::coupling_backward<T>(network<T>(s, s_stride, 0, 0, s_bias, 0), {at<const T>(x2), x2_stride},
                              {at<T>(dy2), dy2_stride}, at<const T>(dlogdet), {at<T>(ds), ds_stride},
                              {at<T>(dt), dt_stride}, at<T>(ds_sum), at<T>(dt_sum), n, width,
                              clamping<T>(clamp, s_factor, t_factor), threads);
}

template <typename T>
void base_coupling_forward(Address s, int64_t s_stride, Address t, int64_t t_stride, Address s_bias, Address t_bias,
                           Address x, int64_t x_stride, Address y, int64_t y_stride, Address logdet, int64_t n,
                           Address scale, Address offset, Address source, int64_t split, int64_t channels, int64_t gap,
                           int64_t out_gap, double clamp, double factor, int threads) {
    const cpu::GlobalAffine<T> affine{at<const T>(scale), at<const T>(offset), at<const int32_t>(source),
                                      split,              channels,            gap};
    cpu::base_coupling_forward<T>(network<T>(s, s_stride, t, t_stride, s_bias, t_bias), {at<const T>(x), x_stride},
                                  {at<T>(y), y_stride}, at<T>(logdet), n, affine, out_gap,
                                  clamping<T>(clamp, factor, factor), threads);
}

template <typename T>
void base_coupling_backward(Address s, int64_t s_stride, Address s_bias, Address x2, int64_t x2_stride, Address dy,
                            int64_t dy_stride, Address dlogdet, Address ds, int64_t ds_stride, Address dt,
                            int64_t dt_stride, Address ds_sum, Address dt_sum, int64_t n, Address scale, Address source,
                            int64_t split, int64_t channels, double clamp, double factor, int threads) {
    const cpu::GlobalAffine<T> affine{at<const T>(scale), nullptr, at<const int32_t>(source), split, channels, 0};
    cpu::base_coupling_backward<T>(network<T>(s, s_stride, 0, 0, s_bias, 0), {at<const T>(x2), x2_stride},
                                   {at<T>(dy), dy_stride}, at<const T>(dlogdet), {at<T>(ds), ds_stride},
                                   {at<T>(dt), dt_stride}, at<T>(ds_sum), at<T>(dt_sum), n, affine,
                                   clamping<T>(clamp, factor, factor), threads);
}

template <typename T>
void bias_relu(Address h, int64_t stride, Address bias, int64_t n, int64_t width, int threads) {
    cpu::bias_relu<T>({at<T>(h), stride}, at<const T>(bias), n, width, threads);
}

template <typename T>
void relu_backward(Address dh, int64_t dh_stride, Address h, int64_t h_stride, Address sum, int64_t n, int64_t width,
                   int threads) {
    cpu::relu_backward<T>({at<T>(dh), dh_stride}, {at<const T>(h), h_stride}, at<T>(sum), n, width, threads);
}

template <typename T>
void depthwise_forward(Address x, int64_t x_stride, Address taps, Address bias, Address y, int64_t y_stride,
                       int64_t images, int64_t height, int64_t width, int64_t channels, int kernel, bool accumulate,
                       int threads) {
    cpu::depthwise_forward<T>({at<const T>(x), x_stride}, at<const T>(taps), at<const T>(bias), {at<T>(y), y_stride},
                              {images, height, width}, channels, kernel, accumulate, threads);
}

template <typename T>
void depthwise_backward_taps(Address x, int64_t x_stride, Address dy, int64_t dy_stride, Address dtaps, Address dbias,
                             int64_t images, int64_t height, int64_t width, int64_t channels, int kernel, int threads) {
    cpu::depthwise_backward_taps<T>({at<const T>(x), x_stride}, {at<const T>(dy), dy_stride}, at<T>(dtaps),
                                    at<T>(dbias), {images, height, width}, channels, kernel, threads);
}

template <typename T>
void whitening_forward(Address x, Address positions, int64_t period, Address gamma, Address beta, Address y,
                       Address mean, Address rstd, int64_t n, int64_t width, double eps, int threads) {
    cpu::whitening_forward<T>(at<const T>(x), at<const T>(positions), period, at<const T>(gamma), at<const T>(beta),
                              at<T>(y), at<T>(mean), at<T>(rstd), n, width, eps, threads);
}

template <typename T>
void whitening_backward(Address x, Address positions, int64_t period, Address gamma, Address mean, Address rstd,
                        Address dy, Address dx, Address dgamma, Address dbeta, int64_t n, int64_t width, int threads) {
    cpu::whitening_backward<T>(at<const T>(x), at<const T>(positions), period, at<const T>(gamma), at<const T>(mean),
                               at<const T>(rstd), at<const T>(dy), at<T>(dx), at<T>(dgamma), at<T>(dbeta), n, width,
                               threads);
}

}  // namespace

void bind_flow(py::module_& m) {
    MOLEFLOW_BIND_FLOATS(m, "coupling_forward", coupling_forward);
    MOLEFLOW_BIND_FLOATS(m, "coupling_backward", coupling_backward);
    MOLEFLOW_BIND_FLOATS(m, "base_coupling_forward", base_coupling_forward);
    MOLEFLOW_BIND_FLOATS(m, "base_coupling_backward", base_coupling_backward);
    MOLEFLOW_BIND_FLOATS(m, "bias_relu", bias_relu);
    MOLEFLOW_BIND_FLOATS(m, "relu_backward", relu_backward);
    MOLEFLOW_BIND_FLOATS(m, "depthwise_forward", depthwise_forward);
    MOLEFLOW_BIND_FLOATS(m, "depthwise_backward_taps", depthwise_backward_taps);
    MOLEFLOW_BIND_FLOATS(m, "whitening_forward", whitening_forward);
    MOLEFLOW_BIND_FLOATS(m, "whitening_backward", whitening_backward);
}

}  // namespace moleflow
