"""Triton kernels, one file an operation; they know tensors, never modules."""
