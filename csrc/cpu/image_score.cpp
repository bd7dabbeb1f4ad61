#include "cpu/image_score.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace moleflow::cpu {
namespace {

template <typename T>
T anomalous_if_nan(T score) {
    return std::isnan(score) ? std::numeric_limits<T>::infinity() : score;
}

// Reorders `values`. Rank and interpolation are rounded to T as torch.quantile rounds them: in fp32 the rank of 0.99
// among 784 values is 2e-5 off, which a wide gap between two order statistics shows.
template <typename T>
T quantile(std::vector<T>& values, double fraction) {
    const T rank = static_cast<T>(fraction) * static_cast<T>(values.size() - 1);
    const auto low = std::min(static_cast<size_t>(rank), values.size() - 1);
    const T share = rank - static_cast<T>(low);
    const auto at = values.begin() + static_cast<std::ptrdiff_t>(low);
    std::nth_element(values.begin(), at, values.end());
    const T below = *at;
    const T above = share > 0 && at + 1 != values.end() ? *std::min_element(at + 1, values.end()) : below;
    const T step = above - below;
    return anomalous_if_nan(share < T(0.5) ? below + share * step : above - step * (1 - share));
}

// Mean of the k largest; reorders `values`.
template <typename T>
double top_mean(std::vector<T>& values, int64_t k) {
    std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<T>());
    double sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += values[i];
    return sum / static_cast<double>(k);
}

template <typename T>
double mean(const std::vector<T>& values) {
    double sum = 0;
    for (const T value : values) sum += value;
    return sum / static_cast<double>(values.size());
}

// How many of the 8 patches around (y, x) are above the threshold.
template <typename T>
int high_neighbours(const T* map, int height, int width, int y, int x, T threshold) {
    int count = 0;
    for (int v = std::max(y - 1, 0); v <= std::min(y + 1, height - 1); ++v) {
        for (int u = std::max(x - 1, 0); u <= std::min(x + 1, width - 1); ++u) {
            count += (v != y || u != x) && map[v * width + u] > threshold;
        }
    }
    return count;
}

template <typename T>
struct Scratch {
    std::vector<T> map, sorted;
};

template <typename T>
double spatial_cluster(int height, int width, const ScoreRule& rule, Scratch<T>& scratch) {
    const T* map = scratch.map.data();
    scratch.sorted = scratch.map;
    const T threshold = quantile(scratch.sorted, rule.fraction);
    const double raw = top_mean(scratch.sorted, rule.k);
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const T value = map[y * width + x];
            scratch.sorted[y * width + x] =
                value > threshold ? value * (1 + T(high_neighbours(map, height, width, y, x, threshold)) / 8) : value;
        }
    }
    return rule.weight * top_mean(scratch.sorted, rule.k) + (1 - rule.weight) * raw;
}

template <typename T>
double score_image(int height, int width, const ScoreRule& rule, Scratch<T>& scratch) {
    switch (rule.mode) {
        case Aggregation::quantile:
            return quantile(scratch.map, rule.fraction);
        case Aggregation::top_mean:
            return top_mean(scratch.map, rule.k);
        case Aggregation::mean:
            return mean(scratch.map);
        default:
            return spatial_cluster(height, width, rule, scratch);
    }
}

}  // namespace

template <typename T>
void image_score(const T* maps, T* scores, int64_t images, int height, int width, const ScoreRule& rule, int threads) {
    const int64_t patches = static_cast<int64_t>(height) * width;
#pragma omp parallel num_threads(threads)
    {
        Scratch<T> scratch;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < images; ++i) {
            scratch.map.resize(patches);
            std::transform(maps + i * patches, maps + (i + 1) * patches, scratch.map.begin(), anomalous_if_nan<T>);
            scores[i] = anomalous_if_nan(static_cast<T>(score_image(height, width, rule, scratch)));
        }
    }
}

template void image_score(const float*, float*, int64_t, int, int, const ScoreRule&, int);
template void image_score(const double*, double*, int64_t, int, int, const ScoreRule&, int);

}  // namespace moleflow::cpu
