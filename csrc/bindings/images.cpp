#include <pybind11/stl.h>

#include "bindings/subjects.h"
#include "cpu/image_score.h"
#include "cpu/patch_pool.h"
#include "cpu/pixel_map.h"

namespace {

using moleflow::at;

// Per map: address, channels, height, width, whether it is channels-last.
using MapAddresses = std::vector<std::tuple<uintptr_t, int, int, int, bool>>;

template <typename T>
void patch_pool(const MapAddresses& maps, uintptr_t positions, uintptr_t out, int64_t batch, int height, int width,
                int dim, int threads) {
    std::vector<moleflow::cpu::FeatureMap<T>> layers;
    for (const auto& [values, c, h, w, channels_last] : maps) {
        layers.push_back({at<const T>(values), c, h, w, channels_last});
    }
    moleflow::cpu::patch_pool(layers, at<const T>(positions), at<T>(out), {batch, height, width, dim}, threads);
}

template <typename T>
void image_score(uintptr_t maps, uintptr_t scores, int64_t images, int height, int width, int mode, double fraction,
                 int64_t k, double weight, int threads) {
    const moleflow::cpu::ScoreRule rule{static_cast<moleflow::cpu::Aggregation>(mode), fraction, k, weight};
    moleflow::cpu::image_score(at<const T>(maps), at<T>(scores), images, height, width, rule, threads);
}

template <typename T>
void pixel_map(uintptr_t maps, uintptr_t rows, uintptr_t columns, uintptr_t out, int64_t images, int height, int width,
               int size, int threads) {
    moleflow::cpu::pixel_map(at<const T>(maps), at<const T>(rows), at<const T>(columns), at<T>(out),
                             {images, height, width, size}, threads);
}

}  // namespace

void moleflow::bind_images(py::module_& m) {
    MOLEFLOW_BIND_FLOATS(m, "patch_pool", patch_pool);
    MOLEFLOW_BIND_FLOATS(m, "image_score", image_score);
    MOLEFLOW_BIND_FLOATS(m, "pixel_map", pixel_map);
}
