#include "cpu/depthwise.h"

namespace moleflow::cpu {
namespace {

constexpr int64_t kBlock = 64;  // channels kept in registers while the taps pass by

template <typename T>
struct Neighbourhood {
    Grid grid;
    int64_t channels;
    int kernel;

    // Calls visit(tap, neighbour's row) for the taps that fall inside the image.
    template <typename Visit>
    MOLEFLOW_INLINE void at(int64_t row, Visit visit) const {
        const int64_t column = row % grid.width, line = row / grid.width % grid.height;
        const int radius = kernel / 2;
        for (int dy = -radius; dy <= radius; ++dy) {
            if (line + dy < 0 || line + dy >= grid.height) continue;
            for (int dx = -radius; dx <= radius; ++dx) {
                if (column + dx < 0 || column + dx >= grid.width) continue;
                visit((dy + radius) * kernel + dx + radius, row + dy * grid.width + dx);
            }
        }
    }
};

template <typename T>
struct ForwardTask {
    Neighbourhood<T> around;
    Rows<const T> x;
    const T *taps, *bias;
    Rows<T> y;
    bool accumulate;
};

template <typename T>
MOLEFLOW_INLINE void forward_block(const ForwardTask<T>& a, int64_t row, int64_t from, int64_t count) {
    const int64_t channels = a.around.channels;
    T* y = a.y[row] + from;
    T sum[kBlock];
    for (int64_t j = 0; j < count; ++j) sum[j] = a.bias ? a.bias[from + j] : T(0);
    a.around.at(row, [&](int tap, int64_t neighbour) __attribute__((always_inline)) {
        const T* weight = a.taps + tap * channels + from;
        const T* x = a.x[neighbour] + from;
#pragma GCC ivdep
        for (int64_t j = 0; j < count; ++j) sum[j] += weight[j] * x[j];
    });
    if (a.accumulate) {
        for (int64_t j = 0; j < count; ++j) y[j] += sum[j];
        return;
    }
    for (int64_t j = 0; j < count; ++j) y[j] = sum[j];
}

template <typename T>
MOLEFLOW_INLINE void forward_rows(const ForwardTask<T>& a, int64_t begin, int64_t end) {
    const int64_t channels = a.around.channels;
    for (int64_t row = begin; row < end; ++row) {
        int64_t from = 0;
        for (; from + kBlock <= channels; from += kBlock) forward_block(a, row, from, kBlock);
        if (from < channels) forward_block(a, row, from, channels - from);
    }
}

constexpr int64_t kStrip = 8;  // lines whose sums are formed in T before they go into double

template <typename T>
struct TapsTask {
    Neighbourhood<T> around;
    Rows<const T> x, dy;
    T* sums;  // (strips, k * k + 1, channels), zero at first

    int64_t strips_per_image() const { return (around.grid.height + kStrip - 1) / kStrip; }
    int64_t sums_per_strip() const { return (around.kernel * around.kernel + 1) * around.channels; }
};

// Rows outside, channels inside: what is read streams through, the sums stay in cache.
template <typename T>
MOLEFLOW_INLINE void taps_strip(const TapsTask<T>& a, int64_t strip) {
    const Grid& grid = a.around.grid;
    const int64_t channels = a.around.channels, taps = a.around.kernel * a.around.kernel;
    const int64_t image = strip / a.strips_per_image(), line = strip % a.strips_per_image() * kStrip;
    const int64_t begin = (image * grid.height + line) * grid.width;
    const int64_t end = (image * grid.height + std::min(line + kStrip, grid.height)) * grid.width;
    T* sums = a.sums + strip * a.sums_per_strip();
    for (int64_t row = begin; row < end; ++row) {
        const T* dy = a.dy[row];
        a.around.at(row, [&](int tap, int64_t neighbour) __attribute__((always_inline)) {
            const T* x = a.x[neighbour];
            T* sum = sums + tap * channels;
#pragma GCC ivdep
            for (int64_t j = 0; j < channels; ++j) sum[j] += dy[j] * x[j];
        });
        T* sum = sums + taps * channels;
#pragma GCC ivdep
        for (int64_t j = 0; j < channels; ++j) sum[j] += dy[j];
    }
}

template <typename T>
MOLEFLOW_INLINE void taps_strips(const TapsTask<T>& a, int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip) taps_strip(a, strip);
}

#define MOLEFLOW_CLONES_OF(T)                                                                    \
    MOLEFLOW_VECTOR_CLONES void run(const ForwardTask<T>& a, int64_t begin, int64_t end) {       \
        forward_rows(a, begin, end);                                                             \
    }                                                                                            \
    MOLEFLOW_VECTOR_CLONES void run(const TapsTask<T>& a, int64_t begin, int64_t end) {          \
        taps_strips(a, begin, end);                                                              \
    }
MOLEFLOW_CLONES_OF(float)
MOLEFLOW_CLONES_OF(double)

}  // namespace

template <typename T>
void depthwise_forward(Rows<const T> x, const T* taps, const T* bias, Rows<T> y, Grid grid, int64_t channels,
                       int kernel, bool accumulate, int threads) {
    const ForwardTask<T> task{{grid, channels, kernel}, x, taps, bias, y, accumulate};
    share(grid.images * grid.height * grid.width, threads, [&](int64_t begin, int64_t end, int) { run(task, begin, end); });
}

template <typename T>
void depthwise_backward_taps(Rows<const T> x, Rows<const T> dy, T* dtaps, T* dbias, Grid grid, int64_t channels,
                             int kernel, int threads) {
    TapsTask<T> task{{grid, channels, kernel}, x, dy, nullptr};
    const int64_t strips = grid.images * task.strips_per_image(), taps = static_cast<int64_t>(kernel) * kernel;
    std::vector<T> sums(strips * task.sums_per_strip());
    task.sums = sums.data();
    share(strips, threads, [&](int64_t begin, int64_t end, int) { run(task, begin, end); });
    std::vector<double> total(task.sums_per_strip());
    for (int64_t strip = 0; strip < strips; ++strip) {
        const T* part = task.sums + strip * task.sums_per_strip();
        for (int64_t i = 0; i < task.sums_per_strip(); ++i) total[i] += part[i];
    }
    for (int64_t i = 0; i < taps * channels; ++i) dtaps[i] += static_cast<T>(total[i]);
    for (int64_t j = 0; j < channels; ++j) dbias[j] += static_cast<T>(total[taps * channels + j]);
}

#define MOLEFLOW_INSTANTIATE(T)                                                                                   \
    template void depthwise_forward(Rows<const T>, const T*, const T*, Rows<T>, Grid, int64_t, int, bool, int);   \
    template void depthwise_backward_taps(Rows<const T>, Rows<const T>, T*, T*, Grid, int64_t, int, int);
MOLEFLOW_INSTANTIATE(float)
MOLEFLOW_INSTANTIATE(double)

}  // namespace moleflow::cpu
