#include "cpu/coupling.h"

#include "cpu/vector_clones.h"

namespace moleflow::cpu {
namespace {

template <typename T>
MOLEFLOW_INLINE T biased(const T* row, const T* bias, int64_t j) {
    return bias ? row[j] + bias[j] : row[j];
}

// y2 and the log-scales of one token.
template <typename T>
MOLEFLOW_INLINE void forward_row(const T* s, const T* t, const T* s_bias, const T* t_bias, const T* x2, T* y2,
                                 T* log_scales, int64_t width, const Clamping<T>& c) {
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j) log_scales[j] = log_scale(biased(s, s_bias, j), c);
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j) {
        y2[j] = x2[j] * exponential(log_scales[j]) + c.t_factor * biased(t, t_bias, j);
    }
}

// dy2 -> dx2 in place, ds and dt of one token, and their running column sums.
template <typename T>
MOLEFLOW_INLINE void backward_row(const T* s, const T* s_bias, const T* x2, T* dy2, T dlogdet, T* ds, T* dt, T* ds_sum,
                                  T* dt_sum, int64_t width, const Clamping<T>& c) {
#pragma GCC ivdep
    for (int64_t j = 0; j < width; ++j) {
        const T size = log_scale(biased(s, s_bias, j), c);
        const T scaled = dy2[j] * exponential(size);
        const T shift = c.t_factor * dy2[j];
        const T scale = (scaled * x2[j] + dlogdet) * log_scale_slope(size, c);
        ds[j] = scale;
        ds_sum[j] += scale;
        dt[j] = shift;
        dt_sum[j] += shift;
        dy2[j] = scaled;
    }
}

template <typename T>
struct ForwardTask {
    ScaleAndShift<T> net;
    Rows<const T> x2;
    Rows<T> y2;
    T* logdet;
    int64_t width;
    Clamping<T> clamping;
};

template <typename T>
MOLEFLOW_INLINE void forward_rows(const ForwardTask<T>& a, int64_t begin, int64_t end, T* scratch) {
    for (int64_t n = begin; n < end; ++n) {
        forward_row(a.net.s[n], a.net.t[n], a.net.s_bias, a.net.t_bias, a.x2[n], a.y2[n], scratch, a.width, a.clamping);
        a.logdet[n] += lane_sum(scratch, a.width);
    }
}

template <typename T>
struct BaseForwardTask {
    ScaleAndShift<T> net;
    Rows<const T> x;
    Rows<T> y;
    T* logdet;
    GlobalAffine<T> affine;
    int64_t out_gap;
    Clamping<T> clamping;
};

template <typename T>
MOLEFLOW_INLINE void base_forward_rows(const BaseForwardTask<T>& a, int64_t begin, int64_t end, T* scratch) {
    const GlobalAffine<T>& g = a.affine;
    const int64_t width = g.channels - g.split;
    T *mapped = scratch, *log_scales = scratch + g.channels;
    for (int64_t n = begin; n < end; ++n) {
        const T* x = a.x[n];
        forward_row(a.net.s[n], a.net.t[n], a.net.s_bias, a.net.t_bias, x + g.split + g.gap, mapped + g.split,
                    log_scales, width, a.clamping);
        a.logdet[n] += lane_sum(log_scales, width);
#pragma GCC ivdep
        for (int64_t j = 0; j < g.split; ++j) mapped[j] = x[j];
#pragma GCC ivdep
        for (int64_t j = 0; j < g.channels; ++j) mapped[j] = mapped[j] * g.scale[j] + g.offset[j];
        T* y = a.y[n];
#pragma GCC ivdep
        for (int64_t i = 0; i < g.split; ++i) y[i] = mapped[g.source[i]];
#pragma GCC ivdep
        for (int64_t i = g.split; i < g.channels; ++i) y[i + a.out_gap] = mapped[g.source[i]];
    }
}

template <typename T>
struct BackwardTask {
    ScaleAndShift<T> net;
    Rows<const T> x2;
    Rows<T> dy;
    const T* dlogdet;
    Rows<T> ds, dt;
    int64_t width;
    Clamping<T> clamping;
    GlobalAffine<T> affine;  // for the base flow alone
};

template <typename T>
MOLEFLOW_INLINE void backward_rows(const BackwardTask<T>& a, int64_t begin, int64_t end, ColumnSums<T>& ds_sum,
                                   ColumnSums<T>& dt_sum) {
    for (int64_t n = begin; n < end; ++n) {
        backward_row(a.net.s[n], a.net.s_bias, a.x2[n], a.dy[n], a.dlogdet[n], a.ds[n], a.dt[n], ds_sum.next_row(),
                     dt_sum.next_row(), a.width, a.clamping);
    }
}

template <typename T>
MOLEFLOW_INLINE void base_backward_rows(const BackwardTask<T>& a, int64_t begin, int64_t end, ColumnSums<T>& ds_sum,
                                        ColumnSums<T>& dt_sum, T* before) {
    const GlobalAffine<T>& g = a.affine;
    for (int64_t n = begin; n < end; ++n) {
        T* dy = a.dy[n];
#pragma GCC ivdep
        for (int64_t i = 0; i < g.channels; ++i) before[g.source[i]] = dy[i];
#pragma GCC ivdep
        for (int64_t j = 0; j < g.channels; ++j) dy[j] = before[j] * g.scale[j];
        backward_row(a.net.s[n], a.net.s_bias, a.x2[n], dy + g.split, a.dlogdet[n], a.ds[n], a.dt[n],
                     ds_sum.next_row(), dt_sum.next_row(), a.width, a.clamping);
    }
}

// Vector clones cannot be templates: one overload per type.
#define MOLEFLOW_CLONES_OF(T)                                                                                     \
    MOLEFLOW_VECTOR_CLONES void run(const ForwardTask<T>& a, int64_t begin, int64_t end, T* scratch) {            \
        forward_rows(a, begin, end, scratch);                                                                     \
    }                                                                                                             \
    MOLEFLOW_VECTOR_CLONES void run(const BaseForwardTask<T>& a, int64_t begin, int64_t end, T* scratch) {        \
        base_forward_rows(a, begin, end, scratch);                                                                \
    }                                                                                                             \
    MOLEFLOW_VECTOR_CLONES void run(const BackwardTask<T>& a, int64_t begin, int64_t end, ColumnSums<T>& s_sum,   \
                                    ColumnSums<T>& t_sum) {                                                       \
        backward_rows(a, begin, end, s_sum, t_sum);                                                               \
    }                                                                                                             \
    MOLEFLOW_VECTOR_CLONES void run_base(const BackwardTask<T>& a, int64_t begin, int64_t end,                    \
                                         ColumnSums<T>& s_sum, ColumnSums<T>& t_sum, T* scratch) {                \
        base_backward_rows(a, begin, end, s_sum, t_sum, scratch);                                                 \
    }
MOLEFLOW_CLONES_OF(float)
MOLEFLOW_CLONES_OF(double)

template <typename T, typename Run>
void backward_shared(const BackwardTask<T>& task, T* ds_sum, T* dt_sum, int64_t n, int threads, Run run_part) {
    std::vector<ColumnSums<T>> s_sums(threads, ColumnSums<T>(task.width)), t_sums = s_sums;
    share(n, threads, [&](int64_t begin, int64_t end, int k) { run_part(begin, end, s_sums[k], t_sums[k]); });
    for (int k = 0; k < threads; ++k) {
        s_sums[k].add_to(ds_sum);
        t_sums[k].add_to(dt_sum);
    }
}

}  // namespace

template <typename T>
void coupling_forward(const ScaleAndShift<T>& net, Rows<const T> x2, Rows<T> y2, T* logdet, int64_t n, int64_t width,
                      Clamping<T> clamping, int threads) {
    const ForwardTask<T> task{net, x2, y2, logdet, width, clamping};
    share(n, threads, [&](int64_t begin, int64_t end, int) {
        std::vector<T> scratch(width);
        run(task, begin, end, scratch.data());
    });
}

template <typename T>
void base_coupling_forward(const ScaleAndShift<T>& net, Rows<const T> x, Rows<T> y, T* logdet, int64_t n,
                           const GlobalAffine<T>& affine, int64_t out_gap, Clamping<T> clamping, int threads) {
    const BaseForwardTask<T> task{net, x, y, logdet, affine, out_gap, clamping};
    share(n, threads, [&](int64_t begin, int64_t end, int) {
        std::vector<T> scratch(2 * affine.channels);
        run(task, begin, end, scratch.data());
    });
}

template <typename T>
void coupling_backward(const ScaleAndShift<T>& net, Rows<const T> x2, Rows<T> dy2, const T* dlogdet, Rows<T> ds,
                       Rows<T> dt, T* ds_sum, T* dt_sum, int64_t n, int64_t width, Clamping<T> clamping, int threads) {
    const BackwardTask<T> task{net, x2, dy2, dlogdet, ds, dt, width, clamping, {}};
    backward_shared(task, ds_sum, dt_sum, n, threads,
                    [&](int64_t begin, int64_t end, ColumnSums<T>& s, ColumnSums<T>& t) { run(task, begin, end, s, t); });
}

template <typename T>
void base_coupling_backward(const ScaleAndShift<T>& net, Rows<const T> x2, Rows<T> dy, const T* dlogdet, Rows<T> ds,
                            Rows<T> dt, T* ds_sum, T* dt_sum, int64_t n, const GlobalAffine<T>& affine,
                            Clamping<T> clamping, int threads) {
    const BackwardTask<T> task{net, x2, dy, dlogdet, ds, dt, affine.channels - affine.split, clamping, affine};
    backward_shared(task, ds_sum, dt_sum, n, threads,
                    [&](int64_t begin, int64_t end, ColumnSums<T>& s, ColumnSums<T>& t) {
                        std::vector<T> scratch(affine.channels);
                        run_base(task, begin, end, s, t, scratch.data());
                    });
}

#define MOLEFLOW_INSTANTIATE(T)                                                                                       \
    template void coupling_forward(const ScaleAndShift<T>&, Rows<const T>, Rows<T>, T*, int64_t, int64_t,             \
                                   Clamping<T>, int);                                                                 \
    template void base_coupling_forward(const ScaleAndShift<T>&, Rows<const T>, Rows<T>, T*, int64_t,                 \
                                        const GlobalAffine<T>&, int64_t, Clamping<T>, int);                           \
    template void coupling_backward(const ScaleAndShift<T>&, Rows<const T>, Rows<T>, const T*, Rows<T>, Rows<T>, T*,  \
                                    T*, int64_t, int64_t, Clamping<T>, int);                                          \
    template void base_coupling_backward(const ScaleAndShift<T>&, Rows<const T>, Rows<T>, const T*, Rows<T>, Rows<T>, \
                                         T*, T*, int64_t, const GlobalAffine<T>&, Clamping<T>, int);
MOLEFLOW_INSTANTIATE(float)
MOLEFLOW_INSTANTIATE(double)

}  // namespace moleflow::cpu
