#include "bindings/subjects.h"
#include "cpu/adamp.h"
#include "cpu/density.h"

namespace moleflow {
namespace {

template <typename T>
void patch_nll(uintptr_t z, uintptr_t logdet, uintptr_t nll, int64_t patches, int64_t dim, int threads) {
    cpu::patch_nll(at<const T>(z), at<const T>(logdet), at<T>(nll), patches, dim, threads);
}

template <typename T>
void scale_patches(uintptr_t z, uintptr_t weights, uintptr_t out, int64_t patches, int64_t dim, int threads) {
    cpu::scale_patches(at<const T>(z), at<const T>(weights), at<T>(out), patches, dim, threads);
}

template <typename T>
void density_loss(uintptr_t z, uintptr_t logdet, uintptr_t loss, uintptr_t weights, int64_t images, int64_t patches,
                  int64_t dim, int64_t tail, double tail_weight, double lambda, int threads) {
    cpu::density_loss(at<const T>(z), at<const T>(logdet), at<T>(loss), at<T>(weights), images, patches, dim, tail,
                      tail_weight, lambda, threads);
}

template <typename T>
void density_loss_backward(uintptr_t grad, uintptr_t weights, uintptr_t z, uintptr_t logdet, uintptr_t dz,
                           uintptr_t dlogdet, int64_t patches, int64_t dim, double lambda, int threads) {
    cpu::density_loss_backward(at<const T>(grad), at<const T>(weights), at<const T>(z), at<const T>(logdet), at<T>(dz),
                               at<T>(dlogdet), patches, dim, lambda, threads);
}

template <typename T>
double adamp(uintptr_t tensors, int64_t count, uintptr_t groups, double max_norm, int threads) {
    return cpu::adamp<T>(at<const cpu::AdamPTensor>(tensors), count, at<const cpu::AdamPGroup>(groups), max_norm,
                         threads);
}

}  // namespace

void bind_training(py::module_& m) {
    MOLEFLOW_BIND_FLOATS(m, "patch_nll", patch_nll);
    MOLEFLOW_BIND_FLOATS(m, "scale_patches", scale_patches);
    MOLEFLOW_BIND_FLOATS(m, "density_loss", density_loss);
    MOLEFLOW_BIND_FLOATS(m, "density_loss_backward", density_loss_backward);
    MOLEFLOW_BIND_FLOATS(m, "adamp", adamp);
}

}  // namespace moleflow
