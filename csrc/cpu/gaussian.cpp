#include "cpu/gaussian.h"

#include <cmath>
#include <cstddef>
#include <vector>

#include "cpu/vector_clones.h"

namespace moleflow::cpu {
namespace {

constexpr double kTruncate = 4.0;

int gaussian_radius(double sigma) { return static_cast<int>(kTruncate * sigma + 0.5); }

// Not normalised: weights are divided by their sum over -radius..radius.
double gaussian_weight(int offset, double sigma) { return std::exp(-0.5 * offset * offset / (sigma * sigma)); }

// d c b a | a b c d | d c b a, for any distance beyond the edge.
int reflect(int i, int n) {
    const int period = 2 * n;
    i %= period;
    if (i < 0) i += period;
    return i < n ? i : period - 1 - i;
}

template <typename T>
std::vector<T> normalised_weights(double sigma) {
    const int radius = gaussian_radius(sigma);
    double sum = 0;
    for (int k = -radius; k <= radius; ++k) sum += gaussian_weight(k, sigma);
    std::vector<T> weights(radius + 1);
    for (int k = 0; k <= radius; ++k) weights[k] = static_cast<T>(gaussian_weight(k, sigma) / sum);
    return weights;
}

// sum += weight * (a + b): the two rows or columns at the same distance share a weight.
MOLEFLOW_VECTOR_CLONES void add_pair(float* sum, const float* a, const float* b, float weight, int n) {
    for (int x = 0; x < n; ++x) sum[x] += weight * (a[x] + b[x]);
}
MOLEFLOW_VECTOR_CLONES void add_pair(double* sum, const double* a, const double* b, double weight, int n) {
    for (int x = 0; x < n; ++x) sum[x] += weight * (a[x] + b[x]);
}

template <typename T>
void scale(T* out, const T* in, T weight, int n) {
    for (int x = 0; x < n; ++x) out[x] = weight * in[x];
}

template <typename T>
void smooth_image(const T* in, T* out, int height, int width, const std::vector<T>& weights, std::vector<T>& padded) {
    const int radius = static_cast<int>(weights.size()) - 1;
    padded.resize(width + 2 * radius);
    T* row = padded.data() + radius;
    for (int y = 0; y < height; ++y) {
        scale(row, in + static_cast<int64_t>(y) * width, weights[0], width);
        for (int k = 1; k <= radius; ++k) {
            const T* above = in + static_cast<int64_t>(reflect(y - k, height)) * width;
            const T* below = in + static_cast<int64_t>(reflect(y + k, height)) * width;
            add_pair(row, above, below, weights[k], width);
        }
        for (int k = 1; k <= radius; ++k) {
            row[-k] = row[reflect(-k, width)];
            row[width - 1 + k] = row[reflect(width - 1 + k, width)];
        }
        T* result = out + static_cast<int64_t>(y) * width;
        scale(result, row, weights[0], width);
        for (int k = 1; k <= radius; ++k) add_pair(result, row - k, row + k, weights[k], width);
    }
}

}  // namespace

template <typename T>
void gaussian_smooth(const T* in, T* out, int64_t images, int height, int width, double sigma, int threads) {
    const std::vector<T> weights = normalised_weights<T>(sigma);
    const int64_t pixels = static_cast<int64_t>(height) * width;
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> padded;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < images; ++i) {
            smooth_image(in + i * pixels, out + i * pixels, height, width, weights, padded);
        }
    }
}

template void gaussian_smooth(const float*, float*, int64_t, int, int, double, int);
template void gaussian_smooth(const double*, double*, int64_t, int, int, double, int);

}  // namespace moleflow::cpu
