#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/subjects.h"
#include "cpu/adamp.h"
#include "cpu/density.h"

namespace moleflow {
namespace {

int64_t dim_of(const Array& z) {
    require_axes(z, "z", 4, "(images, height, width, dim)");
    return z.shape[3];
}

void patch_nll(const Array& z, const Array& logdet, const Array& nll, int threads) {
    const int64_t dim = dim_of(z);
    by_dtype(z, "z", [&](auto zero) {
        using T = decltype(zero);
        const T *latent = packed_like<const T>(z, "z", z), *logdets = packed_by_row<const T>(logdet, "logdet", z);
        T* out = packed_by_row<T>(nll, "nll", z);
        const py::gil_scoped_release release;
        cpu::patch_nll(latent, logdets, out, leading(z), dim, threads);
    });
}

void scale_patches(const Array& z, const Array& weights, const Array& out, int threads) {
    const int64_t dim = dim_of(z);
    by_dtype(z, "z", [&](auto zero) {
        using T = decltype(zero);
        const T *latent = packed_like<const T>(z, "z", z), *factors = packed_by_row<const T>(weights, "weights", z);
        T* scaled = packed_like<T>(out, "out", z);
        const py::gil_scoped_release release;
        cpu::scale_patches(latent, factors, scaled, leading(z), dim, threads);
    });
}

void density_loss(const Array& z, const Array& logdet, const Array& loss, const Array& weights, int64_t tail,
                  double tail_weight, double lambda_logdet, int threads) {
    const int64_t dim = dim_of(z), images = z.shape[0], patches = z.shape[1] * z.shape[2];
    require(images * patches > 0, "z", "must have at least one patch");
    require(tail >= 0 && tail <= patches, "tail", "must be from 0 to the number of patches of an image");
    by_dtype(z, "z", [&](auto zero) {
        using T = decltype(zero);
        const T *latent = packed_like<const T>(z, "z", z), *logdets = packed_by_row<const T>(logdet, "logdet", z);
        T *out = packed<T>(loss, "loss", {}), *slopes = packed_by_row<T>(weights, "weights", z);
        const py::gil_scoped_release release;
        cpu::density_loss(latent, logdets, out, slopes, images, patches, dim, tail, tail_weight, lambda_logdet,
                          threads);
    });
}

void density_loss_backward(const Array& grad, const Array& weights, const Array& z, const Array& logdet,
                           const Array& dz, const Array& dlogdet, double lambda_logdet, int threads) {
    const int64_t dim = dim_of(z);
    by_dtype(z, "z", [&](auto zero) {
        using T = decltype(zero);
        const T *above = packed<const T>(grad, "grad", {}), *slopes = packed_by_row<const T>(weights, "weights", z),
                *latent = packed_like<const T>(z, "z", z), *logdets = packed_by_row<const T>(logdet, "logdet", z);
        T *of_z = packed_like<T>(dz, "dz", z), *of_logdet = packed_by_row<T>(dlogdet, "dlogdet", z);
        const py::gil_scoped_release release;
        cpu::density_loss_backward(above, slopes, latent, logdets, of_z, of_logdet, leading(z), dim, lambda_logdet,
                                   threads);
    });
}

// AdamPSettings and AdamPTensor of moleflow_fast/ops/adamp.py.
using Settings = std::tuple<double, double, double, double, double, double, double, bool>;
using Trained = std::tuple<Array, Array, Array, Array, int64_t>;
using Groups = std::vector<std::tuple<Settings, std::vector<Trained>>>;

cpu::AdamPGroup group_of(const Settings& settings) {
    const auto [lr, beta1, beta2, eps, weight_decay, delta, wd_ratio, nesterov] = settings;
    return {lr, beta1, beta2, eps, weight_decay, delta, wd_ratio, nesterov ? 1.0 : 0.0};
}

template <typename T>
cpu::AdamPTensor tensor_of(const Trained& trained, int64_t group) {
    const auto& [parameter, gradient, exp_avg, exp_avg_sq, step] = trained;
    require(parameter.axes <= Array::kMostAxes, "parameter", "must have at most eight axes");
    require(step >= 1, "step", "must be at least 1");
    const bool matrix = parameter.axes > 1;
    int64_t columns = 1;
    for (int i = matrix ? 1 : 0; i < parameter.axes; ++i) columns *= parameter.shape[i];
    return {packed_like<T>(parameter, "parameter", parameter),
            packed_like<const T>(gradient, "gradient", parameter),
            packed_like<T>(exp_avg, "exp_avg", parameter),
            packed_like<T>(exp_avg_sq, "exp_avg_sq", parameter),
            matrix ? parameter.shape[0] : 1,
            columns,
            matrix,
            step,
            group};
}

template <typename T>
std::vector<cpu::AdamPTensor> tensors_of(const Groups& groups) {
    std::vector<cpu::AdamPTensor> all;
    for (size_t g = 0; g < groups.size(); ++g) {
        const auto& own = std::get<1>(groups[g]);
        for (size_t i = 0; i < own.size(); ++i) {
            try {
                all.push_back(tensor_of<T>(own[i], static_cast<int64_t>(g)));
            } catch (const py::value_error& error) {
                throw py::value_error("groups[" + std::to_string(g) + "], tensor " + std::to_string(i) + ": " +
                                      error.what());
            }
        }
    }
    return all;
}

double adamp(const Groups& groups, std::optional<double> max_norm, int threads) {
    std::vector<cpu::AdamPGroup> settings;
    const Array* first = nullptr;
    for (const auto& [own, tensors] : groups) {
        settings.push_back(group_of(own));
        if (!first && !tensors.empty()) first = &std::get<0>(tensors[0]);
    }
    if (!first) return 0;
    return by_dtype(*first, "parameter", [&](auto zero) {
        using T = decltype(zero);
        const std::vector<cpu::AdamPTensor> tensors = tensors_of<T>(groups);
        const py::gil_scoped_release release;
        return cpu::adamp<T>(tensors.data(), static_cast<int64_t>(tensors.size()), settings.data(), max_norm.value_or(-1),
                             threads);
    });
}

}  // namespace

void bind_training(py::module_& m) {
    using py::arg;
    m.def("patch_nll", &patch_nll, arg("z"), arg("logdet"), arg("nll"), arg("threads"));
    m.def("scale_patches", &scale_patches, arg("z"), arg("weights"), arg("out"), arg("threads"));
    m.def("density_loss", &density_loss, arg("z"), arg("logdet"), arg("loss"), arg("weights"), arg("tail"),
          arg("tail_weight"), arg("lambda_logdet"), arg("threads"));
    m.def("density_loss_backward", &density_loss_backward, arg("grad"), arg("weights"), arg("z"), arg("logdet"),
          arg("dz"), arg("dlogdet"), arg("lambda_logdet"), arg("threads"));
    m.def("adamp", &adamp, arg("groups"), arg("max_norm"), arg("threads"));
}

}  // namespace moleflow
