#include "cuda/gaussian.h"

#include <cuda_runtime.h>

#include "common/gaussian.h"

namespace moleflow::cuda {
namespace {

constexpr int kThreads = 256;

// One pass along an axis: every thread one output. `stride` is the axis' step, `length` its size.
__global__ void smooth_axis(const float* in, float* out, int64_t total, int length, int64_t stride, double sigma) {
    extern __shared__ float weights[];  // (radius + 1), unnormalised
    const int radius = gaussian_radius(sigma);
    for (int k = threadIdx.x; k <= radius; k += blockDim.x) weights[k] = static_cast<float>(gaussian_weight(k, sigma));
    __syncthreads();
    float sum = weights[0];
    for (int k = 1; k <= radius; ++k) sum += 2 * weights[k];
    const float inverse = 1 / sum;
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += step) {
        const int at = static_cast<int>((i / stride) % length);
        const float* line = in + (i - at * stride);
        float value = weights[0] * line[at * stride];
        for (int k = 1; k <= radius; ++k) {
            value += weights[k] * (line[reflect(at - k, length) * stride] + line[reflect(at + k, length) * stride]);
        }
        out[i] = value * inverse;
    }
}

}  // namespace

int gaussian_smooth(const float* in, float* out, float* scratch, int64_t images, int height, int width, double sigma,
                    void* stream) {
    const int64_t total = images * height * width;
    const auto blocks = static_cast<unsigned>(total / kThreads + 1 < 65535 ? total / kThreads + 1 : 65535);
    const size_t shared = (gaussian_radius(sigma) + 1) * sizeof(float);
    const auto queue = static_cast<cudaStream_t>(stream);
    smooth_axis<<<blocks, kThreads, shared, queue>>>(in, scratch, total, height, width, sigma);
    smooth_axis<<<blocks, kThreads, shared, queue>>>(scratch, out, total, width, 1, sigma);
    return cudaGetLastError();
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace moleflow::cuda
