#include "cpu/ranking.h"

#include <limits>

#include "cpu/radix_sort.h"

namespace moleflow::cpu {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

template <typename T>
Ranking<T> rank(const T* scores, int64_t n, const int64_t* defects, int64_t count, int threads) {
    Ranking<T> items(n);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; ++i) items[i] = {descending_key(scores[i]), 0};
    for (int64_t k = 0; k < count; ++k) items[defects[k]].defect = static_cast<int32_t>(k + 1);
    radix_sort(items, threads);
    return items;
}

// Trapezoids between thresholds, the last one cut off at the limit.
class AreaUpTo {
public:
    explicit AreaUpTo(double limit) : limit_(limit) {}

    void add(double fpr, double overlap) {
        if (reached_) return;
        if (fpr >= limit_) {
            const double share = fpr > fpr_ ? (limit_ - fpr_) / (fpr - fpr_) : 0;
            const double at_limit = overlap_ + share * (overlap - overlap_);
            area_ += (limit_ - fpr_) * (overlap_ + at_limit) / 2;
            reached_ = true;
            return;
        }
        area_ += (fpr - fpr_) * (overlap_ + overlap) / 2;
        overlap_ = overlap;
        fpr_ = fpr;
    }

    bool reached() const { return reached_; }
    double normalised() const { return area_ / limit_; }

private:
    double limit_, area_ = 0, fpr_ = 0, overlap_ = 0;
    bool reached_ = false;
};

}  // namespace

template <typename T>
RankedFigures ranked_figures(const T* scores, int64_t n, const int64_t* defects, const double* weights, int64_t count,
                             double fpr_limit, int threads) {
    const int64_t positives = count, negatives = n - count;
    if (positives == 0 || negatives == 0) return {kNaN, kNaN, kNaN, kNaN, kNaN};

    const auto items = rank(scores, n, defects, count, threads);
    const auto normal = static_cast<double>(negatives);
    unsigned __int128 twice_area = 0;  // exact in counts of pairs
    double precision_sum = 0, best_f1 = -1, threshold = 0, overlap = 0;
    int64_t tp = 0, fp = 0, tp_before = 0, fp_before = 0;
    AreaUpTo area(fpr_limit);
    for (int64_t i = 0; i < n; ++i) {
        if (items[i].defect) {
            ++tp;
            overlap += weights[items[i].defect - 1];
        } else {
            ++fp;
        }
        if (i + 1 < n && items[i].key == items[i + 1].key) continue;  // equal scores are one threshold
        twice_area += static_cast<unsigned __int128>(fp - fp_before) * static_cast<uint64_t>(tp + tp_before);
        if (!area.reached()) area.add(static_cast<double>(fp) / normal, overlap);
        fp_before = fp;
        if (tp == tp_before) continue;  // precision's step is 0, and F1 has only fallen
        precision_sum += static_cast<double>(tp - tp_before) * tp / static_cast<double>(tp + fp);
        const double f1 = 2.0 * tp / static_cast<double>(positives + tp + fp);
        if (f1 > best_f1) {
            best_f1 = f1;
            threshold = score_of<T>(items[i].key);
        }
        tp_before = tp;
    }
    const double pairs = 2.0 * static_cast<double>(positives) * normal;
    return {static_cast<double>(twice_area) / pairs, precision_sum / positives, best_f1, threshold, area.normalised()};
}

template RankedFigures ranked_figures(const float*, int64_t, const int64_t*, const double*, int64_t, double, int);
template RankedFigures ranked_figures(const double*, int64_t, const int64_t*, const double*, int64_t, double, int);

}  // namespace moleflow::cpu
