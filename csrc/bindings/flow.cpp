#include <pybind11/stl.h>

#include <optional>
#include <tuple>

#include "bindings/subjects.h"
#include "cpu/coupling.h"
#include "cpu/depthwise.h"
#include "cpu/linear.h"
#include "cpu/whitening.h"

namespace moleflow {
namespace {

using Optional = std::optional<Array>;
using Factors = std::tuple<double, double, double>;
using GridShape = std::tuple<int64_t, int64_t, int64_t>;

template <typename T>
cpu::Clamping<T> clamping_of(const Factors& f) {
    const auto [clamp, s_factor, t_factor] = f;
    return {static_cast<T>(clamp), static_cast<T>(s_factor), static_cast<T>(t_factor)};
}

template <typename T>
const T* bias_of(const Optional& bias, const char* name, int64_t width) {
    return bias ? packed<const T>(*bias, name, {width}) : nullptr;
}

// What backward reads of the networks: s alone.
template <typename T>
cpu::ScaleAndShift<T> scale_of(const Array& s, const Optional& s_bias, int64_t n, int64_t width) {
    return {rows<const T>(s, "s", n, width), {nullptr, 0}, bias_of<T>(s_bias, "s_bias", width), nullptr};
}

template <typename T>
cpu::ScaleAndShift<T> network_of(const Array& s, const Array& t, const Optional& s_bias, const Optional& t_bias,
                                 int64_t n, int64_t width) {
    return {rows<const T>(s, "s", n, width), rows<const T>(t, "t", n, width), bias_of<T>(s_bias, "s_bias", width),
            bias_of<T>(t_bias, "t_bias", width)};
}

void coupling_forward(const Array& s, const Array& t, const Optional& s_bias, const Optional& t_bias, const Array& x2,
                      const Array& y2, const Array& logdet, const Factors& clamping, int threads) {
    require_axes(x2, "x2", 2, "(n, width)");
    const int64_t n = x2.shape[0], width = x2.shape[1];
    by_dtype(x2, "x2", [&](auto zero) {
        using T = decltype(zero);
        const auto net = network_of<T>(s, t, s_bias, t_bias, n, width);
        const auto in = rows<const T>(x2, "x2", n, width);
        const auto out = rows<T>(y2, "y2", n, width);
        T* sums = packed<T>(logdet, "logdet", {n});
        const py::gil_scoped_release release;
        cpu::coupling_forward<T>(net, in, out, sums, n, width, clamping_of<T>(clamping), threads);
    });
}

void coupling_backward(const Array& s, const Optional& s_bias, const Array& x2, const Array& dy2, const Array& dlogdet,
                       const Array& ds, const Array& dt, const Array& ds_sum, const Array& dt_sum,
                       const Factors& clamping, int threads) {
    require_axes(x2, "x2", 2, "(n, width)");
    const int64_t n = x2.shape[0], width = x2.shape[1];
    by_dtype(x2, "x2", [&](auto zero) {
        using T = decltype(zero);
        const auto net = scale_of<T>(s, s_bias, n, width);
        const auto in = rows<const T>(x2, "x2", n, width);
        const auto gradient = rows<T>(dy2, "dy2", n, width), of_s = rows<T>(ds, "ds", n, width),
                   of_t = rows<T>(dt, "dt", n, width);
        const T* of_logdet = packed<const T>(dlogdet, "dlogdet", {n});
        T *s_sum = packed<T>(ds_sum, "ds_sum", {width}), *t_sum = packed<T>(dt_sum, "dt_sum", {width});
        const py::gil_scoped_release release;
        cpu::coupling_backward<T>(net, in, gradient, of_logdet, of_s, of_t, s_sum, t_sum, n, width,
                                  clamping_of<T>(clamping), threads);
    });
}

// Columns of x beyond the channels: those between the halves.
int64_t gap_of(const Array& x, const char* name, int64_t channels) {
    require_axes(x, name, 2, "(n, channels + gap)");
    require(x.shape[1] >= channels, name, "must have a column for each channel of scale");
    return x.shape[1] - channels;
}

int64_t channels_of(const Array& scale, int64_t split) {
    require_axes(scale, "scale", 1, "(channels,)");
    require(split >= 0 && split <= scale.shape[0], "split", "must be among the channels of scale");
    return scale.shape[0];
}

void base_coupling_forward(const Array& s, const Array& t, const Optional& s_bias, const Optional& t_bias,
                           const Array& x, const Array& y, const Array& logdet, const Array& scale,
                           const Array& offset, const Array& source, int64_t split, const Factors& clamping,
                           int threads) {
    const int64_t channels = channels_of(scale, split), width = channels - split;
    const int64_t gap = gap_of(x, "x", channels), out_gap = gap_of(y, "y", channels), n = x.shape[0];
    by_dtype(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const auto net = network_of<T>(s, t, s_bias, t_bias, n, width);
        const auto in = rows<const T>(x, "x", n, channels + gap);
        const auto out = rows<T>(y, "y", n, channels + out_gap);
        T* sums = packed<T>(logdet, "logdet", {n});
        const cpu::GlobalAffine<T> affine{packed<const T>(scale, "scale", {channels}),
                                          packed<const T>(offset, "offset", {channels}),
                                          packed<const int32_t>(source, "source", {channels}),
                                          split,
                                          channels,
                                          gap};
        const py::gil_scoped_release release;
        cpu::base_coupling_forward<T>(net, in, out, sums, n, affine, out_gap, clamping_of<T>(clamping), threads);
    });
}

void base_coupling_backward(const Array& s, const Optional& s_bias, const Array& x2, const Array& dy,
                            const Array& dlogdet, const Array& ds, const Array& dt, const Array& ds_sum,
                            const Array& dt_sum, const Array& scale, const Array& source, int64_t split,
                            const Factors& clamping, int threads) {
    const int64_t channels = channels_of(scale, split), width = channels - split;
    require_axes(x2, "x2", 2, "(n, width)");
    const int64_t n = x2.shape[0];
    by_dtype(x2, "x2", [&](auto zero) {
        using T = decltype(zero);
        const auto net = scale_of<T>(s, s_bias, n, width);
        const auto in = rows<const T>(x2, "x2", n, width);
        const auto gradient = rows<T>(dy, "dy", n, channels), of_s = rows<T>(ds, "ds", n, width),
                   of_t = rows<T>(dt, "dt", n, width);
        const T* of_logdet = packed<const T>(dlogdet, "dlogdet", {n});
        T *s_sum = packed<T>(ds_sum, "ds_sum", {width}), *t_sum = packed<T>(dt_sum, "dt_sum", {width});
        const cpu::GlobalAffine<T> affine{packed<const T>(scale, "scale", {channels}),
                                          nullptr,
                                          packed<const int32_t>(source, "source", {channels}),
                                          split,
                                          channels,
                                          0};
        const py::gil_scoped_release release;
        cpu::base_coupling_backward<T>(net, in, gradient, of_logdet, of_s, of_t, s_sum, t_sum, n, affine,
                                       clamping_of<T>(clamping), threads);
    });
}

void bias_relu(const Array& h, const Array& bias, int threads) {
    require_axes(h, "h", 2, "(n, width)");
    const int64_t n = h.shape[0], width = h.shape[1];
    by_dtype(h, "h", [&](auto zero) {
        using T = decltype(zero);
        const auto values = rows<T>(h, "h", n, width);
        const T* added = packed<const T>(bias, "bias", {width});
        const py::gil_scoped_release release;
        cpu::bias_relu<T>(values, added, n, width, threads);
    });
}

void relu_backward(const Array& dh, const Array& h, const Array& sum, int threads) {
    require_axes(dh, "dh", 2, "(n, width)");
    const int64_t n = dh.shape[0], width = dh.shape[1];
    by_dtype(dh, "dh", [&](auto zero) {
        using T = decltype(zero);
        const auto gradient = rows<T>(dh, "dh", n, width);
        const auto values = rows<const T>(h, "h", n, width);
        T* sums = packed<T>(sum, "sum", {width});
        const py::gil_scoped_release release;
        cpu::relu_backward<T>(gradient, values, sums, n, width, threads);
    });
}

// The side of the kernel whose taps these are.
int kernel_of(const Array& taps, const char* name) {
    require_axes(taps, name, 2, "(k * k, channels)");
    int kernel = 1;
    while (kernel * kernel < taps.shape[0]) kernel += 2;
    require(kernel * kernel == taps.shape[0], name, "must be those of a square kernel with an odd side");
    return kernel;
}

cpu::Grid grid_of(const GridShape& grid, int64_t n) {
    const auto [images, height, width] = grid;
    require(images >= 0 && height >= 0 && width >= 0 && images * height * width == n, "grid",
            "must be (images, height, width) of the rows of x");
    return {images, height, width};
}

void depthwise_forward(const Array& x, const Array& taps, const Optional& bias, const Array& y, const GridShape& grid,
                       bool accumulate, int threads) {
    require_axes(x, "x", 2, "(n, channels)");
    const int64_t n = x.shape[0], channels = x.shape[1];
    const int kernel = kernel_of(taps, "taps");
    const cpu::Grid tokens = grid_of(grid, n);
    by_dtype(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const auto in = rows<const T>(x, "x", n, channels);
        const auto out = rows<T>(y, "y", n, channels);
        const T* weights = packed<const T>(taps, "taps", {taps.shape[0], channels});
        const T* added = bias_of<T>(bias, "bias", channels);
        const py::gil_scoped_release release;
        cpu::depthwise_forward<T>(in, weights, added, out, tokens, channels, kernel, accumulate, threads);
    });
}

void depthwise_backward_taps(const Array& x, const Array& dy, const Array& dtaps, const Array& dbias,
                             const GridShape& grid, int threads) {
    require_axes(x, "x", 2, "(n, channels)");
    const int64_t n = x.shape[0], channels = x.shape[1];
    const int kernel = kernel_of(dtaps, "dtaps");
    const cpu::Grid tokens = grid_of(grid, n);
    by_dtype(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const auto in = rows<const T>(x, "x", n, channels), gradient = rows<const T>(dy, "dy", n, channels);
        T* of_taps = packed<T>(dtaps, "dtaps", {dtaps.shape[0], channels});
        T* of_bias = packed<T>(dbias, "dbias", {channels});
        const py::gil_scoped_release release;
        cpu::depthwise_backward_taps<T>(in, gradient, of_taps, of_bias, tokens, channels, kernel, threads);
    });
}

int64_t channels_of_tokens(const Array& x) {
    require(x.axes >= 1 && x.axes <= Array::kMostAxes, "x", "must be (..., channels)");
    return x.shape[x.axes - 1];
}

void whitening_forward(const Array& x, const Array& gamma, const Array& beta, const Array& y, const Array& mean,
                       const Array& rstd, double eps, int threads) {
    const int64_t width = channels_of_tokens(x), n = leading(x);
    by_dtype(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const T *in = packed_like<const T>(x, "x", x), *scale = packed<const T>(gamma, "gamma", {width}),
                *shift = packed<const T>(beta, "beta", {width});
        T *out = packed_like<T>(y, "y", x), *means = packed_by_row<T>(mean, "mean", x),
          *rstds = packed_by_row<T>(rstd, "rstd", x);
        const py::gil_scoped_release release;
        cpu::whitening_forward<T>(in, scale, shift, out, means, rstds, n, width, eps, threads);
    });
}

void whitening_backward(const Array& x, const Array& gamma, const Array& mean, const Array& rstd, const Array& dy,
                        const Optional& dx, const Array& dgamma, const Array& dbeta, int threads) {
    const int64_t width = channels_of_tokens(x), n = leading(x);
    by_dtype(x, "x", [&](auto zero) {
        using T = decltype(zero);
        const T *in = packed_like<const T>(x, "x", x), *scale = packed<const T>(gamma, "gamma", {width}),
                *means = packed_by_row<const T>(mean, "mean", x), *rstds = packed_by_row<const T>(rstd, "rstd", x),
                *gradient = packed_like<const T>(dy, "dy", x);
        T *of_x = dx ? packed_like<T>(*dx, "dx", x) : nullptr, *of_gamma = packed<T>(dgamma, "dgamma", {width}),
          *of_beta = packed<T>(dbeta, "dbeta", {width});
        const py::gil_scoped_release release;
        cpu::whitening_backward<T>(in, scale, means, rstds, gradient, of_x, of_gamma, of_beta, n, width, threads);
    });
}

}  // namespace

void bind_flow(py::module_& m) {
    using py::arg;
    m.def("coupling_forward", &coupling_forward, arg("s"), arg("t"), arg("s_bias"), arg("t_bias"), arg("x2"),
          arg("y2"), arg("logdet"), arg("clamping"), arg("threads"));
    m.def("coupling_backward", &coupling_backward, arg("s"), arg("s_bias"), arg("x2"), arg("dy2"), arg("dlogdet"),
          arg("ds"), arg("dt"), arg("ds_sum"), arg("dt_sum"), arg("clamping"), arg("threads"));
    m.def("base_coupling_forward", &base_coupling_forward, arg("s"), arg("t"), arg("s_bias"), arg("t_bias"), arg("x"),
          arg("y"), arg("logdet"), arg("scale"), arg("offset"), arg("source"), arg("split"), arg("clamping"),
          arg("threads"));
    m.def("base_coupling_backward", &base_coupling_backward, arg("s"), arg("s_bias"), arg("x2"), arg("dy"),
          arg("dlogdet"), arg("ds"), arg("dt"), arg("ds_sum"), arg("dt_sum"), arg("scale"), arg("source"),
          arg("split"), arg("clamping"), arg("threads"));
    m.def("bias_relu", &bias_relu, arg("h"), arg("bias"), arg("threads"));
    m.def("relu_backward", &relu_backward, arg("dh"), arg("h"), arg("sum"), arg("threads"));
    m.def("depthwise_forward", &depthwise_forward, arg("x"), arg("taps"), arg("bias"), arg("y"), arg("grid"),
          arg("accumulate"), arg("threads"));
    m.def("depthwise_backward_taps", &depthwise_backward_taps, arg("x"), arg("dy"), arg("dtaps"), arg("dbias"),
          arg("grid"), arg("threads"));
    m.def("whitening_forward", &whitening_forward, arg("x"), arg("gamma"), arg("beta"), arg("y"), arg("mean"),
          arg("rstd"), arg("eps"), arg("threads"));
    m.def("whitening_backward", &whitening_backward, arg("x"), arg("gamma"), arg("mean"), arg("rstd"), arg("dy"),
          arg("dx"), arg("dgamma"), arg("dbeta"), arg("threads"));
}

}  // namespace moleflow
