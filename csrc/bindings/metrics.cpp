#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "bindings/subjects.h"
#include "cpu/ranking.h"
#include "cpu/regions.h"

namespace moleflow {
namespace {

using Figures = std::tuple<double, double, double, double, double>;

Figures ranked_figures(const Array& scores, const Array& defects, const Array& weights, double fpr_limit, int threads) {
    require_axes(scores, "scores", 1, "(n,)");
    require_axes(defects, "defects", 1, "(count,)");
    const int64_t n = scores.shape[0], count = defects.shape[0];
    const auto* places = packed<const int64_t>(defects, "defects", {count});
    const auto* shares = packed<const double>(weights, "weights", {count});
    require(count <= std::numeric_limits<int32_t>::max(), "defects", "must be fewer than 2^31");
    const auto outside = [&](int64_t place) { return place < 0 || place >= n; };
    require(std::none_of(places, places + count, outside), "defects", "must be among the scores");
    const cpu::RankedFigures f = by_dtype(scores, "scores", [&](auto zero) {
        using T = decltype(zero);
        const T* values = packed<const T>(scores, "scores", {n});
        const py::gil_scoped_release release;
        return cpu::ranked_figures(values, n, places, shares, count, fpr_limit, threads);
    });
    return {f.auroc, f.average_precision, f.best_f1, f.best_f1_threshold, f.overlap_area};
}

std::tuple<py::array_t<int64_t>, py::array_t<double>> defective_pixels(const Array& masks, int threads) {
    require_axes(masks, "masks", 3, "(images, height, width)");
    const auto* values = packed_like<const uint8_t>(masks, "masks", masks);
    cpu::DefectivePixels found;
    {
        const py::gil_scoped_release release;
        found = cpu::defective_pixels(values, masks.shape[0], static_cast<int>(masks.shape[1]),
                                      static_cast<int>(masks.shape[2]), threads);
    }
    const auto count = static_cast<py::ssize_t>(found.places.size());
    return {py::array_t<int64_t>(count, found.places.data()), py::array_t<double>(count, found.weights.data())};
}

using Box = std::tuple<int, int, int, int, int64_t, double>;  // left, top, right, bottom, area, peak

std::vector<Box> find_regions(const Array& values, const Array& mask) {
    require_axes(values, "values", 2, "(height, width)");
    const auto* inside = packed_like<const uint8_t>(mask, "mask", values);
    const auto found = by_dtype(values, "values", [&](auto zero) {
        using T = decltype(zero);
        const T* heights = packed_like<const T>(values, "values", values);
        const py::gil_scoped_release release;
        return cpu::find_regions(heights, inside, static_cast<int>(values.shape[0]),
                                 static_cast<int>(values.shape[1]));
    });
    std::vector<Box> boxes;
    for (const auto& r : found) boxes.emplace_back(r.left, r.top, r.right, r.bottom, r.area, r.peak);
    return boxes;
}

}  // namespace

void bind_metrics(py::module_& m) {
    using py::arg;
    m.def("ranked_figures", &ranked_figures, arg("scores"), arg("defects"), arg("weights"), arg("fpr_limit"),
          arg("threads"));
    m.def("defective_pixels", &defective_pixels, arg("masks"), arg("threads"));
    m.def("find_regions", &find_regions, arg("values"), arg("mask"));
}

}  // namespace moleflow
