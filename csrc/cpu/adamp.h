// AdamP (Heo et al., ICLR 2021) over all tensors of an optimizer in one call.
#pragma once

#include <cstdint>

namespace moleflow::cpu {

// A parameter as its channel view (rows, columns), contiguous; `step` counts from 1; `group` indexes AdamPGroup.
struct AdamPTensor {
    void* parameter;
    const void* gradient;
    void *exp_avg, *exp_avg_sq;
    int64_t rows, columns;
    bool projects;
    int64_t step, group;
};

struct AdamPGroup {
    double lr, beta1, beta2, eps, weight_decay, delta, wd_ratio, nesterov;
};

// One step; returns the norm of all gradients together. With max_norm >= 0 the step is taken with the gradients scaled
// by min(1, max_norm / (norm + 1e-6)), and not at all where the norm is not finite; they are never written.
// The same to the bit for any number of threads.
template <typename T>
double adamp(const AdamPTensor* tensors, int64_t count, const AdamPGroup* groups, double max_norm, int threads);

}  // namespace moleflow::cpu
