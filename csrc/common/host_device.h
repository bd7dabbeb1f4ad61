// Functions that the CPU and CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define MOLEFLOW_HD __host__ __device__ __forceinline__
#else
#define MOLEFLOW_HD inline __attribute__((always_inline))
#endif
