// Exact ranking metrics: one radix sort, then one walk over the thresholds from the most anomalous score down.
#pragma once

#include <cstdint>

namespace moleflow::cpu {

struct RankingMetrics {
    double auroc;
    double average_precision;
    double best_f1;
    double best_f1_threshold;
};

// scores (n), labels (n) 0 or 1; NaN ranks as +inf. All NaN where one of the two classes is missing.
template <typename T>
RankingMetrics ranking_metrics(const T* scores, const uint8_t* labels, int64_t n, int threads);

// maps, masks (images, height, width). Regions are 8-connected; the area under (false positive rate, mean overlap of
// regions) up to fpr_limit, divided by it. NaN without a region or without a normal pixel.
template <typename T>
double aupro(const T* maps, const uint8_t* masks, int64_t images, int height, int width, double fpr_limit, int threads);

}  // namespace moleflow::cpu
