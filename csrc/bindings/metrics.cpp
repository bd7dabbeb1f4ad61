#include <stdexcept>
#include <string>

#include "bindings/subjects.h"
#include "cpu/gaussian.h"
#include "cpu/ranking.h"
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
py::tuple ranking_metrics(const Array<T>& scores, const Array<uint8_t>& labels, int threads) {
    check(scores.size() == labels.size(), "scores and labels differ in size");
    moleflow::cpu::RankingMetrics m;
    {
        const T* s = scores.data();
        const uint8_t* l = labels.data();
        const int64_t n = scores.size();
        py::gil_scoped_release release;
        m = moleflow::cpu::ranking_metrics(s, l, n, threads);
    }
    return py::make_tuple(m.auroc, m.average_precision, m.best_f1, m.best_f1_threshold);
}

template <typename T>
double aupro(const Array<T>& maps, const Array<uint8_t>& masks, double fpr_limit, int threads) {
    check(maps.ndim() == 3 && masks.ndim() == 3, "maps and masks must be (images, height, width)");
    for (int d = 0; d < 3; ++d) check(maps.shape(d) == masks.shape(d), "maps and masks differ in shape");
    const T* values = maps.data();
    const uint8_t* truth = masks.data();
    const int64_t images = maps.shape(0);
    const auto height = static_cast<int>(maps.shape(1)), width = static_cast<int>(maps.shape(2));
    py::gil_scoped_release release;
    return moleflow::cpu::aupro(values, truth, images, height, width, fpr_limit, threads);
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
    m.def("ranking_metrics", &ranking_metrics<T>, py::arg("scores").noconvert(), py::arg("labels").noconvert(),
          py::arg("threads"));
    m.def("aupro", &aupro<T>, py::arg("maps").noconvert(), py::arg("masks").noconvert(), py::arg("fpr_limit"),
          py::arg("threads"));
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
#ifdef MOLEFLOW_WITH_CUDA
    m.def("gaussian_smooth_cuda", &gaussian_smooth_cuda);
#endif
}
