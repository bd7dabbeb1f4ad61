#pragma once

#include <cstdint>

namespace moleflow::cuda {

// in, out, scratch: device memory, (images, height, width) contiguous fp32. Returns a cudaError_t.
int gaussian_smooth(const float* in, float* out, float* scratch, int64_t images, int height, int width, double sigma,
                    void* stream);
const char* error_text(int error);

}  // namespace moleflow::cuda
