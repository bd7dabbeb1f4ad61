#include "cpu/density.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/reductions.h"
#include "cpu/vector_clones.h"

namespace moleflow::cpu {
namespace {

constexpr double kHalfLogTwoPi = 0.91893853320467274178;

template <typename T>
double nll_of(const T* z, T logdet, int64_t dim) {
    return 0.5 * sum_squares(z, dim) + kHalfLogTwoPi * static_cast<double>(dim) - static_cast<double>(logdet);
}

MOLEFLOW_VECTOR_CLONES void scale(const float* in, float factor, float* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = factor * in[i];
}
MOLEFLOW_VECTOR_CLONES void scale(const double* in, double factor, double* out, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[i] = factor * in[i];
}

// Adds `weight` to the weights of the `tail` largest nll of an image and returns their sum; all nll are finite. Equal
// ones are taken in order of their index.
template <typename T>
double take_tail(const double* nll, int64_t patches, int64_t tail, double weight, T* weights) {
    std::vector<int64_t> order(patches);
    std::iota(order.begin(), order.end(), 0);
    const auto end = order.begin() + tail;
    if (tail < patches) {
        std::nth_element(order.begin(), end, order.end(), [nll](int64_t a, int64_t b) {
            return nll[a] != nll[b] ? nll[a] > nll[b] : a < b;
        });
    }
    double sum = 0;
    std::for_each(order.begin(), end, [&](int64_t n) {
        sum += nll[n];
        weights[n] += static_cast<T>(weight);
    });
    return sum;
}

}  // namespace

template <typename T>
void patch_nll(const T* z, const T* logdet, T* nll, int64_t patches, int64_t dim, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < patches; ++n) nll[n] = static_cast<T>(nll_of(z + n * dim, logdet[n], dim));
}

template <typename T>
void scale_patches(const T* z, const T* weights, T* out, int64_t patches, int64_t dim, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < patches; ++n) scale(z + n * dim, weights[n], out + n * dim, dim);
}

template <typename T>
void density_loss(const T* z, const T* logdet, T* loss, T* weights, int64_t images, int64_t patches, int64_t dim,
                  int64_t tail, double tail_weight, double lambda, int threads) {
    const int64_t all = images * patches;
    const auto count = static_cast<double>(images);
    const double base = tail ? (1 - tail_weight) / static_cast<double>(all) : 1 / count;
    const double extra = tail ? tail_weight / (count * static_cast<double>(tail)) : 0;
    std::vector<double> nll(all), terms(images), penalties(images);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int64_t n = 0; n < all; ++n) nll[n] = nll_of(z + n * dim, logdet[n], dim);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < images; ++i) {
            const double* own = nll.data() + i * patches;
            T* own_weights = weights + i * patches;
            const double sum = std::accumulate(own, own + patches, 0.0);
            penalties[i] = sum_squares(logdet + i * patches, patches);
            if (!std::isfinite(sum)) {  // no order among NaN, and a tail could leave an infinity out
                std::fill_n(own_weights, patches, std::numeric_limits<T>::quiet_NaN());
                terms[i] = sum;
                continue;
            }
            std::fill_n(own_weights, patches, static_cast<T>(base));
            terms[i] = base * sum;
            if (tail) terms[i] += extra * take_tail(own, patches, tail, extra, own_weights);
        }
    }
    const double penalty = std::accumulate(penalties.begin(), penalties.end(), 0.0) / static_cast<double>(all);
    *loss = static_cast<T>(std::accumulate(terms.begin(), terms.end(), 0.0) + lambda * penalty);
}

template <typename T>
void density_loss_backward(const T* grad, const T* weights, const T* z, const T* logdet, T* dz, T* dlogdet,
                           int64_t patches, int64_t dim, double lambda, int threads) {
    const auto penalty = static_cast<T>(2 * lambda / static_cast<double>(patches));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < patches; ++n) {
        scale(z + n * dim, *grad * weights[n], dz + n * dim, dim);
        dlogdet[n] = *grad * (penalty * logdet[n] - weights[n]);
    }
}

#define MOLEFLOW_INSTANTIATE(T)                                                                                        \
    template void patch_nll(const T*, const T*, T*, int64_t, int64_t, int);                                            \
    template void scale_patches(const T*, const T*, T*, int64_t, int64_t, int);                                        \
    template void density_loss(const T*, const T*, T*, T*, int64_t, int64_t, int64_t, int64_t, double, double, int);   \
    template void density_loss_backward(const T*, const T*, const T*, const T*, T*, T*, int64_t, int64_t, double, int);
MOLEFLOW_INSTANTIATE(float)
MOLEFLOW_INSTANTIATE(double)
#undef MOLEFLOW_INSTANTIATE

}  // namespace moleflow::cpu
