"""Compiling the Triton kernels of a run before they are first launched, side by side, into Triton's own cache."""
