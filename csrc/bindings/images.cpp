#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/subjects.h"
#include "cpu/gaussian.h"
#include "cpu/image_score.h"
#include "cpu/patch_pool.h"
#include "cpu/pixel_map.h"

namespace moleflow {
namespace {

// (batch, channels, height, width) with channels innermost, where sizes of 1 may lie anyhow.
bool is_channels_last(const Array& map) {
    int64_t step = 1;
    for (const int axis : {1, 3, 2, 0}) {
        if (map.shape[axis] > 1 && map.strides[axis] != step) return false;
        step *= map.shape[axis];
    }
    return true;
}

template <typename T>
cpu::FeatureMap<T> feature_map(const Array& map, int64_t batch) {
    require_axes(map, "maps", 4, "(batch, channels, height, width)");
    require(map.shape[0] == batch, "maps", "must be of as many images as out");
    require_dtype(map, "maps", dtype_of<T>(), false);
    const bool channels_last = is_channels_last(map);
    if (!channels_last) require_contiguous(map, "maps");
    return {reinterpret_cast<const T*>(map.data), static_cast<int>(map.shape[1]), static_cast<int>(map.shape[2]),
            static_cast<int>(map.shape[3]), channels_last};
}

void patch_pool(const std::vector<Array>& maps, const Array& out, int threads) {
    require(!maps.empty(), "maps", "must be at least one");
    require_axes(out, "out", 4, "(batch, height, width, dim)");
    const cpu::PatchGrid grid{out.shape[0], static_cast<int>(out.shape[1]), static_cast<int>(out.shape[2]),
                              static_cast<int>(out.shape[3])};
    by_dtype(out, "out", [&](auto zero) {
        using T = decltype(zero);
        std::vector<cpu::FeatureMap<T>> layers;
        for (const Array& map : maps) layers.push_back(feature_map<T>(map, grid.batch));
        T* features = packed_like<T>(out, "out", out);
        const py::gil_scoped_release release;
        cpu::patch_pool(layers, features, grid, threads);
    });
}

void image_score(const Array& maps, const Array& scores, int mode, double fraction, int64_t k, double weight,
                 int threads) {
    require_axes(maps, "maps", 3, "(images, height, width)");
    const auto height = static_cast<int>(maps.shape[1]), width = static_cast<int>(maps.shape[2]);
    require(height > 0 && width > 0, "maps", "must have at least one patch");
    require(mode >= 0 && mode <= static_cast<int>(cpu::Aggregation::spatial_cluster), "mode", "is not known");
    require(fraction >= 0 && fraction <= 1, "fraction", "must be in [0, 1]");
    require(k >= 1 && k <= maps.shape[1] * maps.shape[2], "k", "must be from 1 to the number of patches");
    const cpu::ScoreRule rule{static_cast<cpu::Aggregation>(mode), fraction, k, weight};
    by_dtype(maps, "maps", [&](auto zero) {
        using T = decltype(zero);
        const T* values = packed_like<const T>(maps, "maps", maps);
        T* out = packed<T>(scores, "scores", {maps.shape[0]});
        const py::gil_scoped_release release;
        cpu::image_score(values, out, maps.shape[0], height, width, rule, threads);
    });
}

void pixel_map(const Array& maps, const Array& rows, const Array& columns, const Array& out, int threads) {
    require_axes(maps, "maps", 3, "(images, height, width)");
    require_axes(columns, "columns", 2, "(width, size)");
    const int64_t images = maps.shape[0], height = maps.shape[1], width = maps.shape[2], size = columns.shape[1];
    const cpu::PixelMapShape shape{images, static_cast<int>(height), static_cast<int>(width), static_cast<int>(size)};
    by_dtype(maps, "maps", [&](auto zero) {
        using T = decltype(zero);
        const T *values = packed_like<const T>(maps, "maps", maps), *down = packed<const T>(rows, "rows", {size, height}),
                *across = packed<const T>(columns, "columns", {width, size});
        T* pixels = packed<T>(out, "out", {images, size, size});
        const py::gil_scoped_release release;
        cpu::pixel_map(values, down, across, pixels, shape, threads);
    });
}

void gaussian_smooth(const Array& maps, const Array& out, double sigma, int threads) {
    require_axes(maps, "maps", 3, "(images, height, width)");
    require(sigma > 0, "sigma", "must be positive");
    by_dtype(maps, "maps", [&](auto zero) {
        using T = decltype(zero);
        const T* in = packed_like<const T>(maps, "maps", maps);
        T* smooth = packed_like<T>(out, "out", maps);
        const py::gil_scoped_release release;
        cpu::gaussian_smooth(in, smooth, maps.shape[0], static_cast<int>(maps.shape[1]),
                             static_cast<int>(maps.shape[2]), sigma, threads);
    });
}

}  // namespace

void bind_images(py::module_& m) {
    using py::arg;
    m.def("patch_pool", &patch_pool, arg("maps"), arg("out"), arg("threads"));
    m.def("image_score", &image_score, arg("maps"), arg("scores"), arg("mode"), arg("fraction"), arg("k"),
          arg("weight"), arg("threads"));
    m.def("pixel_map", &pixel_map, arg("maps"), arg("rows"), arg("columns"), arg("out"), arg("threads"));
    m.def("gaussian_smooth", &gaussian_smooth, arg("maps"), arg("out"), arg("sigma"), arg("threads"));
}

}  // namespace moleflow
