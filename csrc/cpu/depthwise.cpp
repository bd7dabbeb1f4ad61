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

template <typename T>
struct TapsTask {
    Neighbourhood<T> around;
    Rows<const T> x, dy;
    T *dtaps, *dbias;
};

// All tokens for a block of channels: sums stay in a small buffer, flushed once an image into double.
template <typename T>
MOLEFLOW_INLINE void taps_block(const TapsTask<T>& a, int64_t from, int64_t count, T* run, double* total) {
    const Grid& grid = a.around.grid;
    const int taps = a.around.kernel * a.around.kernel;
    const int64_t tokens = grid.height * grid.width;
    std::fill(total, total + (taps + 1) * kBlock, 0.0);
    for (int64_t image = 0; image < grid.images; ++image) {
        std::fill(run, run + (taps + 1) * kBlock, T(0));
        for (int64_t row = image * tokens; row < (image + 1) * tokens; ++row) {
            const T* dy = a.dy[row] + from;
            a.around.at(row, [&](int tap, int64_t neighbour) __attribute__((always_inline)) {
                const T* x = a.x[neighbour] + from;
                T* sum = run + tap * kBlock;
#pragma GCC ivdep
                for (int64_t j = 0; j < count; ++j) sum[j] += dy[j] * x[j];
            });
            T* sum = run + taps * kBlock;
            for (int64_t j = 0; j < count; ++j) sum[j] += dy[j];
        }
        for (int64_t i = 0; i < (taps + 1) * kBlock; ++i) total[i] += run[i];
    }
    for (int tap = 0; tap < taps; ++tap) {
        T* out = a.dtaps + tap * a.around.channels + from;
        for (int64_t j = 0; j < count; ++j) out[j] += static_cast<T>(total[tap * kBlock + j]);
    }
    for (int64_t j = 0; j < count; ++j) a.dbias[from + j] += static_cast<T>(total[taps * kBlock + j]);
}

template <typename T>
MOLEFLOW_INLINE void taps_blocks(const TapsTask<T>& a, int64_t begin, int64_t end) {
    const int64_t channels = a.around.channels, size = (a.around.kernel * a.around.kernel + 1) * kBlock;
    std::vector<T> run(size);
    std::vector<double> total(size);
    for (int64_t block = begin; block < end; ++block) {
        const int64_t from = block * kBlock;
        taps_block(a, from, std::min(kBlock, channels - from), run.data(), total.data());
    }
}

#define MOLEFLOW_CLONES_OF(T)                                                                    \
    MOLEFLOW_VECTOR_CLONES void run(const ForwardTask<T>& a, int64_t begin, int64_t end) {       \
        forward_rows(a, begin, end);                                                             \
    }                                                                                            \
    MOLEFLOW_VECTOR_CLONES void run(const TapsTask<T>& a, int64_t begin, int64_t end) {          \
        taps_blocks(a, begin, end);                                                              \
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
    const TapsTask<T> task{{grid, channels, kernel}, x, dy, dtaps, dbias};
    share((channels + kBlock - 1) / kBlock, threads, [&](int64_t begin, int64_t end, int) { run(task, begin, end); });
}

#define MOLEFLOW_INSTANTIATE(T)                                                                                   \
    template void depthwise_forward(Rows<const T>, const T*, const T*, Rows<T>, Grid, int64_t, int, bool, int);   \
    template void depthwise_backward_taps(Rows<const T>, Rows<const T>, T*, T*, Grid, int64_t, int, int);
MOLEFLOW_INSTANTIATE(float)
MOLEFLOW_INSTANTIATE(double)

}  // namespace moleflow::cpu
