#include "cpu/adamp.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/reductions.h"
#include "cpu/vector_clones.h"

namespace moleflow::cpu {
namespace {

constexpr int64_t kUnitElements = 16384;  // four fp32 arrays of it fit in the second-level cache

// What a row's elements need: perturb = (m_part m + g_part g) / (sqrt(v) v_scale + eps).
template <typename T>
struct Coefficients {
    T beta1, rest1, beta2, rest2, m_part, g_part, v_scale, eps, g_scale;
};

struct RowSums {
    double gg, gp, pp, pu;  // of gradient g, parameter p and perturbation u
};

enum class Projection { none, channels, layer };

// Consecutive rows of one tensor; `sums` counts rows over all tensors.
struct Unit {
    int64_t tensor, first, rows, sums;
};

template <typename T>
struct Row {
    T *p, *m, *v;
    const T* g;
    int64_t n;
};

// Perturbation before the projection, from moments that have taken in the (scaled) gradient.
template <typename T>
MOLEFLOW_INLINE T perturbation(T m, T v, T g, const Coefficients<T>& c) {
    return (c.m_part * m + c.g_part * g) / (std::sqrt(v) * c.v_scale + c.eps);
}

template <typename T>
MOLEFLOW_INLINE T advance_element(T& m, T& v, T g, const Coefficients<T>& c) {
    m = c.beta1 * m + c.rest1 * g;
    v = c.beta2 * v + c.rest2 * g * g;
    return perturbation(m, v, g, c);
}

template <typename T>
MOLEFLOW_INLINE RowSums products(const Row<T>& row) {
    double gg = 0, gp = 0, pp = 0;
#pragma omp simd reduction(+ : gg, gp, pp)
    for (int64_t i = 0; i < row.n; ++i) {
        const double g = row.g[i], p = row.p[i];
        gg += g * g;
        gp += g * p;
        pp += p * p;
    }
    return {gg, gp, pp, 0};
}

// Moments of a row; returns the product of parameter and perturbation.
template <typename T>
MOLEFLOW_INLINE double moments(const Row<T>& row, const Coefficients<T>& c) {
    double pu = 0;
#pragma omp simd reduction(+ : pu)
    for (int64_t i = 0; i < row.n; ++i) {
        pu += static_cast<double>(row.p[i]) * advance_element(row.m[i], row.v[i], c.g_scale * row.g[i], c);
    }
    return pu;
}

// p <- keep p - step (u - along p), with the perturbation u of moments already up to date.
template <typename T>
MOLEFLOW_INLINE void move(const Row<T>& row, const Coefficients<T>& c, T keep, T step, T along) {
#pragma omp simd
    for (int64_t i = 0; i < row.n; ++i) {
        const T u = perturbation(row.m[i], row.v[i], c.g_scale * row.g[i], c);
        row.p[i] = keep * row.p[i] - step * (u - along * row.p[i]);
    }
}

// Moments and parameters of a row that is not projected.
template <typename T>
MOLEFLOW_INLINE void moments_and_move(const Row<T>& row, const Coefficients<T>& c, T keep, T step) {
#pragma omp simd
    for (int64_t i = 0; i < row.n; ++i) {
        const T u = advance_element(row.m[i], row.v[i], c.g_scale * row.g[i], c);
        row.p[i] = keep * row.p[i] - step * u;
    }
}

// target_clones takes no templates, so each type is spelled out.
#define MOLEFLOW_ROW_CLONES(T)                                                                                      \
    MOLEFLOW_VECTOR_CLONES RowSums row_products(const Row<T>& row) { return products(row); }                        \
    MOLEFLOW_VECTOR_CLONES double row_moments(const Row<T>& row, const Coefficients<T>& c) {                        \
        return moments(row, c);                                                                                     \
    }                                                                                                               \
    MOLEFLOW_VECTOR_CLONES void move_row(const Row<T>& row, const Coefficients<T>& c, T keep, T step, T along) {    \
        move(row, c, keep, step, along);                                                                            \
    }                                                                                                               \
    MOLEFLOW_VECTOR_CLONES void step_row(const Row<T>& row, const Coefficients<T>& c, T keep, T step) {             \
        moments_and_move(row, c, keep, step);                                                                       \
    }
MOLEFLOW_ROW_CLONES(float)
MOLEFLOW_ROW_CLONES(double)
#undef MOLEFLOW_ROW_CLONES

// |cos| of gradient and parameter, each norm at least eps as in torch's cosine_similarity, below delta / sqrt(width).
bool nearly_orthogonal(const RowSums& s, double g_scale, const AdamPGroup& group, int64_t width) {
    const double g_norm = std::max(std::sqrt(s.gg) * g_scale, group.eps);
    const double p_norm = std::max(std::sqrt(s.pp), group.eps);
    return std::abs(s.gp * g_scale / (g_norm * p_norm)) < group.delta / std::sqrt(static_cast<double>(width));
}

RowSums total(const RowSums* rows, int64_t count) {
    RowSums sum{0, 0, 0, 0};
    for (int64_t r = 0; r < count; ++r) {
        sum.gg += rows[r].gg;
        sum.gp += rows[r].gp;
        sum.pp += rows[r].pp;
        sum.pu += rows[r].pu;
    }
    return sum;
}

Projection projection_of(const AdamPTensor& t, const RowSums* rows, double g_scale, const AdamPGroup& group) {
    if (!t.projects || t.rows * t.columns == 0) return Projection::none;
    const bool channels = std::all_of(rows, rows + t.rows, [&](const RowSums& s) {
        return nearly_orthogonal(s, g_scale, group, t.columns);
    });
    if (channels) return Projection::channels;
    const bool layer = nearly_orthogonal(total(rows, t.rows), g_scale, group, t.rows * t.columns);
    return layer ? Projection::layer : Projection::none;
}

// One optimizer step: the phases run one after the other, each over all units in parallel.
template <typename T>
class Step {
  public:
    Step(const AdamPTensor* tensors, int64_t count, const AdamPGroup* groups) : tensors_(tensors), groups_(groups) {
        int64_t sums = 0;
        for (int64_t t = 0; t < count; ++t) {
            first_sums_.push_back(sums);
            const int64_t rows = tensors[t].columns ? tensors[t].rows : 0;
            const int64_t together = std::max<int64_t>(1, kUnitElements / std::max<int64_t>(1, tensors[t].columns));
            for (int64_t r = 0; r < rows; r += together) {
                units_.push_back({t, r, std::min(together, rows - r), sums + r});
            }
            sums += rows;
        }
        sums_.resize(sums);
    }

    double run(double max_norm, int threads) {
        for_each_unit(threads, [this](const Unit& unit) { measure(unit); });
        const double norm = std::sqrt(total(sums_.data(), static_cast<int64_t>(sums_.size())).gg);
        if (max_norm >= 0) {
            if (!std::isfinite(norm)) return norm;
            g_scale_ = std::min(1.0, max_norm / (norm + 1e-6));
        }
        bool layers = false;
        for (size_t t = 0; t < first_sums_.size(); ++t) {
            const AdamPTensor& tensor = tensors_[t];
            const RowSums* rows = sums_.data() + first_sums_[t];
            projections_.push_back(projection_of(tensor, rows, g_scale_, groups_[tensor.group]));
            layers |= projections_.back() == Projection::layer;
        }
        for_each_unit(threads, [this](const Unit& unit) { advance(unit); });
        if (!layers) return norm;
        for (size_t t = 0; t < first_sums_.size(); ++t) {
            const bool whole = projections_[t] == Projection::layer;
            layer_sums_.push_back(whole ? total(sums_.data() + first_sums_[t], tensors_[t].rows) : RowSums{});
        }
        for_each_unit(threads, [this](const Unit& unit) { finish_layer(unit); });
        return norm;
    }

  private:
    template <typename Work>
    void for_each_unit(int threads, Work work) {
        const auto count = static_cast<int64_t>(units_.size());
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (int64_t i = 0; i < count; ++i) work(units_[i]);
    }

    template <typename Work>
    void for_each_row(const Unit& unit, Work work) {
        const AdamPTensor& t = tensors_[unit.tensor];
        for (int64_t r = 0; r < unit.rows; ++r) {
            const int64_t at = (unit.first + r) * t.columns;
            const Row<T> row{static_cast<T*>(t.parameter) + at, static_cast<T*>(t.exp_avg) + at,
                             static_cast<T*>(t.exp_avg_sq) + at, static_cast<const T*>(t.gradient) + at, t.columns};
            work(row, sums_[unit.sums + r]);
        }
    }

    void measure(const Unit& unit) {
        const bool projects = tensors_[unit.tensor].projects;
        for_each_row(unit, [projects](const Row<T>& row, RowSums& sums) {
            sums = projects ? row_products(row) : RowSums{sum_squares(row.g, row.n), 0, 0, 0};
        });
    }

    void advance(const Unit& unit) {
        const Projection projection = projections_[unit.tensor];
        const Coefficients<T> c = coefficients(unit);
        const T keep = keep_of(unit), step = step_size(unit);
        for_each_row(unit, [&](const Row<T>& row, RowSums& sums) {
            if (projection == Projection::none) {
                step_row(row, c, keep, step);
                return;
            }
            sums.pu = row_moments(row, c);
            if (projection == Projection::channels) move_row(row, c, keep, step, along(unit, sums));
        });
    }

    void finish_layer(const Unit& unit) {
        if (projections_[unit.tensor] != Projection::layer) return;
        const Coefficients<T> c = coefficients(unit);
        const T keep = keep_of(unit), step = step_size(unit), part = along(unit, layer_sums_[unit.tensor]);
        for_each_row(unit, [&](const Row<T>& row, RowSums&) { move_row(row, c, keep, step, part); });
    }

    Coefficients<T> coefficients(const Unit& unit) const {
        const AdamPGroup& g = group(unit);
        const double bias2 = 1 - std::pow(g.beta2, static_cast<double>(tensors_[unit.tensor].step));
        Coefficients<T> c;
        c.beta1 = static_cast<T>(g.beta1);
        c.rest1 = static_cast<T>(1 - g.beta1);
        c.beta2 = static_cast<T>(g.beta2);
        c.rest2 = static_cast<T>(1 - g.beta2);
        c.m_part = static_cast<T>(g.nesterov != 0 ? g.beta1 : 1);
        c.g_part = static_cast<T>(g.nesterov != 0 ? 1 - g.beta1 : 0);
        c.v_scale = static_cast<T>(1 / std::sqrt(bias2));
        c.eps = static_cast<T>(g.eps);
        c.g_scale = static_cast<T>(g_scale_);
        return c;
    }

    // What weight decay leaves of a parameter.
    T keep_of(const Unit& unit) const {
        const AdamPGroup& g = group(unit);
        if (!(g.weight_decay > 0)) return 1;
        const double ratio = projections_[unit.tensor] == Projection::none ? 1 : g.wd_ratio;
        return static_cast<T>(1 - g.lr * g.weight_decay * ratio);
    }

    T step_size(const Unit& unit) const {
        const AdamPGroup& g = group(unit);
        return static_cast<T>(g.lr / (1 - std::pow(g.beta1, static_cast<double>(tensors_[unit.tensor].step))));
    }

    // The perturbation's component along the parameter, in units of the parameter.
    T along(const Unit& unit, const RowSums& sums) const {
        const double norm = std::sqrt(sums.pp) + group(unit).eps;
        return static_cast<T>(sums.pu / (norm * norm));
    }

    const AdamPGroup& group(const Unit& unit) const { return groups_[tensors_[unit.tensor].group]; }

    const AdamPTensor* tensors_;
    const AdamPGroup* groups_;
    double g_scale_ = 1;
    std::vector<Unit> units_;
    std::vector<int64_t> first_sums_;      // per tensor: index of its first row
    std::vector<RowSums> sums_;            // per row
    std::vector<Projection> projections_;  // per tensor
    std::vector<RowSums> layer_sums_;      // per tensor, where the whole layer is projected
};

}  // namespace

template <typename T>
double adamp(const AdamPTensor* tensors, int64_t count, const AdamPGroup* groups, double max_norm, int threads) {
    return Step<T>(tensors, count, groups).run(max_norm, threads);
}

template double adamp<float>(const AdamPTensor*, int64_t, const AdamPGroup*, double, int);
template double adamp<double>(const AdamPTensor*, int64_t, const AdamPGroup*, double, int);

}  // namespace moleflow::cpu
