// Exact figures of a ranking: one radix sort, then one walk over the thresholds from the most anomalous score down.
#pragma once

#include <cstdint>

namespace moleflow::cpu {

struct RankedFigures {
    double auroc;
    double average_precision;
    double best_f1;
    double best_f1_threshold;
    double overlap_area;  // AUPRO, where weights are those of pixels of regions
};

// scores (n); NaN ranks as +inf. defects (count): places of the anomalous ones, each once; weights (count): what each
// adds to the overlap, 1 in all. The overlap's area is that under (false positive rate, overlap) up to fpr_limit,
// divided by it. All NaN where all scores, or none, are of defects.
template <typename T>
RankedFigures ranked_figures(const T* scores, int64_t n, const int64_t* defects, const double* weights, int64_t count,
                             double fpr_limit, int threads);

}  // namespace moleflow::cpu
