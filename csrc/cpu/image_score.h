// From an anomaly map to one score per image.
#pragma once

#include <cstdint>

namespace moleflow::cpu {

// The numbers are those of moleflow_fast/ops/image_score.py.
enum class Aggregation : int { quantile = 0, top_mean = 1, mean = 2, spatial_cluster = 3 };

struct ScoreRule {
    Aggregation mode;
    double fraction;  // quantile; spatial_cluster: above this quantile a patch is high
    int64_t k;        // top_mean, spatial_cluster: 1..height*width
    double weight;    // spatial_cluster: share of the weighted map
};

// maps (images, height, width), not empty -> scores (images). NaN ranks as +inf, and a score that is NaN becomes it.
template <typename T>
void image_score(const T* maps, T* scores, int64_t images, int height, int width, const ScoreRule& rule, int threads);

}  // namespace moleflow::cpu
