#include "cpu/ranking.h"

#include <limits>
#include <vector>

#include "cpu/radix_sort.h"
#include "cpu/regions.h"

namespace moleflow::cpu {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <typename T, typename Region>
std::vector<Ranked<T>> rank(const T* scores, const Region* regions, int64_t n, int threads) {
    std::vector<Ranked<T>> items(n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; ++i) items[i] = {descending_key(scores[i]), static_cast<int32_t>(regions[i])};
    radix_sort(items);
    return items;
}

template <typename T>
bool ends_tie(const std::vector<Ranked<T>>& items, size_t i) {
    return i + 1 == items.size() || items[i].key != items[i + 1].key;
}

}  // namespace

template <typename T>
RankingMetrics ranking_metrics(const T* scores, const uint8_t* labels, int64_t n, int threads) {
    int64_t positives = 0;
    for (int64_t i = 0; i < n; ++i) positives += labels[i];
    const int64_t negatives = n - positives;
    if (positives == 0 || negatives == 0) return {kNaN, kNaN, kNaN, kNaN};

    const auto items = rank(scores, labels, n, threads);
    unsigned __int128 twice_area = 0;  // exact in counts of pairs
    double precision_sum = 0, best_f1 = -1, threshold = 0;
    int64_t tp = 0, fp = 0, tp_before = 0, fp_before = 0;
    for (size_t i = 0; i < items.size(); ++i) {
        (items[i].region ? tp : fp) += 1;
        if (!ends_tie(items, i)) continue;
        twice_area += static_cast<unsigned __int128>(fp - fp_before) * static_cast<uint64_t>(tp + tp_before);
        precision_sum += static_cast<double>(tp - tp_before) * tp / static_cast<double>(tp + fp);
        const double f1 = 2.0 * tp / static_cast<double>(positives + tp + fp);
        if (f1 > best_f1) {
            best_f1 = f1;
            threshold = score_of<T>(items[i].key);
        }
        tp_before = tp;
        fp_before = fp;
    }
    const double pairs = 2.0 * static_cast<double>(positives) * static_cast<double>(negatives);
    return {static_cast<double>(twice_area) / pairs, precision_sum / positives, best_f1, threshold};
}

template <typename T>
double aupro(const T* maps, const uint8_t* masks, int64_t images, int height, int width, double fpr_limit, int threads) {
    const int64_t pixels = static_cast<int64_t>(height) * width;
    std::vector<int32_t> regions(images * pixels);
    std::vector<int32_t> counts(images);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < images; ++i) {
        counts[i] = label_regions(masks + i * pixels, regions.data() + i * pixels, height, width);
    }
    std::vector<int64_t> sizes{0};  // sizes[0]: normal pixels
    for (int64_t i = 0; i < images; ++i) {
        const auto offset = static_cast<int32_t>(sizes.size()) - 1;
        sizes.resize(sizes.size() + counts[i], 0);
        for (int64_t p = i * pixels; p < (i + 1) * pixels; ++p) {
            if (regions[p]) regions[p] += offset;
            ++sizes[regions[p]];
        }
    }
    const size_t region_count = sizes.size() - 1;
    if (region_count == 0 || sizes[0] == 0) return kNaN;

    const auto items = rank(maps, regions.data(), images * pixels, threads);
    const auto normal = static_cast<double>(sizes[0]);
    double area = 0, overlap = 0, overlap_before = 0, fpr_before = 0;
    int64_t fp = 0;
    for (size_t i = 0; i < items.size(); ++i) {
        const int32_t region = items[i].region;
        if (region) {
            overlap += 1.0 / (static_cast<double>(sizes[region]) * region_count);
        } else {
            ++fp;
        }
        if (!ends_tie(items, i)) continue;
        const double fpr = fp / normal;
        if (fpr >= fpr_limit) {
            const double share = fpr > fpr_before ? (fpr_limit - fpr_before) / (fpr - fpr_before) : 0;
            const double at_limit = overlap_before + share * (overlap - overlap_before);
            area += (fpr_limit - fpr_before) * (overlap_before + at_limit) / 2;
            break;
        }
        area += (fpr - fpr_before) * (overlap_before + overlap) / 2;
        overlap_before = overlap;
        fpr_before = fpr;
    }
    return area / fpr_limit;
}

template RankingMetrics ranking_metrics(const float*, const uint8_t*, int64_t, int);
template RankingMetrics ranking_metrics(const double*, const uint8_t*, int64_t, int);
template double aupro(const float*, const uint8_t*, int64_t, int, int, double, int);
template double aupro(const double*, const uint8_t*, int64_t, int, int, double, int);

}  // namespace moleflow::cpu
