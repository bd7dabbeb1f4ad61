// Negative log-likelihood of patches under the flow, and the loss of a batch made of it.
#pragma once

#include <cstdint>

namespace moleflow::cpu {

// nll[n] = |z[n]|^2 / 2 + D/2 ln(2 pi) - logdet[n]; z (patches, dim), logdet and nll (patches).
template <typename T>
void patch_nll(const T* z, const T* logdet, T* nll, int64_t patches, int64_t dim, int threads);

// out[n] = weights[n] * z[n]; out and z (patches, dim).
template <typename T>
void scale_patches(const T* z, const T* weights, T* out, int64_t patches, int64_t dim, int threads);

// z (images * patches, dim), logdet and weights (images * patches). Writes loss (1) and weights = d loss / d nll.
// tail 0: mean over images of the sum over patches; else (1 - tail_weight) mean + tail_weight mean of the `tail` largest
// of each image. Either way + lambda mean(logdet^2). An nll that is not finite makes the loss so too.
template <typename T>
void density_loss(const T* z, const T* logdet, T* loss, T* weights, int64_t images, int64_t patches, int64_t dim,
                  int64_t tail, double tail_weight, double lambda, int threads);

// grad (1); dz = grad weights z; dlogdet = grad (2 lambda logdet / patches - weights); patches are those of all images.
template <typename T>
void density_loss_backward(const T* grad, const T* weights, const T* z, const T* logdet, T* dz, T* dlogdet,
                           int64_t patches, int64_t dim, double lambda, int threads);

}  // namespace moleflow::cpu
