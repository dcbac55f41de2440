"""Plans applied on the device: torch operators that run anywhere, Triton kernels where CUDA is.

Plain tensors in and out; nothing else of the package is needed.
"""
