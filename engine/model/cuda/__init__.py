"""The step of a model on an NVIDIA card: Triton kernels. Nothing outside this package imports Triton.

Triton comes with the CUDA build of torch. On a machine without a card the kernels run in Triton's interpreter, on CPU
tensors, if TRITON_INTERPRET=1 is set before the first import of Triton; so the tests do.
"""
