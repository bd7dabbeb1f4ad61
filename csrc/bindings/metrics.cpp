#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "bindings/subjects.h"
#include "cpu/gaussian.h"
#include "cpu/ranking.h"
#include "cpu/regions.h"
#ifdef MOLEFLOW_WITH_CUDA
#include "cuda/gaussian.h"
#endif

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

void check(bool holds, const std::string& message) {
    if (!holds) throw std::invalid_argument(message);
}

template <typename T>
py::tuple ranked_figures(const Array<T>& scores, const Array<int64_t>& defects, const Array<double>& weights,
                         double fpr_limit, int threads) {
    check(defects.size() == weights.size(), "defects and weights differ in size");
    check(defects.size() <= std::numeric_limits<int32_t>::max(), "more than 2^31 - 1 defects");
    const auto outside = [&](int64_t place) { return place < 0 || place >= scores.size(); };
    check(std::none_of(defects.data(), defects.data() + defects.size(), outside), "a defect is not among the scores");
    moleflow::cpu::RankedFigures f;
    {
        py::gil_scoped_release release;
        f = moleflow::cpu::ranked_figures(scores.data(), scores.size(), defects.data(), weights.data(), defects.size(),
                                          fpr_limit, threads);
    }
    return py::make_tuple(f.auroc, f.average_precision, f.best_f1, f.best_f1_threshold, f.overlap_area);
}

py::tuple defective_pixels(const Array<uint8_t>& masks, int threads) {
    check(masks.ndim() == 3, "masks must be (images, height, width)");
    moleflow::cpu::DefectivePixels found;
    {
        py::gil_scoped_release release;
        found = moleflow::cpu::defective_pixels(masks.data(), masks.shape(0), static_cast<int>(masks.shape(1)),
                                                static_cast<int>(masks.shape(2)), threads);
    }
    const auto count = static_cast<py::ssize_t>(found.places.size());
    return py::make_tuple(py::array_t<int64_t>(count, found.places.data()),
                          py::array_t<double>(count, found.weights.data()));
}

template <typename T>
void gaussian_smooth(const Array<T>& maps, Array<T>& out, double sigma, int threads) {
    check(maps.ndim() == 3 && out.ndim() == 3, "maps must be (images, height, width)");
    for (int d = 0; d < 3; ++d) check(maps.shape(d) == out.shape(d), "maps and out differ in shape");
    check(sigma > 0, "sigma must be positive");
    const T* in = maps.data();
    T* result = out.mutable_data();
    const int64_t images = maps.shape(0);
    const auto height = static_cast<int>(maps.shape(1)), width = static_cast<int>(maps.shape(2));
    py::gil_scoped_release release;
    moleflow::cpu::gaussian_smooth(in, result, images, height, width, sigma, threads);
}

template <typename T>
void bind_for(py::module_& m) {
    m.def("ranked_figures", &ranked_figures<T>, py::arg("scores").noconvert(), py::arg("defects").noconvert(),
          py::arg("weights").noconvert(), py::arg("fpr_limit"), py::arg("threads"));
    m.def("gaussian_smooth", &gaussian_smooth<T>, py::arg("maps").noconvert(), py::arg("out").noconvert(),
          py::arg("sigma"), py::arg("threads"));
}

#ifdef MOLEFLOW_WITH_CUDA
void gaussian_smooth_cuda(uintptr_t in, uintptr_t out, uintptr_t scratch, int64_t images, int height, int width,
                          double sigma, uintptr_t stream) {
    const int error = moleflow::cuda::gaussian_smooth(
        reinterpret_cast<const float*>(in), reinterpret_cast<float*>(out), reinterpret_cast<float*>(scratch), images,
        height, width, sigma, reinterpret_cast<void*>(stream));
    if (error) throw std::runtime_error(std::string("CUDA: ") + moleflow::cuda::error_text(error));
}
#endif

}  // namespace

void moleflow::bind_metrics(py::module_& m) {
    bind_for<float>(m);
    bind_for<double>(m);
    m.def("defective_pixels", &defective_pixels, py::arg("masks").noconvert(), py::arg("threads"));
#ifdef MOLEFLOW_WITH_CUDA
    m.def("gaussian_smooth_cuda", &gaussian_smooth_cuda);
#endif
}
